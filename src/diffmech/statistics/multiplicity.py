"""Adjusted p-values for many tests: compare them with alpha directly.

`holm` controls the family-wise error rate under any dependence (Holm 1979); `benjamini_hochberg` controls the false
discovery rate under independence or positive dependence (Benjamini & Hochberg 1995). The family is the whole array.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike


def holm(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return Holm's step-down adjusted p-values in the shape of `p`.

    NaN marks a test that was not made: it stays NaN and is not counted. Raises ValueError outside [0, 1].
    """
    values, made, order = _family(p)
    count = len(order)
    scaled = values[made][order] * np.arange(count, 0, -1)
    return _restored(values, made, order, np.maximum.accumulate(scaled))


def benjamini_hochberg(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return Benjamini and Hochberg's step-up adjusted p-values in the shape of `p`.

    NaN marks a test that was not made: it stays NaN and is not counted. Raises ValueError outside [0, 1].
    """
    values, made, order = _family(p)
    count = len(order)
    scaled = values[made][order] * (count / np.arange(1, count + 1))
    return _restored(values, made, order, np.minimum.accumulate(scaled[::-1])[::-1])


def _family(
    p: ArrayLike,
) -> tuple[Float[np.ndarray, "*shape"], Bool[np.ndarray, "*shape"] | np.bool, Int[np.ndarray, "made"]]:
    """Return the p-values, the mask of tests made, and the order of those from the smallest up."""
    values = np.asarray(p, dtype=np.float64)
    made = ~np.isnan(values)
    counted = values[made]
    if counted.size and (counted.min() < 0 or counted.max() > 1):
        raise ValueError(f"p-values lie between {counted.min()} and {counted.max()}; expected [0, 1] or NaN")
    return values, made, np.argsort(counted, kind="stable")


def _restored(
    values: Float[np.ndarray, "*shape"],
    made: Bool[np.ndarray, "*shape"] | np.bool,
    order: Int[np.ndarray, "made"],
    adjusted: Float[np.ndarray, "made"],
) -> Float[np.ndarray, "*shape"]:
    counted = np.empty_like(adjusted)
    counted[order] = np.minimum(adjusted, 1.0)
    result = values.copy()
    result[made] = counted
    return result
