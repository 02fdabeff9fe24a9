"""What the seeds of trainings add to the interval of a difference.

Patients are resampled with the networks as they are, which says nothing of other seeds. In a cross-validation every
round has patients and seeds of its own, and so one difference each, whose spread gives Student's interval. The interval
of a difference is the hull of both: it excludes 0 where both do (ours). That trainings of a cross-validation share
patients is in neither: no estimate of the variance can have it without bias (Bengio & Grandvalet 2004).
"""

import numpy as np
from scipy.special import stdtrit

from diffmech.anomaly.discrimination import Weighted

LEAST = 3  # rounds of a cross-validation


def over_rounds(
    statistic: Weighted, rounds: np.ndarray, confidence: float, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends `low` and `high` `(difference,)` of intervals over patients, widened by those over rounds.

    `statistic` gives the differences `(draw, difference)` of weights of patients; `rounds` `(patient,)` says in which
    round each tests. With one round they are as they were. A round where a difference is not defined is left out; ends
    are NaN with fewer than three.
    """
    every = np.unique(rounds)
    if len(every) == 1:
        return low, high
    weights = np.stack([(rounds == each) / (rounds == each).sum() for each in every])
    apart = statistic(weights)
    defined = np.isfinite(apart)
    count = defined.sum(0)
    enough = count >= LEAST
    some = np.where(enough, count, LEAST)
    values = np.where(defined, apart, 0.0)
    mean = values.sum(0) / some
    variance = (np.where(defined, values - mean, 0.0) ** 2).sum(0) / (some - 1)
    reach = -stdtrit(some - 1, (1 - confidence) / 2) * np.sqrt(variance / some)
    ends = np.where(enough, [np.minimum(low, mean - reach), np.maximum(high, mean + reach)], np.nan)
    return ends[0], ends[1]
