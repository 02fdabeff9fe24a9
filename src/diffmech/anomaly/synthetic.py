"""Synthetic brains: average anatomy, deformed and coloured for each patient, with lesions of known masks. Ours.

No patient is real, though the anatomy is: shares of tissue of ICBM152, sharpened by random folds, since an average of
152 brains has none; an affine and an elastic deformation; signals of the tissues by modality, a bias field, Rician
noise (Gudbjartsson and Patz 1995) and slices of some thickness. Everything of patient n is drawn by (seed, n).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from diffmech.anomaly.anatomy import Anatomy, icbm152
from diffmech.anomaly.lesions import Lesion, draw_lesions, paint
from diffmech.anomaly.planes import filled, lesion_pixels, slices_of
from diffmech.anomaly.slices import Slices, joined
from diffmech.config.anomaly_data import SyntheticBrains
from diffmech.randomness import generator

# Signals of grey matter, white matter and fluid by modality.
SIGNALS = {
    "flair": (0.64, 0.46, 0.10),
    "t1": (0.56, 0.80, 0.18),
    "t1ce": (0.58, 0.80, 0.18),
    "t2": (0.60, 0.42, 0.95),
}
JITTER = 0.04  # standard deviation of the logarithm of each signal over patients
FINE = 2.5  # mm between the points at which tissue is sampled
CENTRE = (0.0, -18.0)  # x and y in mm of the middle of the average brain
BOTTOM, TOP = -62.0, 78.0  # z in mm of its ends
LOW, HIGH = (-160.0, -180.0, -140.0), (160.0, 150.0, 160.0)  # mm: corners of the box of random fields
ROTATION, SCALE, SHIFT = 2.0, 0.025, 1.5  # standard deviations: degrees, logarithm, mm
ELASTIC, FOLDS, BIAS = 30.0, 3.5, 60.0  # mm: how far random fields reach
SHARPNESS = 2.0  # exponent of the shares of tissue
FOLDING = 1.2  # standard deviation of what is added to their logarithms


def read(config: SyntheticBrains) -> Slices:
    """Return the slices of all patients. Raises DataError where the maps are not installed."""
    anatomy = icbm152()
    return joined(make_patient(anatomy, config, number) for number in range(config.patients))


def name_of(number: int) -> str:
    """Return the name of a patient."""
    return f"synthetic_{number:05d}"


def make_patient(anatomy: Anatomy, config: SyntheticBrains, number: int) -> Slices:
    """Return the slices of one patient, the same however many there are."""
    lesions = draw_lesions(anatomy, config.lesions, config.seed, number)
    grid = _grid(anatomy, config, number)
    weights = [lesion.weight(grid.points) for lesion in lesions]
    origin = _origin(grid, lesions, config, number)
    for place, lesion in enumerate(lesions):
        if lesion.shift.any():
            weights[place], origin = _moved(anatomy, lesion, weights[place], origin)
    tissue = _tissue(anatomy, origin, config, number)
    brain = filled(grid.average(tissue.sum(0)) >= 0.5)
    masks = [lesion_pixels(grid.average((weight >= 0.5).astype(np.float32))) & brain for weight in weights]
    painted = list(zip(lesions, weights, strict=True))
    images: dict[str, np.ndarray] = {
        name: _image(grid, tissue, painted, config, name, number) for name in config.modalities
    }
    kinds = [
        {lesion.kind for lesion, mask in zip(lesions, masks, strict=True) if mask[row].any()}
        for row in range(config.slices)
    ]
    return slices_of(
        name_of(number),
        images,
        brain,
        np.any(masks, axis=0) if masks else np.zeros_like(brain),
        (np.arange(config.slices) + 0.5) / config.slices,
        config,
        np.array(["+".join(sorted(found)) for found in kinds], dtype=str),
    )


@dataclass(frozen=True)
class Grid:
    """Points at which tissue is sampled: `axes` are z `(slice * layer,)`, y and x in mm, `fine` of these two along each
    pixel. `points` float32 `(3, point)` in mm are those `inside` `(slice, layer, y, x)`, where there may be brain."""

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    points: np.ndarray
    inside: np.ndarray
    fine: int

    def average(self, values: np.ndarray) -> np.ndarray:
        """Return the averages `(slice, y, x)` of values `(point,)` over pixels and the thickness of slices."""
        whole = np.zeros(self.inside.shape, dtype=np.float32)
        whole[self.inside] = values
        count, layers, side = self.inside.shape[:3]
        size = side // self.fine
        return np.asarray(whole.reshape(count, layers, size, self.fine, size, self.fine).mean((1, 3, 5)))

    def field(self, random: np.random.Generator, reach: float) -> np.ndarray:
        """Return a smooth random field float32 `(point,)` that reaches `reach` mm, of mean 0 and unit variance."""
        values = _lattice(random, reach)
        for axis, (places, low) in enumerate(zip(self.axes, LOW[::-1], strict=True)):
            at = (places - low) / _step(reach)
            hat = np.clip(1 - np.abs(at[:, None] - np.arange(values.shape[axis])), 0, None)  # linear interpolation
            values = np.moveaxis(np.tensordot(hat.astype(np.float32), values, (1, axis)), 0, axis)
        return np.asarray(values.reshape(self.inside.shape)[self.inside])


def _grid(anatomy: Anatomy, config: SyntheticBrains, number: int) -> Grid:
    pixel = config.field / config.size
    fine, layers = (max(1, int(np.ceil(width / FINE))) for width in (pixel, config.thickness))
    across = (np.arange(config.size * fine) + 0.5) / fine * pixel - config.field / 2
    middles = BOTTOM + (np.arange(config.slices) + 0.5) / config.slices * (TOP - BOTTOM)
    heights = middles[:, None] + ((np.arange(layers) + 0.5) / layers - 0.5) * config.thickness
    shape = (config.slices, layers, len(across), len(across))
    points = np.empty((3, *shape), dtype=np.float32)
    x, y = (middle - across for middle in CENTRE)  # the patient's right is on the left, the front on top
    points[0], points[1], points[2] = x, y[:, None], heights[:, :, None, None]
    near = _near_brain(anatomy, 4 * config.deformation + 8)
    index = np.rint(_indices(anatomy, _affine(points.reshape(3, -1), config, number))).astype(int)
    index = np.clip(index, 0, np.array(near.shape)[:, None] - 1)
    inside = near[tuple(index)].reshape(shape)
    return Grid((heights.ravel(), y, x), points[:, inside], inside, fine)


@cache
def _near_brain(anatomy: Anatomy, margin: float) -> np.ndarray:
    """Return bool `(i, j, k)`: voxels of 1 mm of the average within a box of `margin` mm around its brain."""
    return np.asarray(ndimage.maximum_filter(anatomy.brain > 0.5, 2 * int(margin) + 1))


def _indices(anatomy: Anatomy, points: np.ndarray) -> np.ndarray:
    """Return the indices `(3, point)` of points in mm in the maps."""
    inverse = np.linalg.inv(anatomy.affine).astype(np.float32)
    return inverse[:3, :3] @ points + inverse[:3, 3:]


def _affine(points: np.ndarray, config: SyntheticBrains, number: int) -> np.ndarray:
    """Return where points of a patient lie in the average brain, before its elastic deformation."""
    random = generator(config.seed, "synthetic head", number)
    turn = Rotation.from_euler("xyz", random.normal(0, ROTATION, 3), degrees=True).as_matrix()
    matrix = (turn * np.exp(random.normal(0, SCALE, 3))).astype(np.float32)
    middle = np.array([*CENTRE, (BOTTOM + TOP) / 2], dtype=np.float32)[:, None]
    shift = random.normal(0, SHIFT, 3).astype(np.float32)[:, None]
    return np.asarray(matrix @ (points - middle) + middle + shift)


def _origin(grid: Grid, lesions: list[Lesion], config: SyntheticBrains, number: int) -> np.ndarray:
    """Return where in the average brain `(3, point)` the tissue of a patient comes from, in mm."""
    points = grid.points
    for lesion in lesions:
        points = lesion.before(points)
    random = generator(config.seed, "synthetic deformation", number)
    moved = np.stack([grid.field(random, ELASTIC) for _ in range(3)])
    return _affine(points, config, number) + np.float32(config.deformation) * moved


def _moved(anatomy: Anatomy, lesion: Lesion, weight: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight `(point,)` of a lesion that consists of tissue from elsewhere, and where that comes from.

    Where nothing of the brain lies there, nothing is moved, and there is no lesion.
    """
    within = np.flatnonzero(weight >= 0.5)
    elsewhere = origin[:, within] + lesion.shift[:, None].astype(np.float32)
    there = ndimage.map_coordinates(anatomy.brain, _indices(anatomy, elsewhere), order=1) > 0.5
    result, moved = np.zeros_like(weight), origin.copy()
    result[within[there]] = 1
    moved[:, within[there]] = elsewhere[:, there]
    return result, moved


def _tissue(anatomy: Anatomy, origin: np.ndarray, config: SyntheticBrains, number: int) -> np.ndarray:
    """Return the shares of tissue float32 `(tissue, point)`, sharper than the average has them, by random folds."""
    index = _indices(anatomy, origin)
    share = np.stack([ndimage.map_coordinates(tissue, index, order=1) for tissue in anatomy.tissue]).clip(0, 1)
    brain = share.sum(0)
    random = generator(config.seed, "synthetic folds", number)
    sharp = share**SHARPNESS
    for other in (0, 2):  # than white matter: what is added to all three would change nothing
        sharp[other] *= np.exp(FOLDING * _field(random, origin, FOLDS))
    return np.asarray(brain * sharp / np.maximum(sharp.sum(0), 1e-9), dtype=np.float32)


def _image(
    grid: Grid,
    tissue: np.ndarray,
    lesions: list[tuple[Lesion, np.ndarray]],
    config: SyntheticBrains,
    modality: str,
    number: int,
) -> np.ndarray:
    """Return the measured signal `(slice, y, x)` of one modality, with the lesions of these weights."""
    random = generator(config.seed, "synthetic signals", modality, number)
    signals = np.array(SIGNALS[modality]) * np.exp(random.normal(0, JITTER, 3))
    signal = np.tensordot(signals.astype(np.float32), tissue, 1)
    for lesion, weight in lesions:
        signal = paint(signal, weight, lesion, modality, signals)
    bias = np.exp(config.bias * grid.field(random, BIAS))
    measured = grid.average(signal * bias * (tissue.sum(0) > 0.5))
    noise = random.normal(0, config.noise, (2, *measured.shape))
    return np.asarray(np.hypot(measured + noise[0], noise[1]), dtype=np.float32)


def _field(random: np.random.Generator, points: np.ndarray, reach: float) -> np.ndarray:
    """Return a random field as `Grid.field` does, at any points `(3, point)` in mm."""
    index = (points - np.array(LOW, dtype=np.float32)[:, None]) / np.float32(_step(reach))
    values = ndimage.map_coordinates(_lattice(random, reach), index[::-1], order=1, mode="nearest")
    return np.asarray(values, dtype=np.float32)


def _lattice(random: np.random.Generator, reach: float) -> np.ndarray:
    """Return the values `(z, y, x)` between which a random field is interpolated, in a box that holds any head, so that
    the points at which it is asked for do not change it."""
    counts = np.ceil((np.array(HIGH) - LOW) / _step(reach)).astype(int) + 1
    noise = random.standard_normal(tuple(counts[::-1]), dtype=np.float32)
    smooth = ndimage.gaussian_filter(noise, 0.7, mode="wrap")
    return np.asarray(smooth / smooth.std())


def _step(reach: float) -> float:
    return 0.8 * reach
