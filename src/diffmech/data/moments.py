"""Bring data sets to one mean and contrast by one gain and one offset each. Ours.

Mean and contrast are low-level differences between domains that would otherwise be taken for differences in mechanism.
Mean = mean over all pixels; contrast = mean over images of the standard deviation of an image's pixels; both on the
scale [-1, 1]. Without clipping, gain and offset follow in closed form; clipping at [-1, 1] shifts both moments, so
Newton steps with exact derivatives follow until the clipped moments hit the target. Each step reads the images once,
in chunks; what is reported is measured on the clipped images.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from diffmech.config.images import Moments
from diffmech.errors import DataError

LEVELS = np.arange(256) / 127.5 - 1  # pixel values of the 256 bytes on the scale [-1, 1]
TOLERANCE = 1e-4
STEPS = 12

Chunks = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Measured:
    """Moments after gain, offset and clipping, the share of clipped pixels, and d(mean, contrast) / d(gain, offset)."""

    mean: float
    contrast: float
    clipped_share: float
    slopes: np.ndarray


@dataclass(frozen=True)
class Matching:
    """The gain and offset of a data set and its moments before and after them."""

    gain: float
    offset: float
    before: Measured
    after: Measured


def match_moments(chunks: Chunks, target: Moments | None, *, name: str) -> Matching:
    """Return the gain and offset that bring images to `target`, or 1 and 0 where it is None.

    `chunks()` starts anew over uint8 arrays `(sample, channel, y, x)`. Where clipping puts the target out of reach
    (two-tone images, say), the closest pair found is returned. Raises DataError if no image has any contrast.
    """
    before = measure(chunks(), 1.0, 0.0)
    if target is None:
        return Matching(1.0, 0.0, before, before)
    if before.contrast == 0:
        raise DataError(
            f"{name}: every image is one flat colour, so contrast cannot be matched; set images.match: null"
        )
    wanted = np.array([target.mean, target.contrast])
    gain = target.contrast / before.contrast
    point = np.array([gain, target.mean - gain * before.mean])
    best: Matching | None = None
    smallest = np.inf
    for _ in range(STEPS):
        after = measure(chunks(), point[0], point[1])
        miss = wanted - [after.mean, after.contrast]
        if np.abs(miss).max() < smallest:
            smallest = float(np.abs(miss).max())
            best = Matching(float(point[0]), float(point[1]), before, after)
            step = np.linalg.lstsq(after.slopes, miss, rcond=None)[0]
            origin = point
        else:
            step = step / 2
        if smallest < TOLERANCE or np.abs(step).max() < TOLERANCE:
            break
        # the gain may at most double or halve in one step: beyond that the slopes say nothing
        step = step / max(1.0, abs(step[0]) / (origin[0] / 2))
        point = origin + step
    assert best is not None  # the first step always improves on infinity
    return best


def measure(chunks: Iterable[np.ndarray], gain: float, offset: float) -> Measured:
    """Return the moments of clip(gain * x + offset, -1, 1) over uint8 images `(sample, channel, y, x)`."""
    linear = gain * LEVELS + offset
    clipped = np.clip(linear, -1, 1)
    free = (np.abs(linear) <= 1).astype(float)
    # per image: E x, E x^2, and, for the derivatives, E u, E u r, E x u, E x u r with u = "not clipped", r = raw value
    curves = np.stack([clipped, clipped**2, free, free * LEVELS, clipped * free, clipped * free * LEVELS], axis=1)
    total = np.zeros(7)
    count = 0
    for images in chunks:
        shares = histograms(images)
        x, square, u, ur, xu, xur = (shares @ curves).T
        spread = np.sqrt(np.maximum(square - x**2, 0))
        # a flat image has no contrast and, to first order, no way to change it
        inverse = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 1e-9)
        total += [x.sum(), spread.sum(), u.sum(), ur.sum(), u.sum(), 0, 0]
        total[5] += ((xur - x * ur) * inverse).sum()
        total[6] += ((xu - x * u) * inverse).sum()
        count += len(images)
    mean, contrast, unclipped, mean_gain, mean_offset, contrast_gain, contrast_offset = total / count
    slopes = np.array([[mean_gain, mean_offset], [contrast_gain, contrast_offset]])
    return Measured(float(mean), float(contrast), float(max(0.0, 1 - unclipped)), slopes)


def histograms(images: np.ndarray) -> np.ndarray:
    """Return, per uint8 image, the share of its pixels at each of the 256 values, `(sample, 256)`."""
    return np.stack([np.bincount(image.ravel(), minlength=256) for image in images]) / images[0].size
