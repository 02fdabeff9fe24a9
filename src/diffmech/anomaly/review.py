"""Which slices a reader should look at first, and the threshold by which slices are decided. Ours."""

import numpy as np
import pandas as pd

from diffmech.anomaly.slices import Slices


def slice_threshold(score: np.ndarray, validation: Slices, false_positives: float) -> float:
    """Return the score `(slice,)` that this share of validation slices without a lesion exceeds."""
    return float(np.quantile(score[~validation.abnormal], 1 - false_positives))


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
