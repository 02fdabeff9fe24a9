"""Whether predicted variances are true, whether a probability of a slice is one, and what doubt is worth.

A pixel's error over its predicted standard deviation should be standard normal. Coverage: the share of pixels within
the central interval of each level, beside the level; the expected calibration error is the mean distance of the two
over levels (Kuleshov et al. 2018). Size: in bins of predicted deviation the root mean square error, beside the root of
the mean predicted variance (Levi et al. 2022); their mean relative distance is the ENCE. Both say nothing about whether
the uncertainty is informative: one number for all pixels can be calibrated. So beside them stands how much it varies,
and the rank correlation of predicted deviation and error (Spearman), among pixels and among slices.

Probabilities of slices are calibrated by a logistic curve (Platt 1999) with the labels of validation patients: the one
place where a label of a slice with a lesion is used in fitting. Their reliability and ECE are those of Guo et al. 2017.

Slices are decided by a threshold on their score, the surest first; the risk at a coverage is the share of wrong
decisions among those decided so far, and AURC is its mean over all coverages (Geifman & El-Yaniv 2017). Beside it stand
what a random order would give, which is the error of all decisions, and the best possible order, all right ones first
(their E-AURC is the distance to it).

All are functions of sums per patient, so that patients can be resampled (ours). Bins of predicted deviations, ranks and
orders of slices are those of all patients together, and stay as they are when patients are resampled.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from diffmech.anomaly.discrimination import Weighted
from diffmech.anomaly.scores import LEAST
from diffmech.statistics.units import codes

LEVELS = np.append(np.arange(1, 10) / 10, [0.95, 0.99])


@dataclass(frozen=True)
class Errors:
    """Sizes of errors and the deviations predicted for them, of pixels `(pixel,)` or means of slices, and the number of
    the patient of each."""

    error: np.ndarray
    deviation: np.ndarray
    patient: np.ndarray
    patients: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of `values` `(pixel,)` per patient `(patient,)`."""
        return np.bincount(self.patient, weights=values, minlength=self.patients)


def pixel_errors(error: np.ndarray, deviation: np.ndarray, inside: np.ndarray, patient: np.ndarray) -> Errors:
    """Return those of pixels `inside`, of arrays `(slice, modality, y, x)`; `patient` `(slice,)`."""
    of = codes(patient)
    where = np.broadcast_to(of[:, None, None, None], inside.shape)[inside]
    return Errors(error[inside].astype(np.float64), deviation[inside].astype(np.float64), where, int(of.max()) + 1)


def slice_errors(error: np.ndarray, deviation: np.ndarray, inside: np.ndarray, patient: np.ndarray) -> Errors:
    """Return the means over each slice's pixels `inside`."""
    of, count = codes(patient), np.maximum(inside.sum((1, 2, 3)), 1)
    means = [np.where(inside, each, 0).sum((1, 2, 3), dtype=np.float64) / count for each in (error, deviation)]
    return Errors(means[0], means[1], of, int(of.max()) + 1)


def coverage(given: Errors) -> Weighted:
    """Return the share of pixels within the central interval of each level `(draw, level)`."""
    distance = given.error / np.maximum(given.deviation, LEAST)
    inside = np.stack([given.sums(distance <= ndtri((1 + level) / 2)) for level in LEVELS], axis=1)
    total = given.sums(np.ones_like(distance))
    return lambda weights: (weights @ inside) / (weights @ total)[:, None]


def calibration_error(given: Errors) -> Weighted:
    """Return the mean distance of coverage and level."""
    covered = coverage(given)
    return lambda weights: np.abs(covered(weights) - LEVELS).mean(1)


def deviations(given: Errors, bins: int) -> Weighted:
    """Return predicted and observed deviation in bins of equally many pixels, `(draw, 2, bin)`."""
    order = np.argsort(given.deviation, kind="stable")
    place = np.empty(len(order), dtype=np.intp)
    for number, rows in enumerate(np.array_split(order, bins)):
        place[rows] = number
    cells = given.patient * bins + place
    squares, variances, counts = (
        np.bincount(cells, weights=values, minlength=given.patients * bins).reshape(given.patients, bins)
        for values in (given.error**2, given.deviation**2, np.ones_like(given.error))
    )

    def both(weights: np.ndarray) -> np.ndarray:
        total = np.maximum(weights @ counts, LEAST)
        return np.sqrt(np.stack([(weights @ variances) / total, (weights @ squares) / total], axis=1))

    return both


def normalised_error(given: Errors, bins: int) -> Weighted:
    """Return the mean relative distance of both (ENCE)."""
    binned = deviations(given, bins)

    def error(weights: np.ndarray) -> np.ndarray:
        predicted, observed = np.moveaxis(binned(weights), 1, 0)
        return (np.abs(observed - predicted) / np.maximum(predicted, LEAST)).mean(1)

    return error


def variation(given: Errors) -> Weighted:
    """Return the coefficient of variation of the deviations."""
    first, second, count = (given.sums(given.deviation**power) for power in (1, 2, 0))

    def coefficient(weights: np.ndarray) -> np.ndarray:
        total = weights @ count
        mean = (weights @ first) / total
        return np.sqrt(np.maximum((weights @ second) / total - mean**2, 0)) / np.maximum(mean, LEAST)

    return coefficient


def correlation(given: Errors) -> Weighted:
    """Return the correlation of the ranks of errors and deviations, NaN where either does not vary."""
    x, y = (rankdata(each) / len(each) for each in (given.error, given.deviation))
    sums = np.stack([given.sums(each) for each in (np.ones_like(x), x, y, x * x, y * y, x * y)], axis=1)

    def pearson(weights: np.ndarray) -> np.ndarray:
        total, *moments = (weights @ sums).T
        mean_x, mean_y, xx, yy, xy = (each / total for each in moments)
        spread = (xx - mean_x**2) * (yy - mean_y**2)
        above = spread > LEAST
        return np.divide(
            xy - mean_x * mean_y, np.sqrt(np.where(above, spread, 1)), out=np.full_like(xy, np.nan), where=above
        )

    return pearson


def slice_probabilities(validation_score: np.ndarray, abnormal: np.ndarray, score: np.ndarray) -> np.ndarray | None:
    """Return the probability `(slice,)` that a slice of each `score` holds a lesion, by a logistic curve fitted to the
    scores and labels of validation patients; None where those are all of one kind."""
    if abnormal.all() or not abnormal.any():
        return None
    centre, deviation = validation_score.mean(), max(validation_score.std(), LEAST)
    fitted = LogisticRegression().fit(((validation_score - centre) / deviation)[:, None], abnormal)
    return np.asarray(fitted.predict_proba(((score - centre) / deviation)[:, None])[:, 1])


def reliability(probability: np.ndarray, abnormal: np.ndarray, patient: np.ndarray, bins: int) -> Weighted:
    """Return mean probability and share of slices with lesions in bins, `(draw, 2, bin)`; NaN in empty ones."""
    cells, size = _cells(probability, patient, bins)
    sums = [
        np.bincount(cells, weights=each, minlength=size * bins).reshape(size, bins)
        for each in (probability, abnormal, np.ones_like(probability))
    ]

    def both(weights: np.ndarray) -> np.ndarray:
        predicted, observed, total = (weights @ each for each in sums)
        with np.errstate(invalid="ignore"):
            return np.stack([predicted, observed], axis=1) / np.where(total > 0, total, np.nan)[:, None]

    return both


def expected_error(probability: np.ndarray, abnormal: np.ndarray, patient: np.ndarray, bins: int) -> Weighted:
    """Return the ECE: mean distance of both over bins, weighted by their slices."""
    cells, size = _cells(probability, patient, bins)
    apart = np.bincount(cells, weights=probability - abnormal, minlength=size * bins).reshape(size, bins)
    count = np.bincount(codes(patient), minlength=size)
    return lambda weights: np.abs(weights @ apart).sum(1) / (weights @ count)


def risk(wrong: np.ndarray, doubt: np.ndarray, patient: np.ndarray, grid: np.ndarray) -> Weighted:
    """Return the area under the curve of risk over coverage, the share of wrong decisions, and the risk at the
    coverages `grid`, `(draw, 2 + coverage)`.

    Where doubts are equal, each of them has the mean of what they do together: their order is chance.
    """
    order = np.argsort(doubt, kind="stable")
    bad, of = wrong[order].astype(float), codes(patient)[order]
    _, starts, group = np.unique(doubt[order], return_index=True, return_inverse=True)

    def every(weights: np.ndarray) -> np.ndarray:
        own = weights[:, of]
        together, missed = (np.add.reduceat(each, starts, axis=1) for each in (own, own * bad))
        shares = np.divide(missed, together, out=np.zeros_like(together), where=together > 0)
        decided, missed = np.cumsum(own, axis=1), np.cumsum(own * shares[:, group], axis=1)
        risks = np.divide(missed, decided, out=np.zeros_like(own), where=decided > 0)
        total = decided[:, -1]
        area = (own * risks).sum(1) / total
        places = np.stack([(decided < share * total[:, None] * (1 - 1e-9)).sum(1) for share in grid], axis=1)
        at = np.take_along_axis(risks, np.minimum(places, len(bad) - 1), axis=1)
        return np.column_stack([area, missed[:, -1] / total, at])

    return every


def _cells(probability: np.ndarray, patient: np.ndarray, bins: int) -> tuple[np.ndarray, int]:
    of = codes(patient)
    return of * bins + np.minimum((probability * bins).astype(np.intp), bins - 1), int(of.max()) + 1
