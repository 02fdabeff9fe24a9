"""What every statistic asks of its arrays: samples along axis 0, finite numbers, plain floats for scalar results."""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def finite_samples(values: ArrayLike, name: str) -> Float[np.ndarray, "sample ..."]:
    """Return `values` as float64 `(sample, ...)`; ValueError, naming `name`, without samples or with NaN or infinity.

    Dropping such values would change the population in silence, so it is left to the caller, who can say so.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected at least one sample along axis 0")
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ValueError(
            f"{name} holds {bad} NaN or infinite values of {array.size}; remove the affected samples, and say so, first"
        )
    return array


def plain(value: Any) -> Float[np.ndarray, "..."] | float:
    """Return a float for a scalar result, the array otherwise."""
    return float(value) if np.ndim(value) == 0 else value
