"""Maps of tissues of the average of 152 real brains, ICBM152 2009a nonlinear symmetric (Fonov et al. 2011).

They ship inside nilearn, which is not imported for them: grey and white matter as probabilities of 0 to 255 and the
T1-weighted average, which is 0 outside of the brain, in voxels of 1 mm. What is brain and neither is fluid, and so is
what lies between the folds.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from diffmech.anomaly.nifti import need_nibabel, read_volume
from diffmech.errors import DataError

FOLDS = 4.0  # mm: a gap counts as brain where most of what is so near is
FILES = {name: f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz" for name in ("gm", "wm", "t1")}


@dataclass(frozen=True, eq=False)  # one is what it is, so that what is made of it can be kept
class Anatomy:
    """`tissue` float32 `(tissue, i, j, k)`: shares of grey matter, white matter and fluid, whose sum is that of the
    brain; `affine` `(4, 4)` from indices to mm, x to the right, y to the front, z to the top."""

    tissue: np.ndarray
    affine: np.ndarray

    @property
    def brain(self) -> np.ndarray:
        """The share of each voxel that is brain, float32 `(i, j, k)`."""
        return np.asarray(self.tissue.sum(0))


@cache
def icbm152() -> Anatomy:
    """Return the maps, read once. Raises DataError where nilearn or nibabel is not installed, or has other files."""
    found = importlib.util.find_spec("nilearn")
    if found is None or not found.submodule_search_locations:
        raise DataError("synthetic brains are made from maps in the package nilearn; run: pip install 'diffmech[mri]'")
    need_nibabel()
    folder = Path(next(iter(found.submodule_search_locations))) / "datasets" / "data"
    maps = {}
    for name, file in FILES.items():
        if not (folder / file).is_file():
            raise DataError(f"{folder / file}: is not in this nilearn; install the version that constraints.txt names")
        volume = read_volume(folder / file)
        maps[name] = volume.values
    grey, white = maps["gm"] / 255, maps["wm"] / 255
    # both maps and the mask are averages, so that their sum may be above 1, and tissue lie outside of the mask
    known = ((maps["t1"] > 0) | (grey + white > 0.5)).astype(np.float32)
    inside = ((known > 0) | (ndimage.gaussian_filter(known, FOLDS) > 0.5)).astype(np.float32)
    whole = np.maximum(grey + white, 1)
    grey, white = inside * grey / whole, inside * white / whole
    return Anatomy(np.stack([grey, white, np.maximum(inside - grey - white, 0)]), volume.affine)
