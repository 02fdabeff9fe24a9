"""All scores on the slices of the test patients: each measure with its interval, its floor and its matched twin. Ours.

Patients are the unit of every interval, and all scores are resampled in step, so that differences are paired. Labels of
the slices come in here and nowhere before.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from diffmech.anomaly import discrimination as slicewise
from diffmech.anomaly import pixels as pixelwise
from diffmech.anomaly.discrimination import Cases, Weighted, cases, interval
from diffmech.anomaly.over_rounds import over_rounds
from diffmech.anomaly.scores import Scored
from diffmech.anomaly.slices import Slices
from diffmech.config.anomaly import AnomalyEvaluationConfig
from diffmech.errors import DataError
from diffmech.statistics.units import codes

SLICE_MEASURES = ("roc_auc", "average_precision")
ALL = "all"


def slice_cases(slices: Slices, config: AnomalyEvaluationConfig, fold: np.ndarray | None = None) -> dict[str, Cases]:
    """Return the cases overall and within bins of position; with `fold` `(slice,)` within folds, both of them.

    Raises DataError where there is nothing to tell apart.
    """
    matched = cases(slices.abnormal, slices.patient, slices.position, config.position_bins, fold)
    overall = cases(slices.abnormal, slices.patient, np.zeros(len(slices)), 1, fold)
    if not slicewise.compared(overall)[0]:
        raise DataError(
            f"{len(slices)} test slices are all of one kind; a score needs some with and some without a lesion to be "
            "judged by"
        )
    return {"overall": overall, "matched": matched}


def slice_measures(
    scores: Mapping[str, Scored],
    slices: Slices,
    config: AnomalyEvaluationConfig,
    *,
    reference: str,
    fold: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return a row per score, measure and matching: its value with its interval, the floor of a random score and, with
    its interval, the difference of the `reference` score to it.

    The floor is 0.5 of ROC AUC, about the prevalence of average precision; `lift` is the value over the floor. Columns:
    score, measure, matching, value, low, high, floor, lift, difference, difference_low, difference_high, patients,
    patients_with_lesions, lesions (slices with lesions that are compared). Measures are NaN where nothing is compared.
    """
    rows = []
    for matching, given in slice_cases(slices, config, fold).items():
        floors = {"roc_auc": 0.5, "average_precision": slicewise.random_precision(given)}
        for measure in SLICE_MEASURES:
            make = getattr(slicewise, measure)
            statistics = {name: make(each.slice, given) for name, each in scores.items()}
            sizes = (given.holding, rounds_of(slices, fold))
            centred = measure == "average_precision"
            for row in _rows(statistics, *sizes, config, reference, floors[measure], centred=centred):
                rows.append({"measure": measure, "matching": matching, **row, "lesions": slicewise.compared(given)[1]})
    return pd.DataFrame(rows)


def pixel_measures(
    scores: Mapping[str, Scored],
    slices: Slices,
    config: AnomalyEvaluationConfig,
    *,
    reference: str,
    fold: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return a row per score and group of slices: average precision over brain pixels and, as `best_dice`, the highest
    Dice over all thresholds, which the labels choose. Columns as in `slice_measures`, with `group`, `of` it.

    Groups are `all`, sizes and kinds of lesions, each with all slices without a lesion, so that the prevalence, the
    floor, differs between groups.
    """
    rows, rounds = [], rounds_of(slices, fold)
    for group, of, chosen in groups(slices, config):
        counts = {
            name: pixelwise.pixel_counts(each.pixel, slices, chosen)
            for name, each in scores.items()
            if each.pixel is not None
        }
        if not counts or not next(iter(counts.values())).ill.sum():
            continue
        some = next(iter(counts.values()))
        floor = _plain(pixelwise.pixel_prevalence(some), len(some.ill))
        for measure, make in (
            ("pixel_average_precision", pixelwise.pixel_average_precision),
            ("best_dice", pixelwise.best_dice),
        ):
            statistics = {name: make(each) for name, each in counts.items()}
            limit = floor if measure == "pixel_average_precision" else 2 * floor / (1 + floor)
            for row in _rows(statistics, some.ill.sum(1) > 0, rounds, config, reference, limit):
                rows.append({"measure": measure, "group": group, "of": of, **row})
    return pd.DataFrame(rows)


def dice_measures(
    scores: Mapping[str, Scored],
    slices: Slices,
    config: AnomalyEvaluationConfig,
    *,
    reference: str,
    fold: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return a row per score and group: Dice at the threshold that healthy validation slices fix, which is 0 in the
    units of `pooling`, that scores come in.

    The floor is the Dice of calling all of the brain a lesion.
    """
    rows, rounds = [], rounds_of(slices, fold)
    named = {name: each.pixel for name, each in scores.items() if each.pixel is not None}
    for group, of, chosen in groups(slices, config):
        counts = pixelwise.pixel_counts(next(iter(named.values())), slices, chosen)
        if not counts.ill.sum():
            continue
        share = _plain(pixelwise.pixel_prevalence(counts), len(counts.ill))
        statistics = {name: pixelwise.dice_at(pixel, slices, 0.0, chosen) for name, pixel in named.items()}
        for row in _rows(statistics, counts.ill.sum(1) > 0, rounds, config, reference, 2 * share / (1 + share)):
            rows.append({"measure": "dice", "group": group, "of": of, **row})
    return pd.DataFrame(rows)


def rounds_of(slices: Slices, fold: np.ndarray | None) -> np.ndarray:
    """Return the round in which each patient tests `(patient,)`, of that of slices `(slice,)`; one alone without."""
    numbers = codes(slices.patient)
    found = np.zeros(len(slices.patients), dtype=np.intp)
    if fold is not None:
        found[numbers] = codes(fold)
    return found


def groups(slices: Slices, config: AnomalyEvaluationConfig) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield the groups of slices that pixels are judged in: the group, what it is of, and its slices `(slice,)`."""
    yield ALL, ALL, np.ones(len(slices), dtype=bool)
    for name, rows in pixelwise.lesion_rows(slices, config.sizes).items():
        yield name, "size", rows
    for name, rows in pixelwise.kind_rows(slices).items():
        yield name, "kind", rows


def _rows(
    statistics: Mapping[str, Weighted],
    holding: np.ndarray,
    rounds: np.ndarray,
    config: AnomalyEvaluationConfig,
    reference: str,
    floor: float,
    *,
    centred: bool = False,
) -> Iterator[dict[str, object]]:
    """Yield the row of each score; `holding` `(patient,)` says who has a lesion of the group, and `rounds` where each
    tests."""
    names, patients = list(statistics), len(holding)

    def every(weights: np.ndarray) -> np.ndarray:
        """Return all values, and what each lacks to the reference: `(draw, 2 * score)`, each computed once."""
        values = np.stack([statistics[name](weights) for name in names], axis=1)
        if reference not in statistics:
            return values
        return np.concatenate([values, values[:, [names.index(reference)]] - values], axis=1)

    found = interval(every, patients, config, holding, centred=centred)
    ends = np.stack([np.asarray(end) for end in (found.estimate, found.low, found.high)])
    apart = slice(len(names), None)
    if reference in statistics:
        ends[1:, apart] = over_rounds(lambda w: every(w)[:, apart], rounds, config.confidence, *ends[1:, apart])
    for place, name in enumerate(names):
        row: dict[str, object] = dict(zip(("value", "low", "high"), ends[:, place].tolist(), strict=True))
        lacks = dict.fromkeys(("difference", "difference_low", "difference_high"), float("nan"))
        if reference in statistics and name != reference:
            lacks = dict(zip(lacks, ends[:, apart][:, place].tolist(), strict=True))
        lift = float(ends[0, place]) / floor
        counted = {"patients": patients, "patients_with_lesions": int(holding.sum())}
        yield {"score": name, **row, "floor": floor, "lift": lift, **lacks, **counted}


def _plain(statistic: Weighted, patients: int) -> float:
    """Return a function of weights where all patients count alike."""
    return float(statistic(np.full((1, patients), 1 / patients))[0])
