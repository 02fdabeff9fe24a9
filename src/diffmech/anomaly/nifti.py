"""Volumes of NIfTI files, checked before anything is made of them: what a header says decides what is seen. Ours.

Read by nibabel, with scale factors applied. Messages hold the reason alone; who reads a data set names the file.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmech.errors import DataError

# Of a mask: how far a label may be from a whole number, as scale factors round.
_WHOLE = 1e-3
# Of the voxels: by how much the grids of two files of one patient may lie apart.
_APART = 0.01
# A volume with a signal in more of its voxels than this has its skull, or noise around it: air must be zero.
_MOST_SIGNAL = 0.9


@dataclass(frozen=True)
class Volume:
    """`values` float32 `(i, j, k)`, finite; `affine` `(4, 4)` from indices to mm in RAS+, k the axis nearest to z."""

    values: np.ndarray
    affine: np.ndarray

    def heights(self) -> np.ndarray:
        """Return z in mm `(k,)` of the middle of each plane of the third axis, from the bottom up."""
        middle = [(length - 1) / 2 for length in self.values.shape[:2]]
        return self.affine[2, :2] @ middle + self.affine[2, 2] * np.arange(self.values.shape[2]) + self.affine[2, 3]


def need_nibabel() -> None:
    """Raise DataError where nibabel is not installed."""
    if importlib.util.find_spec("nibabel") is None:
        raise DataError("NIfTI files are read with the package nibabel; run: pip install 'diffmech[mri]'")


def read_volume(path: Path) -> Volume:
    """Return the volume of a NIfTI file, .nii or .nii.gz, turned to the nearest axes of RAS+; NaN become 0.

    Raises DataError with the reason only: broken files, four dimensions (unless the fourth has one entry), no
    orientation or one that is singular, infinite values.
    """
    import nibabel

    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):  # NIfTI-2 is derived from it
            raise DataError(f"is {type(image).__name__}, no NIfTI; convert it to .nii.gz")
        if not int(image.header["sform_code"]) and not int(image.header["qform_code"]):
            raise DataError(
                "says no orientation (its sform and qform codes are 0); set one, for example with fslorient"
            )
        shape = image.shape
        if len(shape) == 4 and shape[3] == 1:
            image = image.slicer[..., 0]
        elif len(shape) != 3:
            raise DataError(f"has shape {shape}, expected three dimensions; save each volume as a file of its own")
        affine = np.asarray(image.affine, dtype=np.float64)
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise DataError("has a singular affine, which gives its voxels no size; mend its header")
        image = nibabel.as_closest_canonical(image)
        values = np.asarray(image.dataobj, dtype=np.float32)
    except DataError:
        raise
    except Exception as error:  # broken files make nibabel and zlib raise errors of any kind, EOFError too
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"is not a whole NIfTI file ({reason}); get it anew") from error
    if np.isinf(values).any():
        raise DataError(f"holds {int(np.isinf(values).sum())} infinite values; mend it")
    return Volume(np.nan_to_num(values, copy=False), np.asarray(image.affine, dtype=np.float64))


def read_labels(path: Path, like: Volume, labels: list[int] | None) -> np.ndarray:
    """Return bool `(i, j, k)`: where the mask at `path` has one of `labels`, any but 0 for None.

    Raises DataError with the reason only: another grid than the images have, and values that are no labels.
    """
    mask = read_volume(path)
    check_same_grid(mask, like)
    rounded = np.rint(mask.values)
    if (np.abs(mask.values - rounded) > _WHOLE).any() or rounded.min() < 0:
        odd = mask.values[(np.abs(mask.values - rounded) > _WHOLE) | (rounded < 0)][0]
        raise DataError(f"is no mask, since it holds {odd:g}; labels are whole numbers from 0 on")
    return rounded > 0 if labels is None else np.isin(rounded, labels)


def check_same_grid(volume: Volume, like: Volume) -> None:
    """Raise DataError, with the reason only, where two files of a patient do not have their voxels in one place."""
    if volume.values.shape != like.values.shape:
        raise DataError(
            f"has {volume.values.shape} voxels but the first image {like.values.shape}; resample it to that grid"
        )
    # where the corners of one grid lie in the other, in voxels
    ends = np.array(np.meshgrid(*[(0, length - 1) for length in like.values.shape], [1], indexing="ij")).reshape(4, -1)
    apart = np.abs((np.linalg.inv(like.affine) @ volume.affine @ ends - ends)[:3]).max()
    if apart > _APART * max(like.values.shape):
        raise DataError(
            f"lies up to {apart:.1f} voxels away from the first image by its affine; register it, or mend its header"
        )


def check_without_skull(volume: Volume) -> None:
    """Raise DataError, with the reason only, where a volume has signal nearly everywhere, or nowhere."""
    share = float((volume.values != 0).mean())
    if share > _MOST_SIGNAL:
        raise DataError(f"is not 0 in {share:.0%} of its voxels; strip the skull, so that all but the brain is 0")
    if share == 0:
        raise DataError("is 0 everywhere; get it anew, or leave the patient out")
