"""How much of the circuit each domain uses: measures of complexity and their ratio between the domains.

The measures are ours, and are never mixed; their ratio first / second domain is the counterpart of the published ratio
(arXiv 2506.17237), whose formula is not known:
- effective_keys_self, _cross, _joint: mean exp(H) / keys over samples, timesteps and the heads of one kind of
  attention, H the attention entropy in nats: the share of its keys that a query uses. Kinds are not mixed, and a head
  counts by its share: else those with most keys would be all that counts;
- activation_participation: (tr C)^2 / tr C^2 with C the covariance over samples of all heads' mean outputs, each head
  scaled to unit variance over both domains; the number of dimensions the outputs spread over, mean over timesteps. The
  covariance of few samples spreads over too few, so tr C^2 is estimated without bias from products of distinct samples
  (Chen, Zhang & Zhong 2010); the first 1,000 samples at most;
- effective_heads_self, _cross, _joint: (sum e_h)^2 / sum e_h^2 with e_h the output shift when head h of one kind is
  ablated, mean over all timesteps and images: n for n equal heads.
The first two are of images under one and the same condition (`mechanisms.told`), `condition` in their rows. Heads are
ablated while each image is told what it is ("own"), so that what images are and what they are told are not kept apart.
Intervals: percentile bootstrap over images, each domain on its own; of activation participation, whose estimate
resampling would bias, the jackknife of the log ratio. p: permutation of the domain labels, two-sided in the log ratio;
p_holm is Holm's correction over all measures, which share their images. Untrained twins give ratios too, as their
images differ alike: p_untrained is the rank of the model's distance from the median ratio among those of the twins, on
the images that they saw, and p_untrained_max the rank among each twin's largest distance over the measures (max-T,
Westfall & Young 1993; each measure in units of its mean distance over model and twins). `significant`: the interval
holds no 1, p_holm and p_untrained_max are at most alpha, and the ratio lies to the same side of 1 and of the twins.
Twins are not ablated, so effective heads have no such null and are never significant: whether training made a
difference by them cannot be told.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int, Num
from scipy.special import ndtri, stdtrit

from diffmech.attention.store import per_sample
from diffmech.config.analysis import ComplexityConfig
from diffmech.data.groups import GroupTables
from diffmech.interventions.stores import shifts_by_kind
from diffmech.mechanisms.captured import as_many_units, read, sites_of, timesteps_of, units_of
from diffmech.mechanisms.tables import COMPLEXITY
from diffmech.mechanisms.told import Files, open_cells
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import bootstrap_two_groups
from diffmech.statistics.jackknife import jackknife_interval
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import label_permutation, max_statistic_p, permutation_p
from diffmech.statistics.reach import POWER, joint_rank_threshold, smallest_effect, smallest_label_p
from diffmech.statistics.units import number_of_units, over_units

# Leaving out one of n samples at a time costs n^3 per timestep: seconds with these, 64 times as much with 4,000.
MOST_SAMPLES = 1000
KEYS, HEADS = "effective_keys_", "effective_heads_"
OWN = "own"  # the condition of images that are told what they are
OF_TWINS = ("untrained_low", "untrained_high", "untrained_n", "p_untrained", "p_untrained_max")


def circuit_complexity(
    files: Files,
    copies: Files,
    ablation: Mapping[str, Sequence[Path]],
    output: Path,
    *,
    domains: Sequence[str],
    complexity: ComplexityConfig,
    method: str,
    seed: int,
    groups: GroupTables | None = None,
) -> None:
    """Write the complexity of both domains and its ratio, one row per measure.

    `files` and `copies` are the attention stores of the denoiser and of its untrained twins by what images are told and
    domain, `ablation` (group heads) stores by domain; `method` is the ablation whose output shift counts. Columns about
    twins are empty where there is no such null. Raises StoreError where the stores lack the method, heads, or the
    heads' outputs. Where `groups` are given (tables by domain), n and all else are of their units.
    """
    cells = open_cells(files, copies, domains, groups)
    trees, twins, seen = cells.trees[cells.reference], cells.copies[cells.reference], cells.seen[cells.reference]
    shifts = {f"{HEADS}{kind}": found for kind, found in shifts_by_kind(ablation, domains, method, groups).items()}
    kinds = dict.fromkeys(site.kind for site in sites_of(next(iter(trees.values()))))
    keys = {
        f"{KEYS}{kind}": {domain: _share_of_keys(tree, kind, timesteps_of(tree)) for domain, tree in trees.items()}
        for kind in kinds
    }
    timesteps = timesteps_of(next(iter(trees.values())))
    every = {domain: np.arange(tree.sizes["sample"]) for domain, tree in trees.items()}
    chosen, _ = as_many_units(trees, every, MOST_SAMPLES)
    products = (_head_products(trees, timestep, chosen) for timestep in timesteps)
    alike, n = as_many_units(trees, seen, MOST_SAMPLES)
    of_alike = {domain: np.flatnonzero(np.isin(positions, alike[domain])) for domain, positions in seen.items()}
    ratios = {}
    for variant in keys:
        kind = variant.removeprefix(KEYS)
        of_twins = [_share_of_keys(twins[domain], kind, timesteps).mean(axis=-1) for domain in trees]
        on_seen = [_share_of_keys(tree, kind, timesteps, seen[domain]).mean() for domain, tree in trees.items()]
        ratio = on_seen[0] / on_seen[1]
        ratios[variant] = (ratio, of_twins[0] / of_twins[1])
    ratios |= {
        "activation_participation": (
            _participation_ratios(trees, timesteps, alike)[0],
            _participation_ratios(twins, timesteps, of_alike),
        ),
    }
    table = complexity_table(shifts, keys, products, ratios, copies_n=n, complexity=complexity, seed=seed)
    condition = np.where(table["variant"].str.startswith(HEADS), OWN, cells.reference)
    table.insert(1, "condition", condition)
    COMPLEXITY.write(output, table)


def complexity_table(
    shifts: Mapping[str, Mapping[str, Float[np.ndarray, "_sample _head"]]],
    keys: Mapping[str, Mapping[str, Float[np.ndarray, "_sample"]]],
    products: Iterable[Float[np.ndarray, "sample sample"]],
    copies: Mapping[str, tuple[float, Float[np.ndarray, "twin"]]],
    *,
    copies_n: int,
    complexity: ComplexityConfig,
    seed: int,
) -> pd.DataFrame:
    """Return the table of `circuit_complexity`, with every decision, from what was measured of each image.

    By measure (one per kind of attention) and domain: `shifts` are output shifts of single heads, `keys` effective
    keys. `products`, one array per timestep, are inner products of head outputs between as many samples of the first
    domain, then of the second. `copies` gives, by measure, the model's ratio on the `copies_n` images per domain that
    the untrained twins saw, and the twins' ratios.
    """
    rows = [
        *(compare(variant, values, lambda mean: mean, complexity, seed) for variant, values in keys.items()),
        _activation_participation(tuple(next(iter(keys.values()))), products, complexity, seed),
        *(compare(variant, values, effective_number, complexity, seed) for variant, values in shifts.items()),
    ]
    against = against_untrained(copies, copies_n, complexity.alpha)
    missing = dict.fromkeys(OF_TWINS, np.nan)
    corrected = np.asarray(holm([row["p"] for row in rows]))
    for row, p_holm in zip(rows, corrected, strict=True):
        twins = against.get(str(row["variant"]))
        least = len(rows) * smallest_label_p(row["n_first"], row["n_second"], complexity.permutations)
        # to the same side of equality and of the twins
        apart = (row["low"] > 1 and twins.above) or (row["high"] < 1 and not twins.above) if twins else False
        row |= {
            "p_holm": p_holm,
            "p_least": min(1.0, least),
            **(twins.columns if twins else missing),
        }
        row["smallest_ratio"] = smallest_ratio(row, twins, complexity, len(rows))
        row["significant"] = apart and max(p_holm, row["p_untrained_max"]) <= complexity.alpha
    return pd.DataFrame(rows).astype({"untrained_n": "Int64"})


@dataclass(frozen=True)
class AgainstUntrained:
    """Columns of the table about the twins of a measure, and, for the log ratio: the median of model and twins,
    the distance from it that p_untrained_max at alpha takes, and whether the model's lies above it."""

    columns: dict[str, float]
    middle: float
    needed: float
    above: bool


def against_untrained(
    copies: Mapping[str, tuple[float, Float[np.ndarray, "twin"]]], n: int, alpha: float
) -> dict[str, AgainstUntrained]:
    """Return by measure the range of the twins' ratios and the ranks of the model's among them, raw and joint.

    Ranked by the distance from the median of all, in logarithms, so two-sided. A model that is itself untrained is
    exchangeable with its twins: its chance of any p_untrained_max at or below alpha is at most alpha. Measures of which
    a ratio is NaN are left out.
    """
    logs = {variant: np.log(np.concatenate([[ratio], twins])) for variant, (ratio, twins) in copies.items()}
    logs = {variant: values for variant, values in logs.items() if np.isfinite(values).all()}
    if not logs:
        return {}
    values = np.stack(list(logs.values()), axis=1)  # (model and twins, measure)
    middle = np.median(values, axis=0)
    distance = np.abs(values - middle)
    scale = np.where(distance.any(axis=0), distance.mean(axis=0), 1)
    scaled = distance / scale
    p = np.asarray(permutation_p(distance[0], distance[1:]))
    joint = np.asarray(max_statistic_p(scaled[0], scaled[1:]))
    needed = joint_rank_threshold(distance[1:], scaled[1:], alpha)
    found = {}
    for column, variant in enumerate(logs):
        columns = {
            "untrained_low": float(np.exp(values[1:, column].min())),
            "untrained_high": float(np.exp(values[1:, column].max())),
            "untrained_n": n,
            "p_untrained": float(p[column]),
            "p_untrained_max": float(joint[column]),
        }
        above = bool(values[0, column] > middle[column])
        found[variant] = AgainstUntrained(columns, float(middle[column]), float(needed[column]), above)
    return found


def smallest_ratio(
    row: Mapping[str, Any], twins: AgainstUntrained | None, complexity: ComplexityConfig, tests: int
) -> float:
    """Return the ratio above 1 that is found with 80 % power: told from shuffled labels and, where there are, twins.

    By normal theory, from the width of the interval of the log ratio; on the images that the twins saw it is wider by
    the root of their number. NaN without an interval, infinite where the twins are too few to tell.
    """
    freedom = row["n_first"] + row["n_second"] - 2
    if not 0 < row["low"] <= row["high"]:
        return float("nan")
    error = np.log(row["high"] / row["low"]) / (2 * stdtrit(freedom, (1 + complexity.confidence) / 2))
    least = float(smallest_effect(error, freedom, alpha=complexity.alpha, tests=tests))
    if twins:
        wider = np.sqrt(min(row["n_first"], row["n_second"]) / twins.columns["untrained_n"])
        least = max(least, twins.middle + twins.needed + ndtri(POWER) * error * wider)
    return float(np.exp(least))


def effective_number(effects: Float[np.ndarray, "*set head"]) -> Float[np.ndarray, "*set"]:
    """Return (sum e)^2 / sum e^2 over the last axis, NaN where all are 0: n for n equal effects, 1 for a single one."""
    square = (effects**2).sum(axis=-1)
    return np.divide(effects.sum(axis=-1) ** 2, square, out=np.full(square.shape, np.nan), where=square > 0)


def compare(
    variant: str,
    values: Mapping[str, Float[np.ndarray, "_sample ..."]],
    measure: Callable[[Float[np.ndarray, "draw ..."]], Float[np.ndarray, "draw"]],
    complexity: ComplexityConfig,
    seed: int,
) -> dict[str, Any]:
    """Return the row of a measure that is a function of means over samples of `values` by domain."""
    (first, a), (second, b) = values.items()
    ratio = bootstrap_two_groups(
        lambda mean_a, mean_b: measure(mean_a) / measure(mean_b),
        a,
        b,
        draws=complexity.draws,
        confidence=complexity.confidence,
        seed=seed,
        method="percentile",  # an effective number bends within its interval
    )
    observed, null = label_permutation(
        lambda mean_a, mean_b: np.abs(np.log(measure(mean_a) / measure(mean_b))),
        a,
        b,
        permutations=complexity.permutations,
        seed=seed,
    )
    estimates = [float(measure(group.mean(axis=0, keepdims=True))[0]) for group in (a, b)]
    p = float(permutation_p(observed, null))
    ends = (float(ratio.low), float(ratio.high))
    return _row(variant, (first, second), (estimates[0], estimates[1]), ends, p, (len(a), len(b)))


def participation(
    gram: Float[np.ndarray, "sample sample"], members: Num[np.ndarray, "set sample"]
) -> Float[np.ndarray, "set"]:
    """Return (tr C)^2 / tr C^2 of the population that each set of samples is from.

    `gram` holds the samples' inner products, so C need not be formed; `members` are 1 for samples of the set and 0 for
    others. tr C and tr C^2 are U-statistics: unbiased, however few the samples. NaN for fewer than 4, and where they
    are too few for tr C^2 to come out positive.
    """
    own = np.diagonal(gram)
    products = gram - np.diag(own)
    with_others, squares_with_others = members @ products, members @ products**2
    pairs = (squares_with_others * members).sum(axis=1)
    chains = ((with_others**2 - squares_with_others) * members).sum(axis=1)
    total = (with_others * members).sum(axis=1)
    apart = total**2 - 4 * chains - 2 * pairs
    n = members.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        two = n * (n - 1)
        three = two * (n - 2)
        square = pairs / two - 2 * chains / three + apart / (three * (n - 3))
        trace = members @ own / n - total / two
        return np.where(square > 0, trace**2 / square, np.nan)


def _activation_participation(
    domains: tuple[str, ...], products: Iterable[np.ndarray], complexity: ComplexityConfig, seed: int
) -> dict[str, Any]:
    left_out: np.ndarray | float = 0.0
    relabelled: np.ndarray | float = 0.0
    n = timesteps = 0
    for gram in products:
        if not timesteps:
            n = len(gram) // 2
            without_one = np.concatenate([np.ones((1, n)), 1 - np.eye(n)])
            as_first = _relabelled(n, complexity.permutations, seed)
        timesteps += 1
        groups = ((gram[:n, :n], as_first), (gram[n:, n:], 1 - as_first))
        left_out = left_out + np.stack([participation(own, without_one) for own, _ in groups])
        relabelled = relabelled + np.stack([participation(gram, members) for _, members in groups])
    left_out, relabelled = np.asarray(left_out) / timesteps, np.asarray(relabelled)
    size = np.abs(np.log(relabelled[0] / relabelled[1]))
    first_left_out, second_left_out = np.log(left_out[:, 1:])
    estimates = left_out[:, 0]
    ends = (np.nan, np.nan)
    if np.isfinite(left_out).all():
        ratio = jackknife_interval(
            np.log(estimates[0] / estimates[1]), first_left_out, second_left_out, confidence=complexity.confidence
        )
        ends = (float(np.exp(ratio.low)), float(np.exp(ratio.high)))
    p = float(permutation_p(size[0], size[1:]))
    both = (float(estimates[0]), float(estimates[1]))
    return _row("activation_participation", domains, both, ends, p, (n, n))


def _relabelled(n: int, permutations: int, seed: int) -> Num[np.ndarray, "permutation sample"]:
    """Return which samples count as the first domain, the true labels in the first row."""
    labels = np.repeat([1.0, 0.0], n)[None]
    permuted = generator(seed, "activation permutation", n).permuted(np.repeat(labels, permutations, axis=0), axis=1)
    return np.concatenate([labels, permuted])


def _share_of_keys(
    tree: xr.DataTree, kind: str, timesteps: Sequence[int], samples: Int[np.ndarray, "sample"] | None = None
) -> Float[np.ndarray, "*twin unit"]:
    """Return exp(H) / keys of every unit, mean over timesteps and the heads of a kind, ([twin,] unit)."""
    array = per_sample(tree, "entropy", kind).sel(timestep=list(timesteps))
    entropy = (array if samples is None else array.isel(sample=samples)).values.astype(np.float64)
    keys = np.concatenate([np.full(len(site.heads), site.keys) for site in sites_of(tree) if site.kind == kind])
    return over_units((np.exp(entropy) / keys).mean(axis=(-2, -1)), units_of(tree, samples), axis=-1)


def _participation_ratios(
    trees: Mapping[str, xr.DataTree], timesteps: Sequence[int], samples: Mapping[str, Int[np.ndarray, "_sample"]]
) -> Float[np.ndarray, "twin"]:
    """Return the ratio of activation participation of each model in `trees`, (twin,), of one that is no twin (1,)."""
    n = min(number_of_units(len(rows), units_of(trees[domain], rows)) for domain, rows in samples.items())
    everyone = np.ones((1, n))
    found = []
    for timestep in timesteps:
        grams = _head_products(trees, timestep, samples).reshape(-1, 2 * n, 2 * n)
        found.append([[participation(own, everyone)[0] for own in (g[:n, :n], g[n:, n:])] for g in grams])
    first, second = np.mean(found, axis=0).T
    return first / second


def _head_products(
    trees: Mapping[str, xr.DataTree], timestep: int, samples: Mapping[str, Int[np.ndarray, "_sample"]]
) -> Float[np.ndarray, "*twin sample sample"]:
    """Return the inner products of the mean outputs of all heads between samples, ([twin,] sample, sample).

    The samples are those of both domains; each head is scaled to unit variance over them. One site at a time, so that
    memory does not grow with their number.
    """
    products: np.ndarray | float = 0.0
    for site in sites_of(next(iter(trees.values()))):
        outputs = np.concatenate(
            [
                over_units(
                    read(tree, site, "output_mean", timestep, samples=samples[domain]),
                    units_of(tree, samples[domain]),
                    axis=-3,
                )
                for domain, tree in trees.items()
            ],
            axis=-3,
        )
        centred = outputs - outputs.mean(axis=-3, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-3, keepdims=True).sum(axis=-1, keepdims=True))
        scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
        flat = scaled.reshape(*scaled.shape[:-2], -1)
        products = products + (flat @ flat.swapaxes(-1, -2)).astype(np.float64)
    return np.asarray(products)


def _row(
    variant: str,
    domains: tuple[str, ...],
    estimates: tuple[float, float],
    ends: tuple[float, float],
    p: float,
    sizes: tuple[int, int],
) -> dict[str, Any]:
    return {
        "variant": variant,
        "domain_first": domains[0],
        "first": estimates[0],
        "domain_second": domains[1],
        "second": estimates[1],
        "ratio": estimates[0] / estimates[1],
        "low": ends[0],
        "high": ends[1],
        "p": p,
        "n_first": sizes[0],
        "n_second": sizes[1],
    }
