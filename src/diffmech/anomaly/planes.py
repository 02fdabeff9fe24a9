"""From volumes of any grid to axial slices of one size in mm: geometry and intensities. Ours.

A volume is an array with an affine from its indices to mm in RAS+ (x from left to right, y from back to front, z from
bottom to top), as NIfTI defines it. Slices are planes of constant z, pixels averages over their area, so that rotated
axes, oblique grids and pixels that are no squares need no cases of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from diffmech.anomaly.slices import Slices
from diffmech.config.anomaly_data import BrainData

DARK = 0.5  # percentile of the intensities inside the brain that becomes 0
MIDDLE = 0.4  # what their median becomes


@dataclass(frozen=True)
class Frame:
    """Where slices lie: `centre` of the square in mm (x, y), its side `field` in mm, `size` in pixels, `heights` of
    the planes in mm, from the bottom up."""

    centre: tuple[float, float]
    field: float
    size: int
    heights: np.ndarray


def sample_planes(volume: np.ndarray, affine: np.ndarray, frame: Frame) -> np.ndarray:
    """Return float32 `(slice, y, x)`: averages of a volume over the area of each pixel, 0 outside of the volume.

    Row 0 is the front of the head, column 0 the patient's right. `volume` is `(i, j, k)`, `affine` `(4, 4)` in mm.
    Points lie at most as far apart as the voxels; between voxels interpolation is linear, and an image that is all
    true stays so up to rounding.
    """
    pixel = frame.field / frame.size
    fine = max(1, int(np.ceil(pixel / np.linalg.norm(affine[:3, :3], axis=0).min() - 1e-6)))
    offsets = (np.arange(frame.size * fine) + 0.5) / fine * pixel - frame.field / 2
    x, y = (middle - offsets for middle in frame.centre)
    inverse = np.linalg.inv(affine)
    out = np.empty((len(frame.heights), frame.size, frame.size), dtype=np.float32)
    for row, height in enumerate(frame.heights):
        base = inverse[:3, 3] + inverse[:3, 2] * height
        points = base[:, None, None] + inverse[:3, 1, None, None] * y[:, None] + inverse[:3, 0, None, None] * x
        values = ndimage.map_coordinates(volume, points, order=1, mode="constant", output=np.float32)
        out[row] = values.reshape(frame.size, fine, frame.size, fine).mean((1, 3))
    return out


def lesion_pixels(share: np.ndarray) -> np.ndarray:
    """Return bool `(..., y, x)`: pixels at least half of which the lesion covers; where none is, and there is a lesion
    in the slice, the one that it covers most of. So no slice with a lesion counts as without one."""
    half = share >= 0.5 - 1e-6
    most = share.max((-2, -1), keepdims=True)
    return half | (~half.any((-2, -1), keepdims=True) & (share == most) & (most > 1e-6))


def normalise(images: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Return float32 images `(slice, y, x)` of one volume in [0, 1], 0 outside of `brain`.

    Of the intensities inside, percentile 0.5 becomes 0 and the median 0.4; what would be above 1 is cut off. A lesion
    hardly moves either, while it is what an upper percentile is: a patient with a large bright one would be darker
    elsewhere than a healthy one. The rim of the brain, partly background, does not count. ValueError where both are one
    number, so that there is nothing to see.
    """
    inner = np.stack([ndimage.binary_erosion(plane) for plane in brain])
    inside = images[inner if inner.any() else brain]
    low, middle = np.percentile(inside, (DARK, 50)) if inside.size else (0.0, 0.0)
    if not middle > low:
        raise ValueError(f"its intensities are {low:g} nearly everywhere")
    scaled = np.clip(MIDDLE * (images - low) / (middle - low), 0, 1)
    return np.where(brain, scaled, 0).astype(np.float32)


def filled(mask: np.ndarray) -> np.ndarray:
    """Return a mask `(slice, y, x)` without the holes that lie within a slice, as where a signal is just zero."""
    return np.stack([ndimage.binary_fill_holes(plane) for plane in mask])


def chosen(extent: Sequence[int] | np.ndarray, count: int | None) -> np.ndarray:
    """Return `count` of the places `extent`, evenly spread from just within its ends; all for None or for as many."""
    places = np.asarray(extent)
    if count is None or count >= len(places):
        return places
    return places[((np.arange(count) + 0.5) * len(places) / count).astype(int)]


def slices_of(
    patient: str,
    images: dict[str, np.ndarray],
    brain: np.ndarray,
    lesion: np.ndarray,
    position: np.ndarray,
    config: BrainData,
    kind: np.ndarray | None = None,
    unclear: np.ndarray | None = None,
) -> Slices:
    """Return the slices of one volume: `images` `(slice, y, x)` by modality, as measured; those with enough brain that
    are not `unclear` `(slice,)`.

    `lesion` counts within the brain alone, and a slice all of whose lesion lies outside is left out: it is neither
    normal nor seen to be abnormal. ValueError where no slice has enough brain, or a modality shows nothing.
    """
    kept = brain.mean((1, 2)) >= max(config.least_brain, 1e-9)
    kept &= ~lesion.any((1, 2)) | (lesion & brain).any((1, 2))
    if unclear is not None:
        kept &= ~unclear
    if not kept.any():
        raise ValueError(f"no slice has brain in {config.least_brain:.0%} of its pixels")
    normal = []
    for modality, planes in images.items():
        try:
            normal.append(normalise(planes, brain))
        except ValueError as error:
            raise ValueError(f"{modality}: {error}") from error
    whole = Slices(
        images=np.stack(normal, axis=1),
        brain=brain,
        lesion=lesion & brain,
        patient=np.full(len(brain), patient),
        position=np.asarray(position, dtype=np.float64),
        kind=np.full(len(brain), "") if kind is None else kind,
        modalities=tuple(images),
    )
    return whole.take(np.flatnonzero(kept))


def shrink(planes: np.ndarray, size: int) -> np.ndarray:
    """Return float32 `(slice, size, size)`: pictures `(slice, y, x)`, averaged over the area of each new pixel; what is
    no square is laid in the middle of one of zeros."""
    _, height, width = planes.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    around = ((top, side - height - top), (left, side - width - left))
    squares = [np.pad(plane.astype(np.float32), around) for plane in planes]
    return np.stack([np.asarray(Image.fromarray(s).resize((size, size), Image.Resampling.BOX)) for s in squares])


def foreground(planes: np.ndarray) -> np.ndarray:
    """Return bool `(slice, y, x)`: what is no background in one volume, brighter than 15 % of its 99th percentile.

    Single bright pixels do not count; gaps in a rim are closed, and holes within it filled. With the skull in the
    picture this is the head. On 28 patients with gliomas it held 99.7 % of the tumour of each, or more.
    """
    above = np.stack([ndimage.binary_opening(plane) for plane in planes > 0.15 * np.percentile(planes, 99)])
    reach = max(1, planes.shape[2] // 32)
    around = np.pad(above, ((0, 0), (reach, reach), (reach, reach)))  # closing takes what lies outside for background
    closed = np.stack([ndimage.binary_closing(plane, iterations=reach) for plane in around])
    return filled(closed[:, reach:-reach, reach:-reach])
