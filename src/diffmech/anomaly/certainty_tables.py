"""The tables of what the model is sure of: calibration of its variances, reliability, risk and review. Ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffmech.anomaly import certainty
from diffmech.anomaly.certainty import LEVELS, slice_probabilities
from diffmech.anomaly.discrimination import interval
from diffmech.anomaly.evaluation import rounds_of
from diffmech.anomaly.over_rounds import over_rounds
from diffmech.anomaly.pooling import Pooled
from diffmech.anomaly.review import ranked_for_review
from diffmech.anomaly.slices import Slices
from diffmech.anomaly.stores import read_prediction
from diffmech.anomaly.tables import CALIBRATION, COVERAGE, DEVIATIONS, RELIABILITY, REVIEW, RISK, RISK_CURVE
from diffmech.anomaly.uncertainty import Prediction, joined
from diffmech.config.anomaly import AnomalyEvaluationConfig
from diffmech.config.studies.anomaly import UNTRAINED

GRID = np.arange(1, 21) / 20  # coverages at which the curve of risk is shown
RELIABLE = ("position", "threshold")  # beside the model's own score
NEEDED = (*RELIABLE, "uncertainty", UNTRAINED)  # scores of slices, likewise


def certainty_tables(
    pooled: Pooled,
    predictions: Sequence[Path | str],
    outputs: Mapping[str, Path | str],
    *,
    evaluation: AnomalyEvaluationConfig,
    reference: str,
) -> None:
    """Write the tables of `outputs`, by name; `predictions` are those of all rounds, in the order of the rounds."""
    by_name: dict[str, list[Prediction]] = {}
    for path in map(Path, predictions):
        by_name.setdefault(path.name.split(".")[0], []).append(read_prediction(path))
    together = {name: joined(every) for name, every in by_name.items()}
    found: dict[str, list[dict[str, object]]] = {table.name: [] for table in (CALIBRATION, COVERAGE, DEVIATIONS)}
    for name, prediction in together.items():
        for kind, rows in variance_rows(prediction, pooled.slices, evaluation).items():
            found[kind] += [{"model": name, **row} for row in rows]
    for table in (CALIBRATION, COVERAGE, DEVIATIONS):
        table.write(outputs[table.name], table.frame(found[table.name]))
    doubts = {
        "distance": -np.abs(pooled.scores[reference].slice),
        "uncertainty": pooled.scores["uncertainty"].slice,
        "epistemic": _mean_deviation(together["model"].epistemic, pooled.slices),
        UNTRAINED: _mean_deviation(together[UNTRAINED].epistemic, pooled.slices),  # of decisions of their own
    }
    _write_reliability(pooled, outputs[RELIABILITY.name], evaluation, reference)
    _write_risk(pooled, doubts, outputs, evaluation, reference)
    frame = ranked_for_review(pooled.slices, pooled.scores[reference].slice, doubts["epistemic"], 0.0)
    REVIEW.write(
        outputs[REVIEW.name], REVIEW.in_order(frame.rename(columns={"score": "model_score", "doubt": "epistemic"}))
    )


def variance_rows(
    prediction: Prediction, slices: Slices, evaluation: AnomalyEvaluationConfig
) -> dict[str, list[dict[str, object]]]:
    """Return the rows of the tables of calibration, by the name of the table; of slices without a lesion alone."""
    normal, bins = ~slices.abnormal, evaluation.calibration_bins
    own = slices.take(normal)
    given = (
        np.abs(own.images - prediction.mean[normal]),
        np.sqrt(prediction.total[normal]),
        np.broadcast_to(own.brain[:, None], own.images.shape),
        own.patient,
    )
    pixels, means = certainty.pixel_errors(*given), certainty.slice_errors(*given)
    quantities = {
        "calibration_error": certainty.calibration_error(pixels),
        "normalised_error": certainty.normalised_error(pixels, bins),
        "variation": certainty.variation(means),
        "pixel_correlation": certainty.correlation(pixels),
        "slice_correlation": certainty.correlation(means),
    }
    summary: list[dict[str, object]] = []
    for name, statistic in quantities.items():
        value = interval(statistic, pixels.patients, evaluation)
        ends = {"value": value.estimate, "low": value.low, "high": value.high}
        summary.append({"quantity": name, **ends, "patients": pixels.patients})
    covered = interval(certainty.coverage(pixels), pixels.patients, evaluation)
    levels = np.stack([np.asarray(part) for part in (covered.estimate, covered.low, covered.high)], axis=1)
    binned = interval(certainty.deviations(pixels, bins), pixels.patients, evaluation)
    estimate, low, high = (np.asarray(part) for part in (binned.estimate, binned.low, binned.high))
    names = ("coverage", "low", "high")
    return {
        CALIBRATION.name: summary,
        COVERAGE.name: [
            {"level": level, **dict(zip(names, row, strict=True))} for level, row in zip(LEVELS, levels, strict=True)
        ],
        DEVIATIONS.name: [
            {
                "bin": row,
                "predicted": estimate[0, row],
                "observed": estimate[1, row],
                "low": low[1, row],
                "high": high[1, row],
            }
            for row in range(bins)
        ],
    }


def _write_reliability(pooled: Pooled, output: Path | str, evaluation: AnomalyEvaluationConfig, reference: str) -> None:
    bins, parts = evaluation.calibration_bins, []
    for name in (reference, *RELIABLE):
        probability = _probabilities(pooled, name)
        if probability is None:
            continue
        given = (probability, pooled.slices.abnormal, pooled.slices.patient, bins)
        patients = len(pooled.slices.patients)
        both = interval(certainty.reliability(*given), patients, evaluation)
        error = interval(certainty.expected_error(*given), patients, evaluation)
        estimate, low, high = (np.asarray(part) for part in (both.estimate, both.low, both.high))
        counts = np.bincount(np.minimum((probability * bins).astype(int), bins - 1), minlength=bins)
        frame = pd.DataFrame({"bin": np.arange(bins), "predicted": estimate[0], "observed": estimate[1]})
        frame = frame.assign(low=low[1], high=high[1], slices=counts, score=name, calibration_error=error.estimate)
        frame = frame.assign(calibration_error_low=error.low, calibration_error_high=error.high)
        parts.append(RELIABILITY.in_order(frame[frame["slices"] > 0]))
    RELIABILITY.write(output, pd.concat(parts, ignore_index=True) if parts else RELIABILITY.frame())


def _probabilities(pooled: Pooled, name: str) -> np.ndarray | None:
    """Return the probabilities of test slices, fitted round by round; None where a round has labels of one kind."""
    found = np.zeros(len(pooled.slices))
    for fold in np.unique(pooled.fold):
        known, own = pooled.validation_fold == fold, pooled.fold == fold
        fitted = slice_probabilities(
            pooled.validation_scores[name].slice[known],
            pooled.validation.abnormal[known],
            pooled.scores[name].slice[own],
        )
        if fitted is None:
            return None
        found[own] = fitted
    return found


def _write_risk(
    pooled: Pooled,
    doubts: Mapping[str, np.ndarray],
    outputs: Mapping[str, Path | str],
    evaluation: AnomalyEvaluationConfig,
    reference: str,
) -> None:
    patients, rows, curve = len(pooled.slices.patients), [], []
    for name, doubt in doubts.items():
        decided = pooled.scores[UNTRAINED if name == UNTRAINED else reference].slice > 0
        wrong = decided != pooled.slices.abnormal
        best = certainty.risk(wrong, wrong, pooled.slices.patient, GRID)(np.full((1, patients), 1 / patients))[0, 0]
        every = certainty.risk(wrong, doubt, pooled.slices.patient, GRID)

        def with_difference(weights: np.ndarray, every: certainty.Weighted = every) -> np.ndarray:
            values = every(weights)
            return np.column_stack([values, values[:, 1] - values[:, 0]])

        found = interval(with_difference, patients, evaluation)
        estimate, low, high = (np.asarray(part) for part in (found.estimate, found.low, found.high))
        rounds = rounds_of(pooled.slices, pooled.fold)

        def saved(weights: np.ndarray, both: certainty.Weighted = with_difference) -> np.ndarray:
            return both(weights)[:, -1:]

        apart = over_rounds(saved, rounds, evaluation.confidence, low[-1:], high[-1:])
        ends = (estimate[0], low[0], high[0], estimate[1], best, estimate[-1], apart[0].item(), apart[1].item())
        rows.append((name, *ends, patients))
        if name != UNTRAINED:
            curve += [
                (name, share, estimate[2 + place], low[2 + place], high[2 + place]) for place, share in enumerate(GRID)
            ]
    RISK.write(outputs[RISK.name], RISK.frame(rows))
    RISK_CURVE.write(outputs[RISK_CURVE.name], RISK_CURVE.frame(curve))


def _mean_deviation(variance: np.ndarray, slices: Slices) -> np.ndarray:
    """Return the root of a variance, mean over the brain `(slice,)`."""
    deviation = np.where(slices.brain, np.sqrt(variance).mean(1), 0)
    return np.asarray(deviation.sum((1, 2), dtype=np.float64) / np.maximum(slices.brain.sum((1, 2)), 1))
