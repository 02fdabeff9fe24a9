"""Small slices with known contents: discs of one grey with blobs in them, on 16 x 16 pixels."""

import numpy as np

from diffmech.anomaly.slices import Slices


def discs(patients: int = 4, each: int = 6, *, ill: float = 0.5, first: int = 0, seed: int = 0) -> Slices:
    """Return slices whose brain is a disc that is smallest at either end of the head; a share holds a bright square.

    Slices with lesions are those nearest to the middle, as in real heads.
    """
    source = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16] - 7.5
    position = np.tile(np.linspace(0, 1, each), patients)
    radius = 4 + 3 * np.sin(np.pi * position)
    brain = y**2 + x**2 < radius[:, None, None] ** 2
    images = 0.4 + 0.02 * source.standard_normal((len(position), 1, 16, 16))
    lesion = np.zeros(brain.shape, dtype=bool)
    middle = np.argsort(np.abs(np.linspace(0, 1, each) - 0.5), kind="stable")[: round(ill * each)]
    for row in np.flatnonzero(np.isin(np.arange(len(position)) % each, middle)):
        top, left = source.integers(5, 9, size=2)
        lesion[row, top : top + 3, left : left + 3] = True
    lesion &= brain
    images[:, 0][lesion] += 0.3
    kind = np.where(lesion.any((1, 2)), "bright", "").astype(str)
    patient = np.array([f"p{first + number // each:02d}" for number in range(len(position))])
    images = np.where(brain[:, None], images, 0).astype(np.float32).clip(0, 1)
    return Slices(images, brain, lesion, patient, position, kind, ("flair",))
