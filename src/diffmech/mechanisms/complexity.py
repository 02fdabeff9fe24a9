"""How much of the circuit each domain uses: three measures of complexity and their ratio between the domains.

The measures are ours, and are never mixed; their ratio first / second domain is the counterpart of the published ratio
(arXiv 2506.17237), whose formula is not known:
- effective_heads: (sum e_h)^2 / sum e_h^2 with e_h the output shift when head h is ablated, mean over all timesteps
  and images: n for n equal heads;
- effective_keys: mean exp(H) over samples, timesteps and heads, H the attention entropy in nats;
- activation_participation: (tr C)^2 / tr C^2 with C the covariance over samples of all heads' mean outputs, each head
  scaled to unit variance over both domains; the number of dimensions the outputs spread over, mean over timesteps. The
  covariance of few samples spreads over too few, so tr C^2 is estimated without bias from products of distinct samples
  (Chen, Zhang & Zhong 2010); the first 1,000 samples at most.
Intervals: percentile bootstrap over images, each domain on its own; of activation participation, whose estimate
resampling would bias, the jackknife of the log ratio. p: permutation of the domain labels, two-sided in the log ratio.
Untrained twins give ratios too, as their images differ alike; p_untrained is the rank of the model's among them, on the
images that they saw. They are not ablated, so effective_heads has no such null.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from diffmech.artifacts import write_csv
from diffmech.attention.store import per_sample
from diffmech.config.analysis import ComplexityConfig
from diffmech.errors import StoreError
from diffmech.interventions.stores import open_ablation, texts
from diffmech.mechanisms.captured import open_domains, open_untrained, read, sites_of, timesteps_of
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import bootstrap_two_groups
from diffmech.statistics.jackknife import jackknife_interval
from diffmech.statistics.permutation import label_permutation, permutation_p

# Leaving out one of n samples at a time costs n^3 per timestep: seconds with these, 64 times as much with 4,000.
MOST_SAMPLES = 1000


def circuit_complexity(
    attention: Mapping[str, Sequence[Path]],
    untrained: Mapping[str, Path],
    ablation: Mapping[str, Sequence[Path]],
    output: Path,
    *,
    complexity: ComplexityConfig,
    method: str,
    seed: int,
) -> None:
    """Write the complexity of both domains and its ratio, one row per measure.

    `attention` and `ablation` (group heads) are stores by domain, `untrained` the store of untrained twins of each;
    `method` is the ablation whose output shift counts. Columns: variant, domain_first, first, domain_second, second,
    ratio, low, high, p, n_first, n_second, untrained_low, untrained_high (range of the twins' ratios on `untrained_n`
    images per domain), p_untrained; these are empty where there is no such null. Raises StoreError where the stores
    lack the method, heads, or the heads' outputs.
    """
    trees = open_domains(attention)
    twins, seen = open_untrained(untrained, trees)
    shifts = {domain: read_shifts(ablation[domain], method) for domain in trees}
    keys = {domain: _keys(tree, timesteps_of(tree)) for domain, tree in trees.items()}
    first, second = trees
    keys_seen = keys[first][seen[first]].mean() / keys[second][seen[second]].mean()
    twin_keys = {domain: _keys(twin, timesteps_of(trees[domain])).mean(axis=-1) for domain, twin in twins.items()}
    n = min(len(positions) for positions in seen.values())
    alike = {domain: positions[:n] for domain, positions in seen.items()}
    dimensions_seen = _participation_ratios(trees, timesteps_of(trees[first]), alike)[0]
    twin_dimensions = _participation_ratios(twins, timesteps_of(trees[first]), dict.fromkeys(twins, np.arange(n)))
    rows = [
        compare("effective_heads", shifts, effective_number, complexity, seed),
        compare("effective_keys", keys, lambda mean: mean, complexity, seed)
        | against_untrained(keys_seen, twin_keys[first] / twin_keys[second], n),
        _activation_participation(trees, complexity, seed) | against_untrained(dimensions_seen, twin_dimensions, n),
    ]
    write_csv(output, pd.DataFrame(rows).astype({"untrained_n": "Int64"}))


def against_untrained(ratio: float, twins: np.ndarray, n: int) -> dict[str, float]:
    """Return the range of the twins' ratios (twin,) and the rank p-value of the model's among them.

    Ranked by the distance from the median of all, in logarithms, so two-sided. A model that is itself untrained is
    exchangeable with its twins: its chance of a p at or below alpha is at most alpha. Nothing where a ratio is NaN.
    """
    logs = np.log(np.concatenate([[ratio], twins]))
    if not np.isfinite(logs).all():
        return {}
    distance = np.abs(logs - np.median(logs))
    return {
        "untrained_low": float(twins.min()),
        "untrained_high": float(twins.max()),
        "untrained_n": n,
        "p_untrained": float(permutation_p(distance[0], distance[1:])),
    }


def effective_number(effects: np.ndarray) -> np.ndarray:
    """Return (sum e)^2 / sum e^2 over the last axis, NaN where all are 0: n for n equal effects, 1 for a single one."""
    square = (effects**2).sum(axis=-1)
    return np.divide(effects.sum(axis=-1) ** 2, square, out=np.full(square.shape, np.nan), where=square > 0)


def compare(
    variant: str,
    values: Mapping[str, np.ndarray],
    measure: Callable[[np.ndarray], np.ndarray],
    complexity: ComplexityConfig,
    seed: int,
) -> dict[str, object]:
    """Return the row of a measure that is a function of means over samples of `values` (sample, ...) by domain."""
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


def participation(gram: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return (tr C)^2 / tr C^2 of the population that each set of samples is from, (set,).

    `gram` (sample, sample) holds the samples' inner products, so C need not be formed; `members` (set, sample) are 1
    for samples of the set and 0 for others. tr C and tr C^2 are U-statistics: unbiased, however few the samples. NaN
    for fewer than 4, and where they are too few for tr C^2 to come out positive.
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


def read_shifts(stores: Sequence[Path | str], method: str) -> np.ndarray:
    """Return the output shift of every ablated head, mean over all timesteps of an image, (sample, head).

    `stores` are those of one domain, all shards and blocks. Raises StoreError where they lack the method.
    """
    data = open_ablation(stores)
    methods = texts(data["method"]).tolist()
    if method not in methods:
        raise StoreError(f"{stores[0]}: has no ablation {method!r}; it has {methods}, give one of these")
    shift = data["shift"].isel(method=methods.index(method)).transpose("sample", "target", "timestep")
    return np.asarray(shift.values, dtype=np.float64).mean(axis=-1)


def _activation_participation(
    trees: Mapping[str, xr.DataTree], complexity: ComplexityConfig, seed: int
) -> dict[str, object]:
    first, second = trees
    n = min(MOST_SAMPLES, *(tree.sizes["sample"] for tree in trees.values()))
    without_one = np.concatenate([np.ones((1, n)), 1 - np.eye(n)])
    labels = np.repeat([1.0, 0.0], n)[None]
    permuted = generator(seed, "activation permutation", n).permuted(
        np.repeat(labels, complexity.permutations, axis=0), axis=1
    )
    as_first = np.concatenate([labels, permuted])
    timesteps = timesteps_of(trees[first])
    left_out, relabelled = np.zeros((2, 1 + n)), np.zeros((2, 1 + complexity.permutations))
    for timestep in timesteps:
        gram = _head_products(trees, timestep, dict.fromkeys(trees, np.arange(n)))
        for domain, (own, members) in enumerate(((gram[:n, :n], as_first), (gram[n:, n:], 1 - as_first))):
            left_out[domain] += participation(own, without_one) / len(timesteps)
            relabelled[domain] += participation(gram, members) / len(timesteps)
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
    return _row("activation_participation", (first, second), both, ends, p, (n, n))


def _keys(tree: xr.DataTree, timesteps: Sequence[int]) -> np.ndarray:
    """Return the effective keys of every sample, mean over timesteps and heads, ([twin,] sample)."""
    return np.exp(per_sample(tree, "entropy").sel(timestep=list(timesteps)).values).mean(axis=(-2, -1))


def _participation_ratios(
    trees: Mapping[str, xr.DataTree], timesteps: Sequence[int], samples: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return the ratio of activation participation of each model in `trees`, (twin,), of one that is no twin (1,)."""
    n = len(next(iter(samples.values())))
    everyone = np.ones((1, n))
    found = []
    for timestep in timesteps:
        grams = _head_products(trees, timestep, samples).reshape(-1, 2 * n, 2 * n)
        found.append([[participation(own, everyone)[0] for own in (g[:n, :n], g[n:, n:])] for g in grams])
    first, second = np.mean(found, axis=0).T
    return first / second


def _head_products(trees: Mapping[str, xr.DataTree], timestep: int, samples: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the inner products of the mean outputs of all heads between samples, ([twin,] sample, sample).

    The samples are those of both domains; each head is scaled to unit variance over them. One site at a time, so that
    memory does not grow with their number.
    """
    products: np.ndarray | float = 0.0
    for site in sites_of(next(iter(trees.values()))):
        outputs = np.concatenate(
            [read(tree, site, "output_mean", timestep, samples=samples[domain]) for domain, tree in trees.items()],
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
    domains: tuple[str, str],
    estimates: tuple[float, float],
    ends: tuple[float, float],
    p: float,
    sizes: tuple[int, int],
) -> dict[str, object]:
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
        **dict.fromkeys(("untrained_low", "untrained_high", "untrained_n", "p_untrained"), np.nan),
    }
