"""Reading the factors of an image from its codes. Ours.

Every factor is a vector, so that changes of any of them are lengths on one scale: a number is itself, a circular factor
its cosine and sine, a discrete one the indicators of its classes. Lengths are in standard deviations of that vector,
the root of the sum of its variances over images.

The reader is ridge regression on 500 random features of a Gaussian kernel (Nystroem, Williams & Seeger 2001) of
standardised codes, whose penalty is chosen for each number by leaving out one image at a time: codes bend, which a
line does not follow, and trees read them worse and give steps where small changes are asked for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diffmech.data.factors.factor import Factor
from diffmech.errors import DataError
from diffmech.randomness import generator

Read = Callable[[np.ndarray], list[np.ndarray]]
COMPONENTS = 500
PENALTIES = np.logspace(-8, 2, 11)


@dataclass(frozen=True)
class Readout:
    """`read` gives codes `(image, number)` -> for each factor `(image, component)`; `quality` `(factor,)` is R2, or the
    share of right classes of a discrete factor, on images that nothing was fitted on."""

    read: Read
    quality: np.ndarray


def as_vectors(values: np.ndarray, factor: Factor) -> np.ndarray:
    """Return the vectors `(image, component)` of values `(image,)` of a factor. Raises DataError for no such class."""
    if factor.kind == "discrete":
        return (factor.classes_of(values)[:, None] == np.arange(len(factor.values))).astype(np.float64)
    if factor.kind == "circular" and factor.period is not None:
        angle = 2 * math.pi * (values - factor.low) / factor.period
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(values, dtype=np.float64)[:, None]


def spread(vectors: np.ndarray, factor: Factor) -> float:
    """Return the standard deviation of the vectors `(image, component)` of a factor.

    Raises DataError where they never differ.
    """
    found = float(np.sqrt(vectors.var(0).sum()))
    if found == 0:
        raise DataError(
            f"factor {factor.name!r} never differs among {len(vectors)} images, so no effect on it has a scale; "
            "study other factors, or encode more images"
        )
    return found


def fit_readout(codes: np.ndarray, values: np.ndarray, factors: Sequence[Factor], *, seed: int) -> Readout:
    """Return what reads `factors` from codes `(image, number)`, fitted on half of the images and judged on the rest.

    `values` are `(image, factor)`, of these factors in this order.
    """
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    targets = [as_vectors(column, factor) for column, factor in zip(values.T, factors, strict=True)]
    ends = np.cumsum([target.shape[1] for target in targets])[:-1]
    order = generator(seed, "halves of a readout").permutation(len(codes))
    fitted, judged = order[: len(order) // 2], order[len(order) // 2 :]
    scaler = StandardScaler().fit(codes[fitted])
    varying = int((codes[fitted].std(0) > 0).sum())
    kernel = Nystroem(gamma=1 / (4 * max(varying, 1)), n_components=min(COMPONENTS, len(fitted)), random_state=seed)
    ridge = RidgeCV(alphas=PENALTIES, alpha_per_target=True)
    model = make_pipeline(scaler, kernel, ridge).fit(codes[fitted], np.concatenate(targets, axis=1)[fitted])

    def read(given: np.ndarray) -> list[np.ndarray]:
        return np.split(model.predict(given).reshape(len(given), -1), ends, axis=1)

    found = read(codes[judged])
    quality = [
        _quality(predicted, target[judged], factor)
        for predicted, target, factor in zip(found, targets, factors, strict=True)
    ]
    return Readout(read, np.array(quality))


def _quality(predicted: np.ndarray, target: np.ndarray, factor: Factor) -> float:
    if factor.kind == "discrete":
        return float((predicted.argmax(1) == target.argmax(1)).mean())
    return float(1 - np.square(predicted - target).sum() / np.square(target - target.mean(0)).sum())
