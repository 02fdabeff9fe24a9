"""How much each ablation hurts: per target, method, domain and timestep, with intervals, nulls, corrections, verdicts.

effect_percent = 100 (mean mse_ablated / mean mse_clean - 1): by how much the denoising loss rises. The means are over
samples, and over timesteps too in the rows "all": there a timestep counts as much as its share of the clean loss, which
is `weight` (percent) in its own row, so that low noise, where the loss is large, decides. Beside it effect_mean is the
mean over timesteps of their effects in percent, each counting alike; it is empty in the rows of single timesteps. A
method other than the first may have run on fewer images: each row has its own n, and takes its clean losses from the
same images. Intervals are studentised bootstraps over samples, ablated and clean
in step. Two questions are asked of every effect, and they differ:

- is there any? p_zero: two-sided sign-flip permutation test of the mean paired difference mse_ablated - mse_clean
  (Fisher's randomisation test: under the null the differences are symmetric about 0);
- is it more than that of other heads? p_control, of mechanisms with the first method only, which have controls that are
  run on the same images (`targets.matched_controls`); `decisions` says how it is found, and what `verdict` it makes
  with p_zero_max. Heads and layers have no controls: their `control_` columns hold the range of all the others of
  their kind of attention, a yardstick and no test.

The family of a correction is all targets of a group in all domains (one method) in the rows "all", and all targets x
timesteps x domains in the other rows. `smallest_effect` is the effect in percent that the test against zero finds four
times in five, `smallest_effect_control` the one that exceeds the matched sets so often, beside the sets of all other
mechanisms as they are (`p_sets_adjusted`; random choices of heads may ask for more). Balance of the controls:
`control_pool`, `controls` (distinct sets), `control_overlap`, `control_ratio` with `control_ratio_low` and
`control_ratio_high`, `controls_fair`. The definitions are ours (A8).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import ndtri

from diffmech.artifacts import write_csv
from diffmech.config.analysis import AblationConfig
from diffmech.errors import StoreError
from diffmech.interventions.choices import sums_over_choices
from diffmech.interventions.decisions import NOT_REMOVED, decide
from diffmech.interventions.measures import DENOISING_LOSS
from diffmech.interventions.stores import open_ablation, ran_on, texts
from diffmech.interventions.targets import EACH, ON_AVERAGE
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic
from diffmech.statistics.controls import smallest_beyond
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p
from diffmech.statistics.reach import POWER, smallest_effect

WHOLE = "all"
OVER_TIMESTEPS = ["effect_mean", "effect_mean_low", "effect_mean_high", "weight"]
COLUMNS = [
    *["domain", "group", "target", "method", "timestep"],
    *["effect_percent", "low", "high", "p_zero", "p_zero_holm", "p_zero_max", "smallest_effect"],
    *["shift", "shift_low", "shift_high"],
    *["control_mean", "control_low", "control_high", "control_sd", "control_percentile"],
    *["p_control", "p_sets_adjusted", "p_heads_adjusted", "p_control_adjusted", "smallest_effect_control"],
    *["control_pool", "control_overlap", "control_ratio", "control_ratio_low", "control_ratio_high"],
    *["controls", "controls_fair", "verdict"],
    *["off_distribution", "heads", "n", "measure"],
    *OVER_TIMESTEPS,
]
BALANCE = ["control_overlap", "control_ratio", "control_ratio_low", "control_ratio_high", "controls"]
# The columns that `effects_of_group` fills with numbers; `error` is the standard error of an effect.
NUMBERS = [*COLUMNS[5:25], "off_distribution", *OVER_TIMESTEPS, "error"]
PART = ["effect_percent", "error"]
TESTED = ["p_zero", "p_zero_max", "p_control", "p_sets_adjusted", "p_heads_adjusted", "p_control_adjusted"]


@dataclass(frozen=True)
class Span:
    """Timesteps over which an effect is taken: `inside` (timestep,), and `family`, the spans corrected together."""

    name: str
    inside: np.ndarray
    family: int = 0


def ablation_effects(
    stores: Mapping[str, Mapping[str, Sequence[Path | str]]],
    output_csv: Path | str,
    *,
    ablation: AblationConfig,
    seed: int,
) -> None:
    """Write the table of effects from the ablation stores of each domain and group (all shards and blocks).

    An effect is the change of the denoising loss, or, on a sampling trajectory, the output shift: `measure` says which.

    Rows are sorted by domain, group, target, method and timestep, "all" first. Raises StoreError where a store is
    missing or where they do not belong together.
    """
    opened = open_groups(stores)
    tables = [
        effects_of_group(domains, group, ablation=ablation, seed=seed, heads=opened.get("heads"))
        for group, domains in opened.items()
    ]
    write_csv(output_csv, in_order(tables, COLUMNS))


def open_groups(stores: Mapping[str, Mapping[str, Sequence[Path | str]]]) -> dict[str, dict[str, xr.Dataset]]:
    """Return the ablations of each group and domain from the stores of each domain and group, both sorted."""
    groups = sorted({group for of_domain in stores.values() for group in of_domain})
    return {
        group: {domain: open_ablation(paths[group]) for domain, paths in sorted(stores.items()) if group in paths}
        for group in groups
    }


def in_order(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Return the tables of groups as one, sorted by domain and group; the order within these stays."""
    if not tables:
        return pd.DataFrame(columns=list(columns))
    return pd.concat(tables, ignore_index=True).sort_values(["domain", "group"], kind="stable", ignore_index=True)


def effects_of_group(
    domains: Mapping[str, xr.Dataset],
    group: str,
    *,
    ablation: AblationConfig,
    seed: int,
    heads: Mapping[str, xr.Dataset] | None = None,
    spans: Sequence[Span] | None = None,
) -> pd.DataFrame:
    """Return the rows of one group in all domains, which are corrected together.

    `domains` are what `open_ablation` returns of each, `heads` the same of single heads, against whose choices
    mechanisms are held. `spans` are by default all timesteps, and each. Rows are sorted by domain, target, method and
    span. Raises StoreError where the domains differ in what was ablated.
    """
    first = next(iter(domains.values()))
    for domain, data in domains.items():
        if not np.array_equal(texts(data["members"]), texts(first["members"])):
            raise StoreError(
                f"{domain}: other {group} or controls were ablated than in {next(iter(domains))}; make anew"
            )
    spans = each_timestep(first["timestep"].values) if spans is None else spans
    tables = [
        _effects_of_method(
            {name: data.isel(method=[place], sample=ran_on(data, place)) for name, data in domains.items()},
            group,
            spans,
            heads if place == 0 else None,
            # Controls answer one question, whether a target stands out, so one method is enough.
            controlled=group == "mechanisms" and place == 0,
            ablation=ablation,
            seed=seed,
        )
        for place in range(first.sizes["method"])
    ]
    order = ["domain", "target", "method", "place"]
    return pd.concat(tables).sort_values(order, kind="stable", ignore_index=True)[COLUMNS]


def _effects_of_method(
    domains: Mapping[str, xr.Dataset],
    group: str,
    spans: Sequence[Span],
    heads: Mapping[str, xr.Dataset] | None,
    *,
    controlled: bool,
    ablation: AblationConfig,
    seed: int,
) -> pd.DataFrame:
    """Return the rows of the one method of `domains`, which ran on all of their samples; `place` is that of a span."""
    first = next(iter(domains.values()))
    owners = texts(first["control_of"])
    own, is_target = first.isel(target=owners == ""), owners == ""
    targets, methods = texts(own["target"]).tolist(), texts(own["method"]).tolist()
    means = [_means(data, spans) for data in domains.values()]
    # (target, method, domain, span)
    shape = (len(targets), len(methods), len(means), len(spans))
    found: dict[str, np.ndarray] = {name: np.full(shape, np.nan) for name in NUMBERS}
    found["verdict"] = np.full(shape, "", dtype=object)
    for place, mean in enumerate(means):
        for name, values in _measured(mean, spans, is_target, ablation, seed).items():
            found[name][:, :, place] = values
    fair = balance(own, "controls_fair", False).astype(bool)
    for method in range(len(methods)):
        controls = choices = None
        if controlled:
            # (target, domain, span)
            every = np.stack([_percent(mean.ablated[:, :, 0].mean(0), mean.clean.mean(0)) for mean in means], axis=1)
            controls = [every[owners == name] if ok else every[:0] for name, ok in zip(targets, fair, strict=True)]
            matched = [
                _matched(data, owners == name, row, spans)
                for row, name in zip(np.flatnonzero(is_target).tolist(), targets, strict=True)
                for data in domains.values()
            ]
            alike = np.reshape(matched, (len(targets), len(domains), len(spans)))
            controls = [np.where(ok, draws, np.nan) for ok, draws in zip(alike, controls, strict=True)]
            if heads is not None:
                pools = np.where(fair, balance(own, "control_pool", ""), "").tolist()
                members = texts(own["members"].transpose("target", "timestep")).tolist()
                masks = [span.inside for span in spans]
                choices = sums_over_choices(members, pools, targets, heads, masks, seed=seed)
        compared = against_others(own, found["effect_percent"][:, method])
        if controls is not None:
            compared = compared[0], controls
        for name, values in control_summary(*compared, confidence=ablation.confidence).items():
            found[name][:, method] = values if name != "p_control" else np.nan
        changes = [mean.ablated[:, is_target, method] - mean.clean[:, None] for mean in means]
        for family in dict.fromkeys(span.family for span in spans):
            inside = np.flatnonzero([span.family == family for span in spans])
            part = {name: found[name][:, method][..., inside] for name in PART}
            draws = None if controls is None else [each[..., inside] for each in controls]
            chosen = None if choices is None else [each[..., inside] for each in choices]
            tests = _tested(part, [each[..., inside] for each in changes], draws, fair, chosen, ablation, seed)
            for name, values in tests.items():
                found[name][:, method][..., inside] = values
    removed = (texts(own["members"].transpose("target", "timestep")) != "")[:, None, None]
    for place, span in enumerate(spans):
        nowhere = ~removed[..., span.inside].any(axis=-1)
        found["verdict"][..., place] = np.where(nowhere, NOT_REMOVED, found["verdict"][..., place])
        found["smallest_effect"][..., place] = np.where(nowhere, np.nan, found["smallest_effect"][..., place])
    index = pd.MultiIndex.from_product(
        [targets, methods, list(domains), [span.name for span in spans]],
        names=["target", "method", "domain", "timestep"],
    )
    table = pd.DataFrame({name: values.ravel() for name, values in found.items()}, index=index).reset_index()
    of_target = {"heads": own["heads"].values, "control_pool": balance(own, "control_pool", ""), "controls_fair": fair}
    for name, values in (of_target | {name: balance(own, name, np.nan) for name in BALANCE}).items():
        table[name] = np.repeat(values, len(table) // len(targets))
    images = {domain: data.sizes["sample"] for domain, data in domains.items()}
    table = table.assign(group=group, n=table["domain"].map(images), place=np.arange(len(table)) % len(spans))
    table["measure"] = first.attrs.get("measure", DENOISING_LOSS)
    return table


def _tested(
    part: Mapping[str, np.ndarray],
    changes: Sequence[np.ndarray],
    controls: Sequence[np.ndarray] | None,
    fair: np.ndarray,
    choices: Sequence[np.ndarray] | None,
    ablation: AblationConfig,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return p-values, verdicts and what could have been seen of one family, (target, domain, span) each."""
    decided = decide(
        part["effect_percent"],
        changes,
        controls,
        fair,
        choices,
        alpha=ablation.alpha,
        permutations=ablation.permutations,
        seed=seed,
    )
    alpha, tests = ablation.alpha, decided.p_zero.size
    least = [
        smallest_effect(part["error"][:, place], len(each) - 1, alpha=alpha, tests=tests)
        for place, each in enumerate(changes)
    ]
    beyond = np.full(decided.p_zero.shape, np.nan)
    if controls is not None:
        flat = [np.reshape(draws, (len(draws), beyond[0].size)) for draws in controls]
        needed = smallest_beyond(part["effect_percent"].reshape(len(flat), -1), flat, alpha)
        beyond = needed.reshape(beyond.shape) + ndtri(POWER) * part["error"]
    return {
        **{name: getattr(decided, name) for name in (*TESTED, "verdict")},
        "p_zero_holm": holm(decided.p_zero),
        "smallest_effect": np.stack(least, axis=1),
        "smallest_effect_control": beyond,
    }


def _matched(data: xr.Dataset, controls: np.ndarray, row: int, spans: Sequence[Span]) -> list[bool]:
    """Return whether the controls of target `row` match it in one domain within each span: over all, they were sought.

    By how far the ablation moves their heads there, as `targets.matched_controls` asks over all timesteps.
    """
    squares = np.square(data["size"].transpose("target", "timestep").values)
    alike = []
    for span in spans:
        own, others = squares[row, span.inside].sum(), squares[controls][:, span.inside].sum(axis=1)
        if span.name == WHOLE or not own or not len(others):
            alike.append(True)
            continue
        logs = np.log(np.maximum(others, 1e-30) / own) / 2
        alike.append(bool(np.abs(logs).max() <= math.log(EACH) and abs(logs.mean()) <= math.log(ON_AVERAGE)))
    return alike


def balance(own: xr.Dataset, name: str, otherwise: object) -> np.ndarray:
    """Return a column of the balance of the controls of each target, `otherwise` where no controls were sought."""
    if name not in own:
        return np.full(own.sizes["target"], otherwise)
    return texts(own[name]) if isinstance(otherwise, str) else own[name].values


def each_timestep(timesteps: np.ndarray) -> list[Span]:
    """Return all `timesteps` as one span, and each as one; the latter are corrected together."""
    every = Span(WHOLE, np.ones(len(timesteps), dtype=bool))
    return [every, *(Span(str(timestep), timesteps == timestep, 1) for timestep in timesteps)]


@dataclass(frozen=True)
class _Means:
    """Means over the timesteps of each span: `clean` (sample, span), `ablated` and `shift` (sample, target, method,
    span), `off` (target, method, span), the mean distance off over those timesteps at which a head is replaced."""

    clean: np.ndarray
    ablated: np.ndarray
    shift: np.ndarray
    off: np.ndarray


def _means(data: xr.Dataset, spans: Sequence[Span]) -> _Means:
    def over(values: np.ndarray) -> np.ndarray:
        return np.stack([values[..., span.inside].mean(axis=-1) for span in spans], axis=-1)

    ablated, shift = (
        data[name].transpose("sample", "target", "method", "timestep").values.astype(np.float64)
        for name in ("mse_ablated", "shift")
    )
    distance = data["distance_off"].mean("sample").transpose("target", "method", "timestep").values
    replaced = (texts(data["members"].transpose("target", "timestep")) != "")[:, None]
    off = [
        (distance * replaced)[..., span.inside].sum(-1) / np.maximum(replaced[..., span.inside].sum(-1), 1)
        for span in spans
    ]
    clean = data["mse_clean"].transpose("sample", "timestep").values.astype(np.float64)
    return _Means(over(clean), over(ablated), over(shift), np.stack(off, axis=-1))


def _measured(
    mean: _Means, spans: Sequence[Span], is_target: np.ndarray, ablation: AblationConfig, seed: int
) -> dict[str, np.ndarray]:
    """Return what is measured of each target in one domain, (target, method, span) each."""
    ablated, clean = mean.ablated[:, is_target], mean.clean[:, None, None, :]
    draws, confidence = ablation.draws, ablation.confidence
    effect = bootstrap_statistic(_percent, ablated, clean, draws=draws, confidence=confidence, seed=seed)
    shift = bootstrap_mean(mean.shift[:, is_target], draws=draws, confidence=confidence, seed=seed)
    # the influence of each image on the ratio of means
    influence = ablated - clean * (ablated.mean(0) / clean.mean(0))
    error = 100 * influence.std(axis=0, ddof=min(1, len(clean) - 1)) / clean.mean(0) / np.sqrt(len(clean))
    measured = {"effect_percent": effect.estimate, "low": effect.low, "high": effect.high, "error": error}
    measured |= {"shift": shift.estimate, "shift_low": shift.low, "shift_high": shift.high}
    if [span.name for span in spans[:1]] == [WHOLE]:
        measured |= _over_timesteps(ablated, clean, ablation, seed)
    return {name: np.asarray(values) for name, values in measured.items()} | {"off_distribution": mean.off[is_target]}


def _over_timesteps(
    ablated: np.ndarray, clean: np.ndarray, ablation: AblationConfig, seed: int
) -> dict[str, np.ndarray | float]:
    """Return the mean of the effects of the timesteps, in the first of the spans (all of them), and their weights.

    `ablated` and `clean` are (sample, target, method, span).
    """
    relative = bootstrap_statistic(
        lambda own, base: _percent(own, base).mean(axis=-1),
        ablated[..., 1:],
        clean[..., 1:],
        draws=ablation.draws,
        confidence=ablation.confidence,
        seed=seed,
    )
    shape = ablated.shape[1:]
    found: dict[str, np.ndarray | float] = {}
    for name, values in zip(OVER_TIMESTEPS, (relative.estimate, relative.low, relative.high), strict=False):
        found[name] = np.concatenate([np.asarray(values)[..., None], np.full((*shape[:-1], shape[-1] - 1), np.nan)], -1)
    losses = clean[:, 0, 0, 1:].mean(axis=0)
    shares = 100 * np.concatenate([[1.0], losses / losses.sum()])
    return found | {"weight": np.broadcast_to(shares, shape)}


def _percent(ablated: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return 100 * (ablated / clean - 1)


def against_others(data: xr.Dataset, effect: np.ndarray | float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the effects (target, ...) and for each target those of the others of its kind."""
    effects, kinds = np.asarray(effect), texts(data["kind"])
    others = [(kinds == kind) & (np.arange(len(kinds)) != row) for row, kind in enumerate(kinds)]
    return effects, [effects[chosen] for chosen in others]


def control_summary(effects: np.ndarray, controls: list[np.ndarray], *, confidence: float) -> dict[str, np.ndarray]:
    """Return mean, central range, standard deviation, percentile and p of `effects` (target, ...) among the controls.

    `controls` of each target are (draw, ...). The range holds `confidence` of them. Ties count half in the percentile,
    and fully in p.
    """
    names = ("control_mean", "control_low", "control_high", "control_sd", "control_percentile", "p_control")
    result = {name: np.full(effects.shape, np.nan) for name in names}
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    for row, draws in enumerate(controls):
        if not len(draws):
            continue
        value, there = effects[row], np.isfinite(draws).all(axis=0)
        below = (draws < value).mean(axis=0) + 0.5 * (draws == value).mean(axis=0)
        low, high = np.quantile(draws, tails, axis=0)
        spread = draws.std(axis=0, ddof=1) if len(draws) > 1 else np.full(value.shape, np.nan)
        of_row = (draws.mean(axis=0), low, high, spread, 100 * below, permutation_p(value, draws))
        for name, values in zip(names, of_row, strict=True):
            result[name][row] = np.where(there, values, np.nan)
    return result


def corrected(p: np.ndarray) -> np.ndarray:
    """Return Holm's p-values of p (target, method, column): over targets in column 0, over all the rest together."""
    adjusted = np.empty_like(p)
    for method in range(p.shape[1]):
        adjusted[:, method, 0] = holm(p[:, method, 0])
        adjusted[:, method, 1:] = holm(p[:, method, 1:])
    return adjusted
