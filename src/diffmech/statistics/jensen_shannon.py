"""The Jensen-Shannon divergence between two samples (Lin 1991), an effect size that asks for no shape of theirs.

Samples lie along axis 0; everything behind it is done at once, column by column, and results have the trailing shape.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import xlogy

from diffmech.statistics.samples import finite_samples, plain


def jensen_shannon_divergence(
    a: ArrayLike, b: ArrayLike, *, bins: int = 32, limits: tuple[float, float] | None = None
) -> Float[np.ndarray, "..."] | float:
    """Return the Jensen-Shannon divergence, in nats, between the histograms of `a` and `b`; 0 to ln 2.

    `a` `(sample_a, ...)` and `b` `(sample_b, ...)` are binned in `bins` equal bins between `limits`, or between the
    pooled minimum and maximum of each column. The estimate is biased upwards: two samples of ONE distribution that
    fills K bins give about (K - 1) (1 / n_a + 1 / n_b) / 8, so show it beside its permutation null
    (`histogram_membership` with `label_permutation`). Raises ValueError for NaN and for values outside `limits`.
    """
    first, second = _independent(a, b)
    index_a, index_b = _bin_indices(first, second, bins, limits)
    shape = first.shape[1:]
    return jensen_shannon_of_probabilities(_shares(index_a, bins, shape), _shares(index_b, bins, shape))


def jensen_shannon_of_probabilities(p: ArrayLike, q: ArrayLike) -> Float[np.ndarray, "..."] | float:
    """Return the Jensen-Shannon divergence, in nats, of probabilities `p`, `q` `(..., bin)` that sum to 1 over bins."""
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (first + second) / 2

    def relative_entropy(probability: np.ndarray) -> np.ndarray:
        # each share over the middle is at most 2, so the logarithm is safe wherever it counts
        share = np.divide(probability, middle, out=np.ones_like(middle), where=middle > 0)
        return xlogy(probability, share).sum(axis=-1)

    # rounding, here or in resampled shares, must not make it negative
    return plain(np.maximum((relative_entropy(first) + relative_entropy(second)) / 2, 0.0))


def histogram_membership(
    a: ArrayLike, b: ArrayLike, *, bins: int = 32, limits: tuple[float, float] | None = None
) -> tuple[Float[np.ndarray, "sample_a *shape bin"], Float[np.ndarray, "sample_b *shape bin"]]:
    """Return 0 or 1 for each bin, common to both samples: whether each value falls in it.

    Their means over samples are the histograms, so `label_permutation` and `bootstrap_two_groups` with
    `jensen_shannon_of_probabilities` give the null and the interval of the divergence. Bins as in
    `jensen_shannon_divergence`.
    """
    first, second = _independent(a, b)
    numbers = np.arange(bins)
    index_a, index_b = _bin_indices(first, second, bins, limits)
    return (index_a[..., None] == numbers).astype(np.float32), (index_b[..., None] == numbers).astype(np.float32)


def _bin_indices(
    first: Float[np.ndarray, "sample_a *shape"],
    second: Float[np.ndarray, "sample_b *shape"],
    bins: int,
    limits: tuple[float, float] | None,
) -> tuple[Int[np.ndarray, "sample_a *shape"], Int[np.ndarray, "sample_b *shape"]]:
    if bins < 1:
        raise ValueError(f"bins is {bins}; at least 1 is needed")
    low: Any = np.minimum(first.min(axis=0), second.min(axis=0))
    high: Any = np.maximum(first.max(axis=0), second.max(axis=0))
    if limits is not None:
        if not limits[0] < limits[1]:
            raise ValueError(f"limits are {limits}; expected (low, high) with low < high")
        if np.min(low) < limits[0] or np.max(high) > limits[1]:
            raise ValueError(f"values lie between {np.min(low)} and {np.max(high)}, outside the limits {limits}")
        low, high = limits
    # a constant column falls in one bin
    width = np.where(high > low, np.subtract(high, low), 1.0)

    def index(values: np.ndarray) -> np.ndarray:
        return np.minimum(((values - low) / width * bins).astype(np.intp), bins - 1)

    return index(first), index(second)


def _shares(index: Int[np.ndarray, "sample ..."], bins: int, shape: tuple[int, ...]) -> Float[np.ndarray, "... bin"]:
    """Return the share of samples in each bin, by one count over all columns."""
    columns = index.reshape(len(index), -1)
    number = columns.shape[1]
    counts = np.bincount((columns + bins * np.arange(number)).ravel(), minlength=bins * number)
    return counts.reshape(*shape, bins) / len(index)


def _independent(
    a: ArrayLike, b: ArrayLike
) -> tuple[Float[np.ndarray, "sample_a *shape"], Float[np.ndarray, "sample_b *shape"]]:
    first, second = finite_samples(a, "a"), finite_samples(b, "b")
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"a has shape {first.shape} and b {second.shape}; they may differ along axis 0 only")
    return first, second
