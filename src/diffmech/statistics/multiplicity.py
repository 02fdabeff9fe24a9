"""Adjusted p-values for many tests: compare them with alpha directly.

`holm` controls the family-wise error rate under any dependence (Holm 1979). `benjamini_hochberg` controls the share of
false ones among those that are found, for tests that are independent or go together (Benjamini & Hochberg 1995;
Benjamini & Yekutieli 2001): where there are hundreds of tests and single ones are not what is claimed. The family is
the whole array.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def holm(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return Holm's step-down adjusted p-values in the shape of `p`.

    NaN marks a test that was not made: it stays NaN and is not counted. Raises ValueError outside [0, 1].
    """
    values, made = _tests(p)
    counted = values[made]
    order = np.argsort(counted, kind="stable")
    scaled = counted[order] * np.arange(len(order), 0, -1)
    return _filled(values, made, order, np.minimum(np.maximum.accumulate(scaled), 1.0))


def benjamini_hochberg(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return Benjamini and Hochberg's step-up adjusted p-values in the shape of `p`.

    NaN marks a test that was not made: it stays NaN and is not counted. Raises ValueError outside [0, 1].
    """
    values, made = _tests(p)
    counted = values[made]
    order = np.argsort(counted, kind="stable")
    scaled = counted[order] * len(order) / np.arange(1, len(order) + 1)
    return _filled(values, made, order, np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0))


def _tests(p: ArrayLike) -> tuple[Float[np.ndarray, "..."], np.ndarray]:
    """Return p-values and which of them are of tests that were made."""
    values = np.asarray(p, dtype=np.float64)
    made = ~np.isnan(values)
    counted = values[made]
    if counted.size and (counted.min() < 0 or counted.max() > 1):
        raise ValueError(f"p-values lie between {counted.min()} and {counted.max()}; expected [0, 1] or NaN")
    return values, made


def _filled(
    values: Float[np.ndarray, "..."], made: np.ndarray, order: np.ndarray, ascending: np.ndarray
) -> Float[np.ndarray, "..."]:
    """Return `values` with the adjusted p-values, given in `order`, in the places of tests that were made."""
    adjusted = np.empty_like(ascending)
    adjusted[order] = ascending
    result = values.copy()
    result[made] = adjusted
    return result
