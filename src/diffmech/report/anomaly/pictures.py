"""Slices side by side: what was seen, where the lesion is, what the model expected, and what it was unsure of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from diffmech.anomaly.pooling import Pooled, pool
from diffmech.anomaly.stores import read_prediction
from diffmech.anomaly.uncertainty import Prediction, joined
from diffmech.config.studies.anomaly import AnomalyStudy
from diffmech.report.pictures import MARKED, Picture, inferno, mosaic, picture
from diffmech.report.wording import number

TILE = 80  # CSS pixels of one image
COLUMNS = ("slice", "lesion", "reconstruction", "residual", "epistemic", "aleatoric", "score")
TOP = 99.5  # percentile over the brain pixels of all test slices at which a colour is full


@dataclass(frozen=True)
class Shown:
    """Test slices of all rounds, what the model predicts of them, and its score, whose threshold is 0."""

    pooled: Pooled
    prediction: Prediction
    score: np.ndarray
    pixel: np.ndarray


def read_shown(inputs: Mapping[str, Any], anomaly: AnomalyStudy) -> Shown:
    """Return what pictures are made of, from `slices`, `table`, `scores` and `predictions`."""
    stores, model = _listed(inputs["scores"]), anomaly.scores.model
    pooled = pool(inputs["slices"], inputs["table"], stores, anomaly.evaluation, names=[model])
    prediction = joined([read_prediction(path) for path in _listed(inputs["predictions"])])
    score = pooled.scores[model]
    assert score.pixel is not None
    return Shown(pooled, prediction, score.slice, score.pixel)


def chosen(shown: Shown, examples: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what is shown and the rows of its slices: by how well the pixels of lesions are found, and false alarms."""
    slices = shown.pooled.slices
    rows = np.flatnonzero(slices.lesion.any((1, 2)))
    if rows.size:
        found = [
            average_precision_score(slices.lesion[row][slices.brain[row]], shown.pixel[row][slices.brain[row]])
            for row in rows
        ]
        order = rows[np.argsort(found, kind="stable")[::-1]]
        middle = max(0, (len(order) - examples) // 2)
        yield "best", order[:examples]
        yield "in the middle", order[middle : middle + examples]
        yield "worst", order[::-1][:examples]
    healthy = np.flatnonzero(~slices.abnormal)
    alarms = healthy[np.argsort(-shown.score[healthy], kind="stable")]
    yield "false alarms", alarms[shown.score[alarms] > 0][:examples]


def rows_of(shown: Shown, rows: np.ndarray, what: str) -> list[Picture]:
    """Return one row of tiles per slice: COLUMNS, of the first modality."""
    slices, prediction = shown.pooled.slices, shown.prediction
    residual = np.abs(slices.images[:, 0] - prediction.mean[:, 0])
    maps = [residual, np.sqrt(prediction.epistemic[:, 0]), np.sqrt(prediction.aleatoric[:, 0]), shown.pixel]
    tops = [max(float(np.percentile(each[slices.brain], TOP)), 1e-9) for each in maps]
    pictures = []
    for row in rows:
        inside = slices.brain[row]
        grey = _grey(slices.images[row, 0])
        marked = grey.copy()
        marked[slices.lesion[row]] = MARKED
        heats = [_heat(np.where(inside, each[row], 0), top) for each, top in zip(maps, tops, strict=True)]
        tiles = [grey, marked, _grey(np.where(inside, prediction.mean[row, 0], 0)), *heats]
        kind = slices.kind[row] or ("lesion" if slices.abnormal[row] else "no lesion")
        caption = f"{what}: {slices.patient[row]}, {kind}, score {number(float(shown.score[row]), 2)}"
        pictures.append(
            picture(mosaic(tiles, len(tiles)), f"{caption}: {', '.join(COLUMNS)}", caption, tiles=len(tiles))
        )
    return pictures


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)[..., None], 3, axis=-1)


def _heat(values: np.ndarray, top: float) -> np.ndarray:
    return np.rint(inferno(np.clip(values / top, 0, 1))).astype(np.uint8)


def _listed(paths: Any) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)
