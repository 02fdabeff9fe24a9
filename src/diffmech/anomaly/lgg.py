"""The LGG segmentation data set (Buda et al. 2019), in the layout kaggle_3m.

A folder per patient holds PATIENT_DATE_N.tif, N from the bottom of the head to its top, with pre-contrast T1, FLAIR and
post-contrast T1 as channels, and PATIENT_DATE_N_mask.tif. Skulls are in it, so that what counts as brain is the head.
"""

import re
from pathlib import Path

import numpy as np

from diffmech.anomaly.files import folder_of, naming, read_patients
from diffmech.anomaly.pictures import read_picture_mask
from diffmech.anomaly.planes import foreground, lesion_pixels, shrink, slices_of
from diffmech.anomaly.slices import Slices
from diffmech.config.anomaly_data import Lgg
from diffmech.data.preparation import read_image
from diffmech.errors import DataError

CHANNELS = {"t1": 0, "flair": 1, "t1ce": 2}
_SLICE = re.compile(r"^(.+)_(\d+)\.tif$")
_DATE = re.compile(r"_\d{8}$")


def read(config: Lgg) -> Slices:
    """Return the slices of all patients below `config.path`, sorted by folder, from the bottom up.

    Raises DataError naming the file: no folder of a patient, a mask that is missing or of another shape, pictures of
    several shapes in one patient, a sequence that the patient lacks.
    """
    root = folder_of(config.path)
    folders = sorted({path.parent for path in root.rglob("*_mask.tif")})
    if not folders:
        raise DataError(
            f"{root}: holds no *_mask.tif; expected a folder per patient with NAME_1.tif and NAME_1_mask.tif"
        )
    return read_patients(folders, config, lambda folder: read_folder(folder, config))


def patient_of(folder: str) -> str:
    """Return the patient of a folder: its name without the date, so that scans of one patient stay together."""
    return _DATE.sub("", folder)


def read_folder(folder: Path, config: Lgg) -> Slices:
    """Return the slices of one patient. Raises DataError as `read` does."""
    files = _files(folder)
    pictures: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for path in files:
        with naming(path):
            pixels = read_image(path)
            if pixels.shape[2] != 3:
                raise DataError("is grey, expected three channels (pre-contrast, FLAIR, post-contrast); get it anew")
            if pictures and pixels.shape != pictures[0].shape:
                raise DataError(
                    f"has shape {pixels.shape} but the first slice {pictures[0].shape}; make them of one size"
                )
        mask = path.with_name(f"{path.stem}_mask.tif")
        if not mask.is_file():
            raise DataError(f"{path}: has no {mask.name} beside it; a slice without a tumour has a mask of zeros")
        with naming(mask):
            masks.append(read_picture_mask(mask, pixels.shape[:2]) >= 0.5)
        pictures.append(pixels)
    whole = np.stack(pictures)
    _check_sequences(folder, whole, config)
    planes: dict[str, np.ndarray] = {
        name: shrink(whole[..., CHANNELS[name]], config.size) for name in config.modalities
    }
    head = foreground(shrink(whole[..., CHANNELS["flair"]], config.size))
    share = shrink(np.stack(masks).astype(np.float32), config.size)
    position = np.arange(len(files)) / max(1, len(files) - 1)
    with naming(folder):
        return slices_of(patient_of(folder.name), planes, head, lesion_pixels(share), position, config)


def _files(folder: Path) -> list[Path]:
    """Return the pictures of a patient, by their numbers."""
    named = [(_SLICE.match(path.name), path) for path in folder.iterdir() if not path.name.endswith("_mask.tif")]
    numbered = sorted((int(found[2]), path) for found, path in named if found)
    if not numbered:
        raise DataError(f"{folder}: has masks but no pictures NAME_1.tif, NAME_2.tif, ...; get it anew")
    return [path for _, path in numbered]


def _check_sequences(folder: Path, whole: np.ndarray, config: Lgg) -> None:
    for name in config.modalities:
        if name != "flair" and np.array_equal(whole[..., CHANNELS[name]], whole[..., CHANNELS["flair"]]):
            raise DataError(
                f"{folder}: has no {name}, for which FLAIR is repeated; leave it out of modalities, or the patient out "
                "by on_bad_patient: skip"
            )
