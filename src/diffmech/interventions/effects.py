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
times in five, `smallest_effect_control` the one that, by its own error, exceeds both kinds of controls so often, beside
these and those of all other mechanisms as they are; infinite where no effect would (`decisions.least_beyond`). Balance
of the controls: `control_pool`, `controls` (distinct sets), `control_overlap`, `control_ratio` with `control_ratio_low`
and `control_ratio_high`, `controls_fair`. The definitions are ours (A8).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri

from diffmech.config.analysis import AblationConfig
from diffmech.data.groups import GroupTables, groups_of
from diffmech.errors import StoreError
from diffmech.interventions.choices import Choices, sums_over_choices
from diffmech.interventions.controls import BALANCE, against_others, balance, control_summary, matched_within
from diffmech.interventions.decisions import NOT_REMOVED, decide
from diffmech.interventions.measures import DENOISING_LOSS
from diffmech.interventions.stores import in_units, open_ablation, ran_on, texts, with_units
from diffmech.interventions.tables import EFFECTS
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.reach import POWER, smallest_effect
from diffmech.tables import ALL, Table

OVER_TIMESTEPS = ["effect_mean", "effect_mean_low", "effect_mean_high", "weight"]
PART = ["effect_percent", "error"]  # `error` is the standard error of an effect
SMALLEST = ["smallest_effect", "smallest_effect_control"]
TESTED = ["p_zero", "p_zero_max", "p_control", "p_sets_adjusted", "p_heads_adjusted", "p_control_adjusted"]


@dataclass(frozen=True)
class Span:
    """Timesteps over which an effect is taken: `inside`, and `family`, the spans corrected together."""

    name: str
    inside: Bool[np.ndarray, "timestep"]
    family: int = 0


def ablation_effects(
    stores: Mapping[str, Mapping[str, Sequence[Path | str]]],
    output_csv: Path | str,
    *,
    ablation: AblationConfig,
    seed: int,
    groups: GroupTables | None = None,
) -> None:
    """Write the table of effects from the ablation stores of each domain and group (all shards and blocks).

    An effect is the change of the denoising loss, or, on a sampling trajectory, the output shift: `measure` says which.

    Rows are sorted by domain, group, target, method and timestep, "all" first. `groups` are the tables of groups of
    images of those domains that have any: their units are then what is resampled, and n their number. Raises StoreError
    where a store is missing or where they do not belong together.
    """
    opened = open_groups(stores, groups)
    tables = [
        effects_of_group(domains, group, ablation=ablation, seed=seed, heads=opened.get("heads"))
        for group, domains in opened.items()
    ]
    EFFECTS.write(output_csv, in_order(tables, EFFECTS))


def open_groups(
    stores: Mapping[str, Mapping[str, Sequence[Path | str]]], tables: GroupTables | None = None
) -> dict[str, dict[str, xr.Dataset]]:
    """Return the ablations of each group of heads and domain from the stores of each domain and group, both sorted.

    `tables` say which images belong together; images are marked with their unit.
    """

    def opened(domain: str, paths: Sequence[Path | str]) -> xr.Dataset:
        data = open_ablation(paths)
        return with_units(data, groups_of(tables or {}, domain, data["sample"].values))

    groups = sorted({group for of_domain in stores.values() for group in of_domain})
    return {
        group: {domain: opened(domain, paths[group]) for domain, paths in sorted(stores.items()) if group in paths}
        for group in groups
    }


def in_order(tables: Sequence[pd.DataFrame], declared: Table) -> pd.DataFrame:
    """Return the tables of groups as one, sorted by domain and group; the order within these stays."""
    if not tables:
        return declared.frame()
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

    `domains` are what `open_ablation` returns of each, perhaps marked with units, `heads` the same of single heads,
    against whose choices mechanisms are held. `spans` are by default all timesteps, and each. Rows are sorted by
    domain, target, method and span. Raises StoreError where the domains differ in what was ablated.
    """
    first = next(iter(domains.values()))
    for domain, data in domains.items():
        if not np.array_equal(texts(data["members"]), texts(first["members"])):
            raise StoreError(
                f"{domain}: other {group} or controls were ablated than in {next(iter(domains))}; "
                "delete the ablation stores of both and let the workflow make them anew"
            )
    spans = each_timestep(first["timestep"].values) if spans is None else spans
    tables = [
        _effects_of_method(
            {name: in_units(data.isel(method=place, sample=ran_on(data, place))) for name, data in domains.items()},
            group,
            spans,
            {name: in_units(data) for name, data in heads.items()} if heads and place == 0 else None,
            # Controls answer one question, whether a target stands out, so one method is enough.
            controlled=group == "mechanisms" and place == 0,
            ablation=ablation,
            seed=seed,
        )
        for place in range(first.sizes["method"])
    ]
    order = ["domain", "target", "method", "place"]
    return EFFECTS.in_order(pd.concat(tables).sort_values(order, kind="stable", ignore_index=True))


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
    is_target = owners == ""
    own = first.isel(target=is_target)
    targets, members = texts(own["target"]).tolist(), texts(own["members"].transpose("target", "timestep"))
    means = [_means(data, spans) for data in domains.values()]
    measured = [_measured(mean, spans, is_target, ablation, seed) for mean in means]
    # (target, domain, span)
    shape = (len(targets), len(means), len(spans))
    later = [*TESTED, "p_zero_holm", *SMALLEST, *OVER_TIMESTEPS]  # filled by family, or of the first span alone
    found: dict[str, np.ndarray] = {name: np.full(shape, np.nan) for name in later}
    found |= {name: np.stack([each[name] for each in measured], axis=1) for name in measured[0]}
    found["verdict"] = np.full(shape, "", dtype=object)
    fair = balance(own, "controls_fair", False).astype(bool)
    controls = _controls_within(domains, means, owners, fair, spans) if controlled else None
    choices = None
    if controlled and heads is not None:
        pools = np.where(fair, balance(own, "control_pool", ""), "").tolist()
        choices = sums_over_choices(members.tolist(), pools, targets, heads, _masks(spans), seed=seed)
    effects = found["effect_percent"]
    compared = against_others(own, effects) if controls is None else (effects, controls)
    found |= control_summary(*compared, confidence=ablation.confidence)
    changes = [mean.ablated[:, is_target] - mean.clean[:, None] for mean in means]
    for family in dict.fromkeys(span.family for span in spans):
        inside = np.flatnonzero([span.family == family for span in spans])
        tests = _tested(
            {name: found[name][..., inside] for name in PART},
            [each[..., inside] for each in changes],
            None if controls is None else [each[..., inside] for each in controls],
            fair,
            None if choices is None else [each.within(inside) for each in choices],
            ablation,
            seed,
        )
        for name, values in tests.items():
            found[name][..., inside] = values
    for place, span in enumerate(spans):
        nowhere = ~(members[:, span.inside] != "").any(axis=1)
        found["verdict"][nowhere, :, place] = NOT_REMOVED
        for name in (*TESTED, *SMALLEST, "p_zero_holm", "control_percentile"):
            found[name][nowhere, :, place] = np.nan
    index = pd.MultiIndex.from_product(
        [targets, list(domains), [span.name for span in spans]], names=["target", "domain", "timestep"]
    )
    table = pd.DataFrame({name: values.ravel() for name, values in found.items()}, index=index).reset_index()
    of_target = {"heads": own["heads"].values, "control_pool": balance(own, "control_pool", ""), "controls_fair": fair}
    for name, values in (of_target | {name: balance(own, name, np.nan) for name in BALANCE}).items():
        table[name] = np.repeat(values, len(table) // len(targets))
    images = {domain: data.sizes["sample"] for domain, data in domains.items()}
    table = table.assign(group=group, n=table["domain"].map(images), place=np.arange(len(table)) % len(spans))
    return table.assign(method=str(first["method"].values), measure=first.attrs.get("measure", DENOISING_LOSS))


def _controls_within(
    domains: Mapping[str, xr.Dataset],
    means: Sequence["_Means"],
    owners: np.ndarray,
    fair: np.ndarray,
    spans: Sequence[Span],
) -> list[np.ndarray]:
    """Return the effects of the controls of each target (draw, domain, span), NaN where they do not match it."""
    every = np.stack([_percent(mean.ablated.mean(0), mean.clean.mean(0)) for mean in means], axis=1)
    names = texts(next(iter(domains.values()))["target"])
    found = []
    for row, ok in zip(np.flatnonzero(owners == ""), fair, strict=True):
        theirs = owners == names[row]
        alike = np.array([matched_within(data, theirs, int(row), _masks(spans)) for data in domains.values()])
        found.append(np.where(alike, every[theirs] if ok else every[:0], np.nan))
    return found


def _masks(spans: Sequence[Span]) -> list[np.ndarray]:
    return [span.inside for span in spans]


def _tested(
    part: Mapping[str, np.ndarray],
    changes: Sequence[np.ndarray],
    controls: Sequence[np.ndarray] | None,
    fair: np.ndarray,
    choices: Sequence[Choices] | None,
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
        sizes=True,
    )
    least = [
        smallest_effect(part["error"][:, place], len(each) - 1, alpha=ablation.alpha, tests=decided.p_zero.size)
        for place, each in enumerate(changes)
    ]
    return {
        **{name: getattr(decided, name) for name in (*TESTED, "verdict")},
        "p_zero_holm": holm(decided.p_zero),
        "smallest_effect": np.stack(least, axis=1),
        "smallest_effect_control": decided.least_beyond + ndtri(POWER) * part["error"],
    }


def each_timestep(timesteps: Int[np.ndarray, "timestep"]) -> list[Span]:
    """Return all `timesteps` as one span, and each as one; the latter are corrected together."""
    every = Span(ALL, np.ones(len(timesteps), dtype=bool))
    return [every, *(Span(str(timestep), timesteps == timestep, 1) for timestep in timesteps)]


@dataclass(frozen=True)
class _Means:
    """Means over the timesteps of each span: `clean`, `ablated` and `shift`.

    `off` is the mean distance off over those timesteps at which a head is replaced.
    """

    clean: Float[np.ndarray, "sample span"]
    ablated: Float[np.ndarray, "sample target span"]
    shift: Float[np.ndarray, "sample target span"]
    off: Float[np.ndarray, "target span"]


def _means(data: xr.Dataset, spans: Sequence[Span]) -> _Means:
    def over(values: np.ndarray) -> np.ndarray:
        return np.stack([values[..., span.inside].mean(axis=-1) for span in spans], axis=-1)

    ablated, shift = (
        data[name].transpose("sample", "target", "timestep").values.astype(np.float64)
        for name in ("mse_ablated", "shift")
    )
    distance = data["distance_off"].mean("sample").transpose("target", "timestep").values
    replaced = texts(data["members"].transpose("target", "timestep")) != ""
    off = [
        (distance * replaced)[..., span.inside].sum(-1) / np.maximum(replaced[..., span.inside].sum(-1), 1)
        for span in spans
    ]
    clean = data["mse_clean"].transpose("sample", "timestep").values.astype(np.float64)
    return _Means(over(clean), over(ablated), over(shift), np.stack(off, axis=-1))


def _measured(
    mean: _Means, spans: Sequence[Span], is_target: np.ndarray, ablation: AblationConfig, seed: int
) -> dict[str, np.ndarray]:
    """Return what is measured of each target in one domain, (target, span) each."""
    ablated, clean = mean.ablated[:, is_target], mean.clean[:, None, :]
    draws, confidence = ablation.draws, ablation.confidence
    effect = bootstrap_statistic(_percent, ablated, clean, draws=draws, confidence=confidence, seed=seed)
    shift = bootstrap_mean(mean.shift[:, is_target], draws=draws, confidence=confidence, seed=seed)
    # the influence of each image on the ratio of means
    influence = ablated - clean * (ablated.mean(0) / clean.mean(0))
    error = 100 * influence.std(axis=0, ddof=min(1, len(clean) - 1)) / clean.mean(0) / np.sqrt(len(clean))
    measured = {"effect_percent": effect.estimate, "low": effect.low, "high": effect.high, "error": error}
    measured |= {"shift": shift.estimate, "shift_low": shift.low, "shift_high": shift.high}
    if [span.name for span in spans[:1]] == [ALL]:
        measured |= _over_timesteps(ablated, clean, ablation, seed)
    return {name: np.asarray(values) for name, values in measured.items()} | {"off_distribution": mean.off[is_target]}


def _over_timesteps(
    ablated: np.ndarray, clean: np.ndarray, ablation: AblationConfig, seed: int
) -> dict[str, np.ndarray | float]:
    """Return the mean of the effects of the timesteps, in the first of the spans (all of them), and their weights.

    `ablated` (sample, target, span), `clean` (sample, 1, span).
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
    losses = clean[:, 0, 1:].mean(axis=0)
    shares = 100 * np.concatenate([[1.0], losses / losses.sum()])
    return found | {"weight": np.broadcast_to(shares, shape)}


def _percent(ablated: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return 100 * (ablated / clean - 1)
