"""Intervals of ratios of means of paired values, after Fieller 1954.

The ratio r of two means is the value at which mean(numerator - r denominator) is 0: its interval holds every r that a
t-test of that mean does not reject. It is exact for normal values whatever the ratio, and holds its level where the
units are few and differ much in the denominator, for which resampled ratios are too narrow. Where the denominator
itself cannot be told from 0 no interval bounds the ratio, and none is given.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from diffmech.statistics.bootstrap import Interval
from diffmech.statistics.samples import finite_samples, plain


def ratio_interval(numerator: ArrayLike, denominator: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return mean(numerator) / mean(denominator) over samples (axis 0) with Fieller's interval, each of shape (...).

    The two broadcast against each other, except for their number of samples. The denominator is to be positive: the
    estimate is NaN where its mean is not, the ends are where it is not surely so. Raises ValueError for NaN or
    infinite values and for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    above, below = finite_samples(numerator, "numerator"), finite_samples(denominator, "denominator")
    if len(above) != len(below):
        raise ValueError(f"numerator has {len(above)} samples and denominator {len(below)}; they are paired")
    above, below = np.broadcast_arrays(above, below)
    n, top, bottom = len(above), above.mean(axis=0), below.mean(axis=0)
    estimate = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    if n < 2:
        return Interval(plain(estimate), plain(np.full_like(estimate, np.nan)), plain(np.full_like(estimate, np.nan)))
    # t^2 times the variances and the covariance of the means
    scale = float(stdtrit(n - 1, (1 + confidence) / 2)) ** 2 / (n * (n - 1))
    off_top, off_bottom = above - top, below - bottom
    both = scale * (off_top * off_bottom).sum(axis=0)
    second = bottom**2 - scale * (off_bottom**2).sum(axis=0)
    first = top * bottom - both
    zeroth = top**2 - scale * (off_top**2).sum(axis=0)
    sure = (bottom > 0) & (second > 0)
    reach = np.sqrt(np.maximum(first**2 - second * zeroth, 0))
    ends = [
        np.divide(end, second, out=np.full(top.shape, np.nan), where=sure) for end in (first - reach, first + reach)
    ]
    return Interval(plain(estimate), plain(ends[0]), plain(ends[1]))
