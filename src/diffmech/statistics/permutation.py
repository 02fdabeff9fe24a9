"""Permutation tests: p-values that are never zero, nulls by matrix products, family-wise error by the maximum.

p = (1 + b) / (1 + B) with b of B null draws at least as extreme (Phipson & Smyth 2010): the observed labelling is one
of the permutations, so the test is valid for every B. A permutation of labels is a 0/1 membership vector, so all
permuted group means of all columns are one matrix product. Single-step max-T: Westfall & Young 1993.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from diffmech.randomness import generator
from diffmech.statistics.bootstrap import block_sizes
from diffmech.statistics.samples import finite_samples, plain

Alternative = Literal["greater", "less", "two-sided"]


def permutation_p(
    observed: ArrayLike, null: ArrayLike, *, alternative: Alternative = "greater"
) -> Float[np.ndarray, "..."] | float:
    """Return the permutation p-value of `observed` `(...)` against `null` `(permutation, ...)`.

    Ties count as exceedances, also those that rounding hides. "two-sided" doubles the smaller tail and stops at 1, so
    it needs no symmetric null. NaN in `observed` or in its null gives NaN. Raises ValueError for an empty null or
    shapes that do not match.
    """
    value, draws = _observed_and_null(observed, null)
    slack = _tie_tolerance(value, draws)
    with np.errstate(invalid="ignore"):
        greater = (1 + np.sum(draws >= value - slack, axis=0)) / (1 + len(draws))
        less = (1 + np.sum(draws <= value + slack, axis=0)) / (1 + len(draws))
    if alternative == "greater":
        p = greater
    elif alternative == "less":
        p = less
    elif alternative == "two-sided":
        p = np.minimum(1.0, 2 * np.minimum(greater, less))
    else:
        raise ValueError(f"alternative is {alternative!r}; expected 'greater', 'less' or 'two-sided'")
    return plain(np.where(np.isnan(value) | np.isnan(draws).any(axis=0), np.nan, p))


def label_permutation(
    statistic_of_means: Callable[[Float[np.ndarray, "permutation ..."], Float[np.ndarray, "permutation ..."]], Any],
    values_a: ArrayLike,
    values_b: ArrayLike,
    *,
    permutations: int = 2000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*shape"] | float, Float[np.ndarray, "permutation *shape"]]:
    """Return a statistic of two group means and its null under exchangeable group labels.

    `values_a` `(sample_a, ...)` and `values_b` `(sample_b, ...)` are independent groups with equal trailing shape.
    `statistic_of_means(mean_a, mean_b)` gets `(permutation, ...)` means and returns `(permutation, ...)`, treating each
    permutation on its own, such as `lambda a, b: np.abs(a - b).mean(axis=-1)` for a mean over heads per timestep.
    Raises ValueError for NaN or infinite values.
    """
    a, b = finite_samples(values_a, "values_a"), finite_samples(values_b, "values_b")
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"values_a has shape {a.shape} and values_b {b.shape}; they may differ along axis 0 only")
    pooled = np.concatenate([a, b]).reshape(len(a) + len(b), -1)
    centre = pooled[0]
    centred = pooled - centre
    total = centred.sum(axis=0)

    def evaluate(membership: np.ndarray) -> np.ndarray:
        sums = membership @ centred
        mean_a = (centre + sums / len(a)).reshape(-1, *a.shape[1:])
        mean_b = (centre + (total - sums) / len(b)).reshape(-1, *a.shape[1:])
        return _per_permutation(statistic_of_means(mean_a, mean_b), len(membership))

    labels = np.repeat([1.0, 0.0], [len(a), len(b)])
    source = generator(seed, "permutation", len(a), len(b))
    null = [
        evaluate(source.permuted(np.tile(labels, (size, 1)), axis=1))
        for size in block_sizes(_checked(permutations), max(pooled.shape))
    ]
    return plain(evaluate(labels[None])[0]), np.concatenate(null)


def sign_flip_permutation(
    statistic_of_mean: Callable[[Float[np.ndarray, "permutation ..."]], Any],
    differences: ArrayLike,
    *,
    permutations: int = 2000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*shape"] | float, Float[np.ndarray, "permutation *shape"]]:
    """Return a statistic of the mean paired difference and its null under random signs.

    `differences` is `(sample, ...)`, one paired difference per independent unit, symmetric about 0 under the null;
    each unit's sign is flipped as a whole. `statistic_of_mean` maps `(permutation, ...)` to `(permutation, ...)`.
    Source: Fisher's paired randomisation test.
    """
    values = finite_samples(differences, "differences")
    columns = values.reshape(len(values), -1)

    def evaluate(signs: np.ndarray) -> np.ndarray:
        means = (signs @ columns / len(columns)).reshape(-1, *values.shape[1:])
        return _per_permutation(statistic_of_mean(means), len(signs))

    source = generator(seed, "sign flip", len(values))
    null = [
        evaluate(source.integers(0, 2, size=(size, len(values))) * 2.0 - 1.0)
        for size in block_sizes(_checked(permutations), max(columns.shape))
    ]
    return plain(evaluate(np.ones((1, len(values))))[0]), np.concatenate(null)


def joint_sign_flip_p(
    differences: Sequence[Float[np.ndarray, "_sample ..."]], *, permutations: int, seed: int
) -> list[Float[np.ndarray, "..."]]:
    """Return the p-values of mean paired differences, corrected over all of them by max-T: one array for each given.

    Each of `differences` is of its own units, such as the images of one domain. Tests without any difference get 1. The
    statistic |mean| / root mean square is a monotone function of Student's t whose denominator no change of sign
    alters. Source: Fisher's randomisation test with Westfall & Young 1993; the statistic is ours.
    """
    observed, highest = [], np.full(permutations, -np.inf)
    for each in differences:
        size = np.sqrt(np.square(each).mean(axis=0))
        scaled = np.divide(each, size, out=np.zeros(each.shape), where=size > 0)
        value, null = sign_flip_permutation(np.abs, scaled, permutations=permutations, seed=seed)
        observed.append(np.asarray(value))
        if null[0].size:
            highest = np.maximum(highest, null.reshape(permutations, -1).max(axis=1))
    # ties as in `permutation_p`; the statistic lies between 0 and 1
    slack = np.sqrt(np.finfo(np.float64).eps)
    ordered = np.sort(highest)
    return [(1 + permutations - np.searchsorted(ordered, value - slack)) / (1 + permutations) for value in observed]


def max_statistic_p(
    observed: ArrayLike, null: ArrayLike, *, axis: int | tuple[int, ...] | None = None
) -> Float[np.ndarray, "..."] | float:
    """Return single-step max-T p-values of `observed` `(test, ...)` against `null` `(draw, test, ...)`.

    Each test is compared with the largest null statistic of its family in each draw, which controls the family-wise
    error under any dependence between tests. The family is all axes of `observed`, or those given in `axis`. Large
    means extreme: pass absolute values for a two-sided test, and statistics on one scale (standardised, if need be),
    or the widest null decides for all. NaN statistics get NaN and leave the family. Source: Westfall & Young 1993.
    """
    value, draws = _observed_and_null(observed, null)
    missing = np.isnan(value) | np.isnan(draws).any(axis=0)
    axes = tuple(range(value.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    family = tuple(number % value.ndim + 1 for number in axes)
    highest = np.where(missing, -np.inf, draws).max(axis=family, keepdims=True)
    slack = _tie_tolerance(value, draws)
    with np.errstate(invalid="ignore"):
        p = (1 + np.sum(highest >= value - slack, axis=0)) / (1 + len(draws))
    return plain(np.where(missing, np.nan, p))


def _observed_and_null(
    observed: ArrayLike, null: ArrayLike
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "permutation *shape"]]:
    value, draws = np.asarray(observed), np.asarray(null)
    # ties are as sharp as the coarser of the two inputs, so floats keep their precision
    kind = np.result_type(value, draws, np.float32)
    value, draws = value.astype(kind), draws.astype(kind)
    if draws.ndim == 0 or len(draws) == 0:
        raise ValueError("the null holds no draws; at least one permutation is needed")
    if draws.shape[1:] != value.shape:
        raise ValueError(f"null has shape {draws.shape} and observed {value.shape}; expected (permutation, *observed)")
    return value, draws


def _tie_tolerance(value: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return how close a draw must come to count as a tie: the root of the machine precision, on the null's scale."""
    # the median rather than the maximum: one wild draw must not make everything a tie
    scale = np.maximum(np.abs(value), np.median(np.abs(draws), axis=0))
    return np.sqrt(np.finfo(value.dtype).eps) * np.where(np.isfinite(scale), scale, 0)


def _checked(permutations: int) -> int:
    if permutations < 1:
        raise ValueError(f"permutations is {permutations}; at least 1 is needed")
    return permutations


def _per_permutation(result: Any, permutations: int) -> Float[np.ndarray, "permutation ..."]:
    array = np.asarray(result, dtype=np.float64)
    if array.ndim == 0 or len(array) != permutations:
        raise ValueError(
            f"the statistic returned shape {array.shape} for {permutations} permutations; "
            "it must keep permutations along axis 0"
        )
    return array
