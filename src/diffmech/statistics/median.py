"""The median of a few values: an interval and a test that take nothing for granted but independent units.

Changes of a judge's probability are nearly all 0 or nearly all 1: of ten images nine stay what they are and one flips.
No interval of their mean holds with a dozen images, since many samples hold no flip at all. That half of all values lie
below the median is true of every distribution, so its interval and its test are binomial ones.
"""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import binom

from diffmech.statistics.bootstrap import Interval
from diffmech.statistics.reach import POWER
from diffmech.statistics.samples import finite_samples, plain


def median_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Return the median of `values` `(sample, ...)` over axis 0 with an interval between two of the ordered values.

    The k-th smallest and the k-th largest value hold the median with a chance of 1 - 2 P(Bin(n, 1/2) < k), whatever the
    distribution. The ends lie between the widest such pair below `confidence` and the next one above it, by the
    interpolation of Hettmansperger & Sheather 1986: with 16 samples 95 % intervals hold between 92.3 and 97.9 % of
    medians, with 8 between 93.0 and 99.2 %. Ends are NaN where even the extremes hold too few: below 6 samples at 95 %.
    Raises ValueError for NaN or infinite values.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    ordered = np.sort(finite_samples(values, "values"), axis=0)
    n, estimate = len(ordered), np.median(ordered, axis=0)
    held = 1 - 2 * binom.cdf(np.arange(n // 2 + 1) - 1, n, 0.5)  # by the k-th smallest and largest; k = 0 is unbounded
    k = int((held >= confidence).sum()) - 1
    if k < 1:
        return Interval(plain(estimate), plain(np.full_like(estimate, np.nan)), plain(np.full_like(estimate, np.nan)))
    share = 0.0
    if k < n // 2:
        between = (held[k] - confidence) / (held[k] - held[k + 1])
        share = (n - k) * between / (k + (n - 2 * k) * between)
    low = (1 - share) * ordered[k - 1] + share * ordered[min(k, n - 1)]
    high = (1 - share) * ordered[n - k] + share * ordered[max(n - k - 1, 0)]
    return Interval(plain(estimate), plain(low), plain(high))


def sign_test(differences: ArrayLike) -> Float[np.ndarray, "..."] | float:
    """Return the exact two-sided p-value `(...)` of as many differences `(sample, ...)` above 0 as below it.

    Differences of 0 say nothing and are left out; 1 where there are no others. It asks for no symmetry, and is the same
    for every monotone scale of what was compared: probabilities or logits. Arbuthnott 1710. Raises ValueError for NaN
    or infinite values.
    """
    values = finite_samples(differences, "differences")
    above, below = (values > 0).sum(axis=0), (values < 0).sum(axis=0)
    return plain(np.minimum(1.0, 2 * binom.cdf(np.minimum(above, below), above + below, 0.5)))


def smallest_share(units: int, *, alpha: float, tests: int = 1, power: float = POWER) -> float:
    """Return the share of units that must change in one direction for the sign test to find it with `power`.

    The level is Bonferroni's over `tests`. NaN where not even all units alike would be found.
    """
    against = np.flatnonzero(2 * binom.cdf(np.arange(units + 1), units, 0.5) <= alpha / tests)
    if not len(against):
        return math.nan
    most = int(against.max())  # so many may go the other way
    return float(brentq(lambda share: binom.cdf(most, units, 1 - share) - power, 0.5, 1.0))
