"""The tables of what replacing, patching and attributing heads gives."""

from diffmech.attention.tables import HEAD
from diffmech.data.tables import DOMAIN
from diffmech.models.tables import TIMESTEP, N
from diffmech.tables import Column, Table, flag, interval, number, text, whole

MAX_T = "Westfall & Young 1993"
RANK = "Phipson & Smyth 2010"
GROUP = text("kind of target: heads, layers, mechanisms")
TARGET = text("head, layer or mechanism that is replaced")
METHOD = text("what replaces the heads' outputs: mean, mean_pooled, zero, resample, uniform")
HEADS = whole("heads of the target")
MEASURE = text("denoising loss: effects are changes of it; output shift, on a sampling trajectory")
WINDOW = {
    "window": text("timesteps over which the effect is a mean: all, or first-last"),
    "window_first": whole("first timestep of the window", ""),
    "window_last": whole("last timestep of the window", ""),
}


def _effect(family: str) -> dict[str, Column]:
    """Return the columns of an effect whose corrections are over `family`."""
    return {
        "effect_percent": number(
            "mean over images of the change, in percent of the clean loss (or of the output)", "%"
        ),
        **interval("the effect", "%"),
        "p_zero": number("p against no effect: random signs over images", source=RANK),
        "p_zero_holm": number(f"the same after Holm's correction over {family}", source="Holm 1979"),
        "p_zero_max": number(f"the same corrected by the largest statistic over {family}", source=MAX_T),
        "smallest_effect": number("effect that would be found four times in five", "%"),
        "shift": number("output shift: mean squared change of the prediction over the mean square of the clean one"),
        **interval("the shift", "1", "shift_"),
        "control_mean": number(
            "mean effect of sets of matched heads; of heads and layers, of all others of their kind", "%"
        ),
        **interval("these effects", "%", "control_", "quantiles over sets, or others"),
        "control_sd": number("standard deviation of the effect over these sets", "%"),
        "control_percentile": number("percentile of the effect among these sets", "%"),
        "p_control": number("rank of the effect among sets of matched heads", source=RANK),
        "p_sets_adjusted": number(f"the same corrected over {family}", source=MAX_T),
        "p_heads_adjusted": number("rank among random choices of as many heads, corrected alike", source=MAX_T),
        "p_control_adjusted": number("the larger of the two ranks", source="Berger 1982"),
        "smallest_effect_control": number("effect that would exceed both kinds of controls", "%"),
        "control_pool": text("where controls are drawn from: site (the same layers), kind (of attention) or any"),
        "control_overlap": number("mean share of heads that two sets have in common"),
        "control_ratio": number("size of what the matched heads write over that of the target's heads"),
        **interval("that ratio", prefix="control_ratio_", how="range over sets"),
        "controls": whole("sets of matched heads"),
        "controls_fair": flag("whether these sets match in every domain"),
        "verdict": text("what may be claimed of the target"),
        "off_distribution": number("how far replacing moves what the heads write, over the size of what they write"),
        "heads": HEADS,
        "n": N,
        "measure": MEASURE,
    }


_TARGET = {"domain": DOMAIN, "group": GROUP, "target": TARGET, "method": METHOD}

EFFECTS = Table(
    name="effects",
    path="results/ablation/{model}/effects.csv",
    row="a target replaced by one method in one domain, at a timestep or over all",
    about="Whether heads, layers and mechanisms matter: what replacing their outputs does, beside controls.",
    columns={
        **_TARGET,
        "timestep": text("timestep of the scheduler, or all"),
        **_effect("targets and domains; of single timesteps also over these"),
        "effect_mean": number("mean over timesteps of the effect at each, in percent of its own clean loss", "%"),
        **interval("that mean", "%", "effect_mean_"),
        "weight": number("share of the clean loss by which the timestep counts in the effect over all", "%"),
    },
)

WINDOWS = Table(
    name="windows",
    path="results/ablation/{model}/windows.csv",
    row="a target replaced by one method in one domain, within a window of timesteps",
    about="When heads, layers and mechanisms matter.",
    columns={
        **_TARGET,
        **WINDOW,
        "timesteps": whole("captured timesteps in the window"),
        **_effect("targets, windows and domains"),
        "significant": flag("whether p_zero_max is at most alpha"),
    },
)

_PATCHED = {
    "domain": DOMAIN,
    "source": text("what the second pass is: another sample, the other domain, or a changed attribute"),
    "group": GROUP,
    "target": text("head, layer or mechanism that is patched"),
    "direction": text("denoising: clean into counterfactual (sufficient); noising: the other way (necessary)"),
}

PATCHING = Table(
    name="patching",
    path="results/patching/{model}/effects.csv",
    row="a target patched from one source in one direction and dose, within a window",
    about="What heads carry: how much of the difference between two inputs passes through them.",
    columns={
        **_PATCHED,
        "dose": number("share of the difference that is patched in: 1 = all of it"),
        **WINDOW,
        "effect": number("share of the difference between the two predictions that is undone or brought about"),
        **interval("the effect"),
        "p_zero": number("p against no effect: random signs over images", source=RANK),
        "p_zero_holm": number("the same after Holm's correction over targets", source="Holm 1979"),
        "p_zero_max": number("the same corrected by the largest statistic over targets and windows", source=MAX_T),
        "control_mean": number("mean effect of all other targets of the same kind of attention"),
        **interval("these effects", prefix="control_", how="quantiles over targets"),
        "control_percentile": number("percentile of the effect among these targets", "%"),
        "p_control": number("rank of the effect among these targets", source=RANK),
        "p_control_adjusted": number("the same corrected over targets", source=MAX_T),
        "off": number("size of the change that is not along the difference, as a share of it"),
        "difference": number("mean squared difference of the two predictions"),
        "kind": text("kind of attention of the target: self, cross, joint or several"),
        "heads": HEADS,
        "n": N,
        "smallest": number("effect that would be found four times in five"),
        "significant": flag("whether p_zero_max is at most alpha"),
    },
)

DOSES = Table(
    name="doses",
    path="results/patching/{model}/doses.csv",
    row="a target patched from one source in one direction",
    about="Whether an effect grows in proportion to the dose.",
    columns={
        **_PATCHED,
        "doses": text("doses that were run, ascending"),
        "slope": number("effect per dose, by least squares through zero"),
        **interval("the slope", prefix="slope_"),
        "departure": number("mean over doses d but 0 and 1 of effect(d) - d effect(1): 0 where proportional"),
        **interval("the departure", prefix="departure_"),
        "p_linear": number("p of proportionality: random signs of the departure over images", source=RANK),
        "p_linear_max": number("the same corrected over targets", source=MAX_T),
        "monotone": flag("whether the effect grows, or falls, with every dose"),
        "n": N,
    },
)

ATTRIBUTION = Table(
    name="attribution",
    path="results/circuit/{model}/attribution.csv",
    row="a head at a timestep in one domain, by one variant of attribution",
    about="What gradients say that removing each head would do, beside what it does.",
    columns={
        "domain": DOMAIN,
        "variant": text("gradient, or integrated along the path between both outputs"),
        "head": HEAD,
        "timestep": TIMESTEP,
        "estimate": number("estimated change of the loss, mean over images", source="Syed et al. 2023"),
        **interval("the estimate"),
        "exact": number("change of the loss when the head is replaced, mean over images"),
        "n": N,
        "measure": MEASURE,
    },
)
