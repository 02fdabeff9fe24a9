"""Adjusted p-values for many tests: compare them with alpha directly.

`holm` controls the family-wise error rate under any dependence (Holm 1979), `holm_sidak` under independence and the
usual positive dependence, where it is a little less strict (Holm 1979 with the levels of Sidak 1967). The family is the
whole array.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def holm(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return Holm's step-down adjusted p-values in the shape of `p`.

    NaN marks a test that was not made: it stays NaN and is not counted. Raises ValueError outside [0, 1].
    """
    return _step_down(p, lambda ordered, left: ordered * left)


def holm_sidak(p: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return the adjusted p-values 1 - (1 - p)^k of k tests left, stepping down; else as `holm`."""
    with np.errstate(divide="ignore"):  # the logarithm of 1 - 1
        return _step_down(p, lambda ordered, left: -np.expm1(left * np.log1p(-ordered)))


def _step_down(p: ArrayLike, adjust: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Float[np.ndarray, "..."]:
    values = np.asarray(p, dtype=np.float64)
    made = ~np.isnan(values)
    counted = values[made]
    if counted.size and (counted.min() < 0 or counted.max() > 1):
        raise ValueError(f"p-values lie between {counted.min()} and {counted.max()}; expected [0, 1] or NaN")
    order = np.argsort(counted, kind="stable")
    scaled = adjust(counted[order], np.arange(len(order), 0, -1))
    adjusted = np.empty_like(counted)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    result = values.copy()
    result[made] = adjusted
    return result
