"""The table of what removed heads do to whole images."""

from diffmech.data.tables import DOMAIN
from diffmech.interventions.tables import GROUP, HEADS, TARGET
from diffmech.tables import Table, flag, interval, number, text, whole

RESAMPLING = Table(
    name="resampling",
    path="results/resampling/{model}/effects.csv",
    row="a measure of the images sampled again without one target, within a window",
    about="What whole images lose or gain when heads are removed while they are made.",
    columns={
        "domain": DOMAIN,
        "group": GROUP,
        "target": TARGET,
        "window": text("timesteps at which heads are removed: all, or first-last"),
        "measure": text("ssim, mse, fd, kid, attribute:<name> or asked:<name>"),
        "clean": number("the measure of the clean images"),
        "effect": number("ssim, mse: likeness to, error against the clean image of the same seed; else the change"),
        **interval("the effect", how="ssim, mse: bootstrap over images; attributes: of the median; fd, kid: none"),
        "p_zero": number("p against no effect: sign test; fd, kid: images swapped", source="Arbuthnott 1710; ours"),
        "p_zero_holm": number("the same after Holm's correction over targets, windows, attributes", source="Holm 1979"),
        "control_mean": number("mean effect of removing matched heads"),
        **interval("the effect of removing matched heads", prefix="control_", how="quantiles over sets"),
        "p_control": number("rank of the effect among matched heads", source="Phipson & Smyth 2010"),
        "p_control_adjusted": number(
            "the same corrected over targets, domains and attributes", source="Westfall & Young 1993"
        ),
        "control_pool": text("where controls are drawn from: site (the same layers), kind (of attention) or any"),
        "control_overlap": number("mean share of heads that two sets have in common"),
        "control_ratio": number("size of what the matched heads write over that of the target's heads"),
        **interval("that ratio", prefix="control_ratio_", how="range over sets"),
        "controls": whole("sets of matched heads"),
        "controls_fair": flag("whether these sets match"),
        "flipped": number("share of images in which the judge's verdict flips"),
        "heads": HEADS,
        "steps_removed": whole(
            "sampling steps at which any of its heads was replaced: where it is meant to be, and runs"
        ),
        "steps": whole("sampling steps of an image"),
        "n": whole("images"),
    },
)
