"""Bootstrap intervals of means, and of anything that is a function of means.

A resample of n independent units is a vector of multinomial counts, so every resampled mean of every column is one
matrix product, `counts / n @ values`. Ratios of means, differences, percentages and participation ratios of means are
functions of those means and cost nothing more. Axis 0 is the unit of resampling: it must be the independent thing (an
image, a patient, a seed). Where a unit holds several measurements, pass per-unit sums and per-unit counts and divide
their means: that is the cluster bootstrap of a ratio.

Three kinds of intervals, for the few images that an ablation is run on as for thousands:

- `studentised` (bootstrap-t, Efron 1982, Hall 1988), the default: each draw is measured in units of its own standard
  error, which the delta method gives from the influence of each unit. For means and ratios of means, also of skewed
  values. No end lies beyond the most extreme draw, so that a share stays between 0 and 1 (ours).
- `percentile` (Efron 1979), widened for small samples by reading further out, as Student's t is wider than the normal
  distribution (Hesterberg 2015), for two groups with the degrees of freedom of Welch 1947. For functions of means that
  bend within the interval, such as an effective number of heads, and the only one that keeps its ends under monotone
  transformations.
- `bca` (bias-corrected and accelerated, Efron 1987; DiCiccio & Efron 1996 for several independent groups), widened
  likewise.

Draw k depends on (seed, n, k) only, so more draws extend a run and two calls on the same units are resampled alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

from diffmech.randomness import generator
from diffmech.statistics.samples import finite_samples, plain

Method = Literal["studentised", "percentile", "bca"]
Statistic = Callable[..., Any]

# 8 million float64 numbers are 64 MB: the largest weight or mean matrix that is held at once
BLOCK_ELEMENTS = 2**23
# wide enough for a fast matrix product; 2,000 draws of it are 64 MB
COLUMNS_AT_ONCE = 4096
# standard errors between a draw without a spread of its own and the estimate: finite, so that it can be interpolated
FARTHEST = 1e100
# beyond every draw, and still a number between 0 and 1 from either side
OUTERMOST = 1e-9


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval."""

    estimate: Float[np.ndarray, "*shape"] | float
    low: Float[np.ndarray, "*shape"] | float
    high: Float[np.ndarray, "*shape"] | float


def resampling_weights(n: int, draws: int, seed: int) -> Float[np.ndarray, "draw sample"]:
    """Return the weights of `draws` resamples of `n` units: multinomial counts divided by n.

    Each row sums to 1. These are the weights that every function of this module uses for its first group, so a
    statistic that is no function of means (an AUC over patients, say) can be resampled in step with the others.
    """
    _check_draws(draws)
    if n < 1:
        raise ValueError(f"cannot resample n={n} units; at least 1 is needed")
    source = _weight_source(n, seed, group=0)
    return np.concatenate([_weights(source, n, size) for size in block_sizes(draws, n)])


def bootstrap_mean(
    values: ArrayLike, *, draws: int = 2000, confidence: float = 0.95, seed: int = 0, method: Method = "studentised"
) -> Interval:
    """Return the mean of `values` `(sample, ...)` over axis 0 and its bootstrap interval, each of shape `(...)`.

    All columns are resampled alike. Fewer than 2 samples give the estimate with NaN ends: one unit carries no
    information on its spread. Raises ValueError for NaN or infinite values, since dropping them would change the
    population in silence.
    """
    array = np.asarray(values)
    if array.ndim == 0:
        raise ValueError("values is a single number; expected an array with samples along axis 0")
    shape = array.shape[1:]
    columns = array.reshape(len(array), int(np.prod(shape)))
    # the statistic is per column, so columns can be done in pieces: memory does not grow with their number
    pieces = [
        _interval(_itself, [(columns[:, start : start + COLUMNS_AT_ONCE],)], draws, confidence, seed, method)
        for start in range(0, max(columns.shape[1], 1), COLUMNS_AT_ONCE)
    ]
    estimate, low, high = (np.concatenate(parts).reshape(shape) for parts in zip(*pieces, strict=True))
    return _as_interval((estimate, low, high))


def bootstrap_statistic(
    statistic: Statistic,
    *arrays: ArrayLike,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    method: Method = "studentised",
) -> Interval:
    """Return a function of means and its paired bootstrap interval.

    `arrays` are `(sample, ...)` and share axis 0: each draw takes the same units from all of them. `statistic` gets
    the resampled mean of each array, `(draw, ...)`, and returns `(draw, ...)`, treating each draw on its own; it is
    called several times with different numbers of draws. Example, the percentage by which an ablation raises a loss:
    `bootstrap_statistic(lambda ablated, clean: 100 * (ablated / clean - 1), loss_ablated, loss_clean)`.

    Ends are NaN with fewer than 2 samples, where any draw of the statistic is NaN, and for BCa where all draws lie on
    one side of the estimate (BCa is undefined there; the statistic is then strongly biased). Raises ValueError for
    NaN or infinite values and for arrays of different length.
    """
    return _as_interval(_interval(statistic, [tuple(arrays)], draws, confidence, seed, method))


def bootstrap_two_groups(
    statistic: Statistic,
    group_a: ArrayLike | Sequence[ArrayLike],
    group_b: ArrayLike | Sequence[ArrayLike],
    *,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    method: Method = "studentised",
) -> Interval:
    """Return a function of the means of two independent groups and its interval, each group resampled on its own.

    A group is one array `(sample, ...)` or a list or tuple of arrays that share axis 0; the two groups may differ in
    size. `statistic(*means of a, *means of b)` is as in `bootstrap_statistic`. Example, a ratio real / synthetic:
    `bootstrap_two_groups(lambda real, synthetic: real / synthetic, real_entropy, synthetic_entropy)`.
    """
    groups = [_group_arrays(group_a), _group_arrays(group_b)]
    return _as_interval(_interval(statistic, groups, draws, confidence, seed, method))


def welch_freedom(
    variances: Sequence[Float[np.ndarray, "*shape"] | float], sizes: Sequence[int]
) -> Float[np.ndarray, "*shape"]:
    """Return the degrees of freedom of a sum of independent estimates, one per group; n - 1 for a single group.

    `variances` are those of the estimates, each from so many units. NaN where all are 0. Source: Welch 1947.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [own / sum(variances) for own in variances]
        return np.asarray(1 / sum(share**2 / (n - 1) for share, n in zip(shares, sizes, strict=True)))


def block_sizes(draws: int, width: int) -> Iterator[int]:
    """Split `draws` rows of `width` float64 numbers into blocks of bounded memory; yields the rows of each block."""
    size = max(1, BLOCK_ELEMENTS // max(width, 1))
    yield from (min(size, draws - start) for start in range(0, draws, size))


@dataclass(frozen=True)
class _Group:
    """The arrays of one group as columns, centred on the first sample.

    Centring costs nothing and makes the resampled means of a constant column exactly that constant.
    """

    centred: Float[np.ndarray, "sample column"]
    centre: Float[np.ndarray, "column"]
    shapes: tuple[tuple[int, ...], ...]

    def split(self, centred_means: Float[np.ndarray, "draw column"]) -> list[Float[np.ndarray, "draw ..."]]:
        """Turn centred means into one array per input array."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        parts = np.split(centred_means + self.centre, ends, axis=1)
        return [part.reshape(len(part), *shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _group(arrays: Sequence[ArrayLike], name: str) -> _Group:
    if not arrays:
        raise ValueError(f"{name} holds no array; at least one is needed")
    checked = [finite_samples(array, f"array {position} of {name}") for position, array in enumerate(arrays)]
    for position, array in enumerate(checked):
        if len(array) != len(checked[0]):
            raise ValueError(
                f"array {position} of {name} has {len(array)} samples, array 0 has {len(checked[0])}; "
                "paired arrays must share axis 0"
            )
    columns = np.concatenate([array.reshape(len(array), -1) for array in checked], axis=1)
    return _Group(columns - columns[0], columns[0], tuple(array.shape[1:] for array in checked))


def _group_arrays(group: Any) -> tuple[ArrayLike, ...]:
    # an array must not be taken for a sequence of its rows
    return tuple(group) if isinstance(group, list | tuple) else (group,)


def _weight_source(n: int, seed: int, group: int) -> np.random.Generator:
    # the group is part of the key from the second on: two groups of equal size must not be resampled in step
    return generator(seed, "bootstrap", n) if group == 0 else generator(seed, "bootstrap", n, group)


def _weights(source: np.random.Generator, n: int, draws: int) -> Float[np.ndarray, "draw sample"]:
    # counting n uniform picks draws from the multinomial, about ten times faster than n conditional binomials
    picks = source.integers(0, n, size=(draws, n))
    picks += n * np.arange(draws)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * n).reshape(draws, n) / n


def _evaluate(statistic: Statistic, means: list[Float[np.ndarray, "draw ..."]]) -> Float[np.ndarray, "draw ..."]:
    # a ratio with an empty denominator becomes NaN or infinite, which the interval then shows
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.asarray(statistic(*means), dtype=np.float64)
    if result.ndim == 0 or len(result) != len(means[0]):
        raise ValueError(
            f"the statistic returned shape {result.shape} for {len(means[0])} draws; it must keep draws along axis 0"
        )
    return result


def _interval(
    statistic: Statistic,
    groups_of_arrays: Sequence[Sequence[ArrayLike]],
    draws: int,
    confidence: float,
    seed: int,
    method: Method,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _check_draws(draws)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}; expected one of {', '.join(get_args(Method))}")
    groups = [_group(arrays, f"group {index}") for index, arrays in enumerate(groups_of_arrays)]
    sizes = [len(group.centred) for group in groups]
    plugin = [mean for group in groups for mean in group.split(group.centred.mean(axis=0, keepdims=True))]
    estimate = _evaluate(statistic, plugin)[0]
    if min(sizes) < 2:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)

    influences = _influences(statistic, groups, plugin)
    measured = influences if method == "studentised" else []
    width = max(max(sizes), sum(group.centred.shape[1] for group in groups), estimate.size)
    sources = [_weight_source(n, seed, index) for index, n in enumerate(sizes)]
    blocks, variances = [], []
    for size in block_sizes(draws, width):
        weights = [_weights(source, n, size) for source, n in zip(sources, sizes, strict=True)]
        means = [
            mean for group, rows in zip(groups, weights, strict=True) for mean in group.split(rows @ group.centred)
        ]
        blocks.append(_evaluate(statistic, means))
        variances.append(sum(_variance(rows, own) for rows, own in zip(weights, measured, strict=False)))
    resampled = np.concatenate(blocks)

    tail = np.full(estimate.shape, (1 - confidence) / 2)
    if method == "studentised":
        error = np.sqrt(sum((own**2).sum(axis=0) for own in influences))
        errors = np.sqrt(np.concatenate(variances))
        low, high = _studentised_ends(estimate, error, resampled, errors, np.stack([tail, 1 - tail]))
        return estimate, low, high
    tail = _widened(tail, influences)
    levels = np.stack([tail, 1 - tail])
    if method == "bca":
        levels = _bca_levels(levels, estimate, resampled, _acceleration(influences))
    low, high = _quantiles(resampled, levels)
    return estimate, low, high


def _widened(tail: np.ndarray, influences: Sequence[np.ndarray]) -> np.ndarray:
    """Return the level `(...)` at which resampled values are read so that, for a mean, the end is that of Student's t.

    Resampling underestimates a variance by (n - 1) / n, and its quantiles are normal ones.
    """
    naive = [np.asarray((own**2).sum(axis=0)) for own in influences]
    sizes = [len(own) for own in influences]
    unbiased = [own * n / (n - 1) for own, n in zip(naive, sizes, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        wide = ndtr(stdtrit(welch_freedom(unbiased, sizes), tail) * np.sqrt(sum(unbiased) / sum(naive)))
    # a statistic that no unit moves is the same at every level
    return np.where(sum(naive) > 0, np.maximum(wide, OUTERMOST), tail)


def _studentised_ends(
    estimate: np.ndarray, error: np.ndarray, resampled: np.ndarray, errors: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends from draws `(draw, ...)` in units of their own standard `errors` `(draw, ...)`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = resampled - estimate
        # a draw of equal units has no error of its own: as far out as can be, unless it is the estimate itself
        pivots = np.where(distance == 0, 0.0, np.clip(distance / errors, -FARTHEST, FARTHEST))
        below, above = _quantiles(pivots, levels)
        lowest, highest = resampled.min(axis=0), resampled.max(axis=0)
        return np.clip(estimate - error * above, lowest, highest), np.clip(estimate - error * below, lowest, highest)


def _variance(weights: np.ndarray, influence: np.ndarray) -> np.ndarray:
    """Return the variance of the statistic in each draw, `(draw, ...)`, that the units of one group give."""
    n = len(influence)
    columns = influence.reshape(n, -1)
    spread = weights @ columns**2 - (weights @ columns) ** 2
    return (n * np.maximum(spread, 0.0)).reshape(len(weights), *influence.shape[1:])


def _bca_levels(
    levels: np.ndarray, estimate: np.ndarray, resampled: np.ndarray, acceleration: np.ndarray
) -> np.ndarray:
    """Return the levels `(2, ...)` at which BCa reads the resampled distribution; NaN where it is undefined."""
    # draws equal to the estimate count half on either side: discrete data would look biased otherwise
    below = (np.mean(resampled < estimate, axis=0) + np.mean(resampled <= estimate, axis=0)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = ndtri(below)
        shifted = bias + ndtri(levels)
        stretch = 1 - acceleration * shifted
        adjusted = ndtr(bias + shifted / stretch)
    return np.where(np.isfinite(bias) & (stretch > 0), adjusted, np.nan)


def _acceleration(influences: Sequence[np.ndarray]) -> np.ndarray:
    """Return the acceleration `(...)` from the influences of the units of all groups."""
    cubes = np.asarray(sum((own**3).sum(axis=0) for own in influences))
    spread = np.asarray(sum((own**2).sum(axis=0) for own in influences)) ** 1.5
    # a statistic that no unit moves has no skewness to correct
    return np.divide(cubes, 6 * spread, out=np.zeros_like(spread), where=spread != 0)


def _influences(statistic: Statistic, groups: Sequence[_Group], plugin: list[np.ndarray]) -> list[np.ndarray]:
    """Return for each group what each of its units adds to the statistic, `(sample, ...)`, from leaving it out."""
    influences = []
    position = 0
    for group in groups:
        n, width = group.centred.shape
        total = group.centred.sum(axis=0)
        leave_one_out, start = [], 0
        for size in block_sizes(n, max(width, 1)):
            rows = group.split((total - group.centred[start : start + size]) / (n - 1))
            means = [np.broadcast_to(mean, (size, *mean.shape[1:])) for mean in plugin]
            means[position : position + len(rows)] = rows
            leave_one_out.append(_evaluate(statistic, means))
            start += size
        values = np.concatenate(leave_one_out)
        with np.errstate(invalid="ignore"):
            influences.append((n - 1) / n * (values.mean(axis=0) - values))
        position += len(group.shapes)
    return influences


def _quantiles(resampled: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read `resampled` `(draw, ...)` at `levels` `(2, ...)`, interpolating linearly; NaN draws or levels give NaN."""
    ordered = np.sort(resampled, axis=0)
    undefined = np.isnan(levels) | np.isnan(ordered[-1])  # sorting puts NaN last
    position = np.where(undefined, 0.0, levels) * (len(ordered) - 1)
    lower = np.floor(position).astype(np.intp)
    upper = np.minimum(lower + 1, len(ordered) - 1)
    start, stop = np.take_along_axis(ordered, lower, axis=0), np.take_along_axis(ordered, upper, axis=0)
    with np.errstate(invalid="ignore"):
        ends = np.where(start == stop, start, start + (position - lower) * (stop - start))
    ends = np.where(undefined, np.nan, ends)
    return ends[0], ends[1]


def _itself(mean: np.ndarray) -> np.ndarray:
    return mean


def _as_interval(parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Interval:
    return Interval(*(plain(part) for part in parts))


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise ValueError(f"draws is {draws}; at least 1 is needed, and 2,000 or more for a 95 % interval")
