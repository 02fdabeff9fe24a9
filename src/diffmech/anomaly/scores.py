"""How unusual a slice and each of its pixels are: maps of the model, made comparable and brought to one number. Ours.

Every map, of the model and of its competitors, is smoothed by one Gaussian inside of the brain and becomes the score of
its slice by one rule, the mean of its highest pixels: what is compared is the maps. Maps of the model:

- `reconstruction`: |x - mean|, averaged over modalities;
- `uncertainty`: the root of the total variance, averaged likewise;
- `combined`: the sum of these two, each in units of its standard deviation over the brain pixels of healthy validation
  slices, where both are centred: weights that no lesion has a say in;
- `standardised`: (x - mean)^2 over the total variance, averaged likewise: how improbable the pixel is under the model;
- `standardised_bright`: (x - mean) over the root of the total variance, averaged likewise: the same with the knowledge
  that lesions are bright, for comparison with competitors that have it.

`combined_by_labels` has the weights under which the pixels of validation patients are told best, by their labels: shown
beside it as the upper bound that a user without labels does not have.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score

from diffmech.anomaly.slices import Slices
from diffmech.anomaly.uncertainty import Prediction
from diffmech.config.anomaly import ScoreConfig

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of the uncertainty, among which labels may choose
LEAST = 1e-12
NEAR_SCORES = 0.1  # standard deviation, in position, of the weights of healthy slices


@dataclass(frozen=True)
class Scored:
    """Scores, the higher the more unusual: `slice` float64 `(slice,)`, `pixel` float32 `(slice, y, x)`, None where it
    is not defined; what lies outside of the brain has no meaning."""

    slice: np.ndarray
    pixel: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Scored":
        """Return the scores of some slices."""
        return Scored(self.slice[rows], None if self.pixel is None else self.pixel[rows])


def scored(maps: np.ndarray, brain: np.ndarray, config: ScoreConfig) -> Scored:
    """Return the scores of raw maps `(slice, y, x)`: smoothed within the brain, and the mean of the highest pixels."""
    pixel = smoothed(maps, brain, config.smoothing)
    return Scored(highest(pixel, brain, config.top_share), pixel)


def smoothed(maps: np.ndarray, brain: np.ndarray, deviation: float) -> np.ndarray:
    """Return maps `(slice, y, x)` smoothed by a Gaussian of this deviation in pixels, from pixels of the brain alone
    (normalised convolution, Knutsson & Westin 1993), float32; 0 outside of the brain."""
    inside = brain.astype(np.float32)
    maps = np.where(brain, maps, 0).astype(np.float32)
    if not deviation:
        return maps
    sigma = (0, deviation, deviation)
    weight = gaussian_filter(inside, sigma, mode="constant", truncate=3)
    sums = gaussian_filter(maps, sigma, mode="constant", truncate=3)
    return np.divide(sums, weight, out=np.zeros_like(sums), where=brain & (weight > 0))


def highest(maps: np.ndarray, brain: np.ndarray, share: float) -> np.ndarray:
    """Return the mean of the highest `share` of each map's pixels in the brain, at least of one, float64 `(slice,)`;
    0 for a slice without any brain."""
    found = np.zeros(len(maps))
    for row, (values, inside) in enumerate(zip(maps, brain, strict=True)):
        own = values[inside]
        if own.size:
            count = max(1, round(share * own.size))
            found[row] = np.partition(own, own.size - count)[-count:].mean(dtype=np.float64)
    return found


def beyond_position(score: np.ndarray, slices: Slices, known: np.ndarray, validation: Slices) -> np.ndarray:
    """Return how far scores `(slice,)` lie above what healthy slices of about the same position have, `(slice,)`.

    `known` are the scores of `validation` slices, of which those without a lesion count, by a Gaussian of their
    distance in position; the unit is the standard deviation that is left of theirs. Small slices at the ends of the
    head are reconstructed worst: this takes away what a score owes to that, and so also what it may gain by it.
    """
    normal = ~validation.abnormal
    places = np.nan_to_num(validation.position[normal], nan=0.5)

    def expected(positions: np.ndarray) -> np.ndarray:
        distances = (np.nan_to_num(positions, nan=0.5)[:, None] - places) / NEAR_SCORES
        weights = np.exp(-0.5 * distances**2) + LEAST
        return np.asarray(weights @ known[normal] / weights.sum(1))

    left = known[normal] - expected(validation.position[normal])
    return (score - expected(slices.position)) / max(float(left.std()), LEAST)


def model_maps(images: np.ndarray, prediction: Prediction) -> dict[str, np.ndarray]:
    """Return the raw maps of the model, float32 `(slice, y, x)`, but for those that are combined of them."""
    residual, deviation = images - prediction.mean, np.sqrt(prediction.total)
    distance = residual / np.maximum(deviation, np.float32(LEAST))
    return {
        "reconstruction": np.abs(residual).mean(1),
        "uncertainty": deviation.mean(1),
        "standardised": np.square(distance).mean(1),
        "standardised_bright": distance.mean(1),
    }


@dataclass(frozen=True)
class Scale:
    """A mean, or another level, and the standard deviation over healthy validation slices or their brain pixels."""

    mean: float
    deviation: float

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return maps, or scores of slices, in units of that deviation, from that mean on; of the same type."""
        kind = values.dtype.type
        return np.asarray((values - kind(self.mean)) / kind(self.deviation))


def scale(maps: np.ndarray, slices: Slices) -> Scale:
    """Return the scale of maps `(slice, y, x)` over the brain pixels of validation slices without a lesion."""
    own = maps[~slices.abnormal][slices.brain[~slices.abnormal]].astype(np.float64)
    return Scale(float(own.mean()), max(float(own.std()), LEAST))


def model_scores(
    maps: Mapping[str, np.ndarray],
    slices: Slices,
    validation_maps: Mapping[str, np.ndarray],
    validation: Slices,
    config: ScoreConfig,
) -> tuple[dict[str, Scored], dict[str, float]]:
    """Return the scores of `slices` by name, and the weight of the uncertainty in either combination.

    Labels of validation patients are used by `combined_by_labels` alone, those of `slices` by none.
    """
    parts = ("reconstruction", "uncertainty")
    scales = {name: scale(validation_maps[name], validation) for name in parts}
    error, doubt = (scales[name].of(maps[name]) for name in parts)
    known_error, known_doubt = (scales[name].of(validation_maps[name]) for name in parts)
    chosen = labelled_weight(known_error, known_doubt, validation, config)
    weights = {"combined": 0.5, "combined_by_labels": chosen}
    every = {**maps, **{name: (1 - weight) * error + weight * doubt for name, weight in weights.items()}}
    return {name: scored(each, slices.brain, config) for name, each in every.items()}, weights


def labelled_weight(error: np.ndarray, doubt: np.ndarray, validation: Slices, config: ScoreConfig) -> float:
    """Return the weight of `doubt` beside `error`, maps `(slice, y, x)` on one scale, with the highest average
    precision over brain pixels of validation slices; one half where no lesion of theirs is marked."""
    if not validation.lesion.any():
        return 0.5
    labels = validation.lesion[validation.brain]

    def precision(weight: float) -> float:
        both = smoothed((1 - weight) * error + weight * doubt, validation.brain, config.smoothing)
        return float(average_precision_score(labels, both[validation.brain]))

    return max(WEIGHTS, key=precision)
