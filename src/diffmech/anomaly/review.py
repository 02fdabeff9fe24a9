"""Which slices a reader should look at first, and what is gained by leaving the uncertain ones to a reader.

Slices are decided by a threshold on their score, the surest first; the risk at a coverage is the share of wrong
decisions among those decided so far, and AURC is its mean over all coverages (Geifman & El-Yaniv 2017). Beside it stand
what a random order would give, which is the error of all decisions, and the best possible order, all right ones first
(their E-AURC is the distance to it).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from diffmech.anomaly.slices import Slices


@dataclass(frozen=True)
class RiskCoverage:
    """Coverage and risk `(slice,)`, from the surest decision on, and the areas under the curve, of a random order and
    of the best possible one."""

    coverage: np.ndarray
    risk: np.ndarray
    area: float
    random_area: float
    best_area: float


def risk_coverage(wrong: np.ndarray, doubt: np.ndarray) -> RiskCoverage:
    """Return the curve of decisions `wrong` bool `(slice,)`, in the order of their `doubt`, the smallest first.

    Where doubts are equal, each of them has the mean of what they do together: their order is chance.
    """
    risk, best = _risks(wrong.astype(float), doubt), _risks(wrong.astype(float), wrong.astype(float))
    coverage = np.arange(1, len(wrong) + 1) / len(wrong)
    return RiskCoverage(coverage, risk, float(risk.mean()), float(wrong.mean()), float(best.mean()))


def slice_threshold(score: np.ndarray, validation: Slices, false_positives: float) -> float:
    """Return the score `(slice,)` that this share of validation slices without a lesion exceeds."""
    return float(np.quantile(score[~validation.abnormal], 1 - false_positives))


def distance_to_threshold(score: np.ndarray, threshold: float) -> np.ndarray:
    """Return how doubtful decisions are by the score alone: the less, the farther it is from the threshold."""
    return -np.abs(score - threshold)


def ranked_for_review(slices: Slices, score: np.ndarray, doubt: np.ndarray, threshold: float) -> pd.DataFrame:
    """Return one row per slice, the highest score first: where it is, its score and doubt, whether the threshold calls
    it abnormal, and, last, whether it holds a lesion, which a reader does not know."""
    frame = pd.DataFrame(
        {
            "patient": slices.patient,
            "position": slices.position,
            "score": score,
            "doubt": doubt,
            "flagged": score > threshold,
            "abnormal": slices.abnormal,
        }
    )
    frame = frame.sort_values(["score", "patient", "position"], ascending=[False, True, True], kind="stable")
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    return frame.reset_index(drop=True)


def _risks(wrong: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    order = np.argsort(doubt, kind="stable")
    _, group = np.unique(doubt[order], return_inverse=True)
    mean = np.bincount(group, weights=wrong[order]) / np.bincount(group)
    return np.asarray(np.cumsum(mean[group]) / np.arange(1, len(wrong) + 1))
