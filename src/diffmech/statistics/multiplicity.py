"""Adjusted p-values for many tests: compare them with alpha directly.

`holm` controls the family-wise error rate under any dependence (Holm 1979), `holm_sidak` under independence and the
usual positive dependence, where it is a little less strict (Holm 1979 with the levels of Sidak 1967).
`benjamini_hochberg` controls the share of false ones among those that are found, for tests that are independent or go
together (Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001): where there are hundreds of tests and single ones are
not what is claimed. The family is the whole array.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def holm(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return Holm's step-down adjusted p-values in the shape of `p`.

    NaN marks a test that was not made: it stays NaN and is not counted. Raises ValueError outside [0, 1].
    """
    return _adjusted(p, lambda ordered: np.maximum.accumulate(ordered * _left(ordered)))


def holm_sidak(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return the adjusted p-values 1 - (1 - p)^k of k tests left, stepping down; else as `holm`."""
    with np.errstate(divide="ignore"):  # the logarithm of 1 - 1
        return _adjusted(p, lambda ordered: np.maximum.accumulate(-np.expm1(_left(ordered) * np.log1p(-ordered))))


def benjamini_hochberg(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return Benjamini and Hochberg's step-up adjusted p-values; else as `holm`."""

    def step_up(ordered: np.ndarray) -> np.ndarray:
        scaled = ordered * len(ordered) / np.arange(1, len(ordered) + 1)
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return _adjusted(p, step_up)


def _left(ordered: np.ndarray) -> np.ndarray:
    return np.arange(len(ordered), 0, -1)


def _adjusted(p: ArrayLike, adjust: Callable[[np.ndarray], np.ndarray]) -> Float[np.ndarray, "..."]:
    """Return adjusted p-values by what adjusts ascending ones to ascending ones."""
    values = np.asarray(p, dtype=np.float64)
    made = ~np.isnan(values)
    counted = values[made]
    if counted.size and (counted.min() < 0 or counted.max() > 1):
        raise ValueError(f"p-values lie between {counted.min()} and {counted.max()}; expected [0, 1] or NaN")
    order = np.argsort(counted, kind="stable")
    adjusted = np.empty_like(counted)
    adjusted[order] = np.minimum(adjust(counted[order]), 1.0)
    result = values.copy()
    result[made] = adjusted
    return result
