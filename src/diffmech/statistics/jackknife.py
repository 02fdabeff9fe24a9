"""Jackknife intervals: for statistics that resampling would bias, since a resample holds units twice. Tukey 1958.

The standard error comes from leaving out one unit at a time; the interval is the estimate plus and minus so many of
them as Student's t says, for several independent groups with the degrees of freedom of Welch 1947.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from diffmech.statistics.bootstrap import Interval, welch_freedom
from diffmech.statistics.samples import finite_samples, plain


def jackknife_interval(estimate: ArrayLike, *left_out: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return `estimate` `(...)` with its interval from the values it takes when each unit is left out.

    `left_out` are one array `(sample, ...)` per independent group. Ends are NaN where a group has fewer than 2 units.
    Choose a scale on which the statistic is about symmetric, such as the logarithm of a ratio. Raises ValueError for
    NaN or infinite values.
    """
    if not left_out:
        raise ValueError("no group is given; at least one is needed")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    groups = [finite_samples(values, f"group {position} of left_out") for position, values in enumerate(left_out)]
    value = np.asarray(estimate, dtype=np.float64)
    if min(map(len, groups)) < 2:
        return Interval(plain(value), plain(np.full_like(value, np.nan)), plain(np.full_like(value, np.nan)))
    variances = [(len(own) - 1) * own.var(axis=0) for own in groups]
    freedom = welch_freedom(variances, [len(own) for own in groups])
    reach = np.where(np.isnan(freedom), 0.0, stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(sum(variances)))
    return Interval(plain(value), plain(value - reach), plain(value + reach))
