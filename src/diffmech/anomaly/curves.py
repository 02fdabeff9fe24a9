"""Receiver operating characteristic and precision-recall curves of slices, with bands over patients. Ours.

A curve is read off at fixed places: the share of lesions found at a share of false alarms (linear between thresholds,
as the trapezoids of ROC AUC have it), and the precision at the highest threshold at which a share of lesions is found
(a step, as average precision has it). The band holds at each place, not for the curve as a whole.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from diffmech.anomaly.discrimination import Cases, Weighted, interval
from diffmech.anomaly.scores import Scored
from diffmech.config.anomaly import AnomalyEvaluationConfig

PLACES = np.linspace(0, 1, 41)
KINDS = ("roc", "precision_recall")


def curves(
    scores: Mapping[str, Scored], names: Sequence[str], given: Cases, config: AnomalyEvaluationConfig
) -> pd.DataFrame:
    """Return a row per score of `names` that there is, kind of curve and place: `y` at `x` with its band.

    `given` are slices in one stratum; `floor` is what a random score has at `x`.
    """
    rows = []
    share = float(given.abnormal.mean())
    for name in names:
        if name not in scores:
            continue
        found = interval(curve_of(scores[name].slice, given), given.patients, config, given.holding)
        ends = np.stack([np.asarray(end) for end in (found.estimate, found.low, found.high)], axis=-1)
        for kind, values in zip(KINDS, np.split(ends, len(KINDS)), strict=True):
            for x, (y, low, high) in zip(PLACES, values.tolist(), strict=True):
                floor = float(x) if kind == "roc" else share
                rows.append({"score": name, "curve": kind, "x": x, "y": y, "low": low, "high": high, "floor": floor})
    return pd.DataFrame(rows)


def placements(score: np.ndarray, given: Cases, fold: np.ndarray) -> np.ndarray:
    """Return, for scores `(slice,)` of several folds, the share of healthy slices of the own fold that each is above,
    ties counting half: folds have networks of their own, whose scores are compared with nothing else. Scores of one
    fold are returned as they are, since this changes no order there."""
    if len(np.unique(fold)) == 1:
        return score
    placed = np.full(len(score), np.nan)
    for each in np.unique(fold):
        rows = fold == each
        healthy = np.sort(score[rows & ~given.abnormal])
        below, up_to = (np.searchsorted(healthy, score[rows], side=side) for side in ("left", "right"))
        placed[rows] = (below + up_to) / 2 / max(len(healthy), 1)
    return placed


def curve_of(score: np.ndarray, given: Cases) -> Weighted:
    """Return both curves of a score `(slice,)` at PLACES, one after the other, as a function of the weights of
    patients: `(draw, 2 * place)`, NaN without slices of both kinds."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last of each group of ties
    ill, of = given.abnormal[order], given.patient[order]

    def values(weights: np.ndarray) -> np.ndarray:
        own = weights[:, of]
        hits, alarms = (np.cumsum(own * kind, axis=1)[:, ends] for kind in (ill, ~ill))
        return np.stack([_at_places(*pair) for pair in zip(hits, alarms, strict=True)])

    return values


def _at_places(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Return one draw's curves from the weights of slices found with and without a lesion, `(threshold,)` each."""
    if hits[-1] <= 0 or alarms[-1] <= 0:
        return np.full(len(KINDS) * len(PLACES), np.nan)
    recall, false = hits / hits[-1], alarms / alarms[-1]
    roc = np.interp(PLACES, np.append(0, false), np.append(0, recall))
    asked = hits + alarms
    precision = np.divide(hits, asked, out=np.ones_like(hits), where=asked > 0)
    first = np.minimum(np.searchsorted(recall, PLACES - 1e-12), len(recall) - 1)
    return np.concatenate([roc, precision[first]])
