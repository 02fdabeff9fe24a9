"""How well a score tells slices with lesions from those without, and how well it does among slices of one position.

Lesions sit in the middle of the head and empty slices at its ends, so that a score that measures where a slice lies
tells them apart without seeing a lesion. Therefore every measure stands beside its matched twin (ours):

- ROC AUC, matched: among pairs of a slice with and one without a lesion *in the same stratum* (a bin of slice position,
  and a fold where there are several), the share in which the first has the higher score, ties counting half. Every such
  pair counts alike; pairs across strata are never compared. It is the AUC of Mann and Whitney (1947) stratified as by
  van Elteren (1960), with his weights left at one per pair.
- Average precision, matched: that within each stratum that holds slices of both kinds, weighted by its slices with
  lesions. What a random score has is averaged with the same weights.

Average precision is the step-wise sum over recall (as scikit-learn has it), ties being one step. A random order has the
prevalence on average, and of few slices more (Bestgen 2015), which is exactly known and the floor here. A patient drawn
twice has ties, which raise it as well: its interval is moved by as much as resampling does on average (ours).
Everything is a function of how often each patient is drawn, `(draw, patient)`: all scores are resampled in step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffmech.config.anomaly import AnomalyEvaluationConfig
from diffmech.statistics.bootstrap import Interval, bootstrap_statistic, bootstrap_two_groups, resampling_weights
from diffmech.statistics.units import codes, number_of_units

Weighted = Callable[[np.ndarray], np.ndarray]  # weights of patients (draw, patient) -> values (draw,)


@dataclass(frozen=True)
class Cases:
    """Slices to be told apart: `abnormal` bool, `patient` and `stratum` whole numbers, all `(slice,)`.

    Patients are numbered in the order in which they appear; a stratum of -1 is compared with nothing.
    """

    abnormal: np.ndarray
    patient: np.ndarray
    stratum: np.ndarray

    @property
    def patients(self) -> int:
        """How many patients there are."""
        return number_of_units(len(self.patient), self.patient)

    @property
    def holding(self) -> np.ndarray:
        """Whether each patient has a slice with a lesion that is compared with any, bool `(patient,)`."""
        rows = [rows[self.abnormal[rows]] for rows in _strata(self)]
        return np.bincount(self.patient[np.concatenate(rows)] if rows else [], minlength=self.patients) > 0


def cases(
    abnormal: np.ndarray, patient: np.ndarray, position: np.ndarray, bins: int, fold: np.ndarray | None = None
) -> Cases:
    """Return the cases of slices `(slice,)`; strata are `bins` equally wide bins of position within each fold.

    A slice whose position is not known (NaN) is in no stratum.
    """
    known = ~np.isnan(position)
    binned = np.minimum(np.floor(np.where(known, position, 0) * bins).astype(np.intp), bins - 1)
    folds = np.zeros(len(position), dtype=np.intp) if fold is None else codes(fold)
    return Cases(np.asarray(abnormal, dtype=bool), codes(patient), np.where(known, folds * bins + binned, -1))


def interval(
    statistic: Weighted,
    patients: int,
    config: AnomalyEvaluationConfig,
    holding: np.ndarray | None = None,
    *,
    centred: bool = False,
) -> Interval:
    """Return a function of the weights of patients, at equal weights, and its interval by resampling patients.

    The weights are the means of one column per patient, which is what the bootstrap resamples. With `holding`, bool
    `(patient,)`, who has what is looked for and who has not are resampled apart, each as many as there are: no draw is
    without either (ours). One alone without it is in every draw; ends are NaN where one alone has it. `centred` takes
    away from the ends how much more or less a resample has on average.
    """
    if centred:
        found = interval(statistic, patients, config, holding)
        excess = statistic(_drawn(patients, config, holding)).mean(0) - found.estimate
        return Interval(found.estimate, found.low - excess, found.high - excess)
    options: dict[str, Any] = {"draws": config.draws, "confidence": config.confidence, "seed": config.seed}
    sides = [] if holding is None else [np.flatnonzero(holding), np.flatnonzero(~holding)]
    if not all(side.size for side in sides) or not sides:
        return bootstrap_statistic(statistic, np.eye(patients), method="percentile", **options)

    def together(*means: np.ndarray) -> np.ndarray:
        weights = np.full((len(means[0]), patients), 1 / patients)
        for side, own in zip(sides, means, strict=False):
            weights[:, side] = own * len(side) / patients
        return statistic(weights)

    first, second = (np.eye(len(side)) for side in sides)
    if len(second) == 1:
        return bootstrap_statistic(together, first, method="percentile", **options)
    return bootstrap_two_groups(together, first, second, method="percentile", **options)


def roc_auc(score: np.ndarray, given: Cases) -> Weighted:
    """Return the ROC AUC of a score `(slice,)` within strata as a function of weights; NaN without any pair."""
    won, pairs = _pairs(score, given)

    def auc(weights: np.ndarray) -> np.ndarray:
        compared = ((weights @ pairs) * weights).sum(1)
        return np.divide(((weights @ won) * weights).sum(1), compared, out=_nan(compared), where=compared > 0)

    return auc


def average_precision(score: np.ndarray, given: Cases) -> Weighted:
    """Return the average precision within strata as a function of weights; NaN where there is no lesion."""
    parts = [_precision(score[rows], given.abnormal[rows], given.patient[rows]) for rows in _strata(given)]
    return _over_strata(parts, given)


def random_precision(given: Cases) -> float:
    """Return the average precision that a random order without ties has on average, weighted as `average_precision`
    weighs strata; NaN where nothing is compared. Of n slices, k with a lesion, that is (H + (n - H) (k - 1) / (n - 1))
    / n, where H is 1 + 1/2 + ... + 1/n. Bestgen 2015."""
    total, ill = 0.0, 0
    for rows in _strata(given):
        n, own = len(rows), int(given.abnormal[rows].sum())
        harmonic = float((1 / np.arange(1, n + 1)).sum())
        total += own * (harmonic + (n - harmonic) * (own - 1) / (n - 1)) / n
        ill += own
    return total / ill if ill else float("nan")


def compared(given: Cases) -> tuple[int, int]:
    """Return how many pairs are compared within strata, and how many slices with lesions are in any of them."""
    counts = [(int(given.abnormal[rows].sum()), int((~given.abnormal[rows]).sum())) for rows in _strata(given)]
    return sum(with_it * without for with_it, without in counts), sum(with_it for with_it, _ in counts)


def _strata(given: Cases) -> list[np.ndarray]:
    """Return the rows of each stratum that holds slices of both kinds."""
    rows = [np.flatnonzero(given.stratum == each) for each in np.unique(given.stratum[given.stratum >= 0])]
    return [each for each in rows if 0 < given.abnormal[each].sum() < len(each)]


def _pairs(score: np.ndarray, given: Cases) -> tuple[np.ndarray, np.ndarray]:
    """Return, of pairs of a slice with a lesion of one patient and one without of this or another, how many the first
    wins and how many there are, `(patient, patient)`."""
    won, pairs = (np.zeros((given.patients, given.patients)) for _ in range(2))
    for rows in _strata(given):
        ill, well = rows[given.abnormal[rows]], rows[~given.abnormal[rows]]
        above = np.sign(score[ill][:, None] - score[well]) / 2 + 0.5
        place = (given.patient[ill][:, None], given.patient[well][None])
        np.add.at(won, place, above)
        np.add.at(pairs, place, 1.0)
    return won, pairs


def _precision(score: np.ndarray, abnormal: np.ndarray, patient: np.ndarray) -> Weighted:
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last of each group of ties
    ill, of = abnormal[order].astype(float), patient[order]

    def precision(weights: np.ndarray) -> np.ndarray:
        own = weights[:, of]
        found = np.cumsum(own * ill, axis=1)[:, ends]
        asked = np.cumsum(own, axis=1)[:, ends]
        steps = np.diff(found, axis=1, prepend=0.0)
        total = found[:, -1]
        shares = np.divide(found, asked, out=np.zeros_like(found), where=asked > 0)
        return np.divide((steps * shares).sum(1), total, out=_nan(total), where=total > 0)

    return precision


def _over_strata(parts: list[Weighted], given: Cases) -> Weighted:
    """Return the mean over strata, weighted by their slices with lesions, as a function of weights."""
    ill = [(given.patient[rows], given.abnormal[rows].astype(float)) for rows in _strata(given)]

    def mean(weights: np.ndarray) -> np.ndarray:
        total, sums = np.zeros(len(weights)), np.zeros(len(weights))
        for part, (patient, abnormal) in zip(parts, ill, strict=True):
            own = weights[:, patient] @ abnormal
            sums += np.where(own > 0, own * np.nan_to_num(part(weights)), 0.0)
            total += own
        return np.divide(sums, total, out=_nan(total), where=total > 0)

    return mean


def _drawn(patients: int, config: AnomalyEvaluationConfig, holding: np.ndarray | None) -> np.ndarray:
    """Return weights `(draw, patient)` of resamples of patients, those who have what is looked for and others apart."""
    weights = np.zeros((config.draws, patients))
    sides = [np.full(patients, True)] if holding is None else [holding, ~holding]
    for number, side in enumerate(sides):
        if size := int(side.sum()):
            weights[:, side] = resampling_weights(size, config.draws, config.seed + number) * size / patients
    return weights


def _nan(like: np.ndarray) -> np.ndarray:
    return np.full_like(like, np.nan)
