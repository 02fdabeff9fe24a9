"""BraTS: a folder per patient, with a NIfTI file per modality and one of the segmentation (Menze et al. 2015).

Names of 2012 to 2021 are CASE_flair.nii.gz, _t1, _t1ce, _t2 and _seg; from 2023 on CASE-t2f.nii.gz, -t1n, -t1c, -t2w
and -seg, where CASE ends in the number of the visit: visits of one patient stay together. One patient of 2020 has its
segmentation as W39_1998.09.19_Segm.nii.
"""

import os
import re
from pathlib import Path

import numpy as np

from diffmech.anomaly.files import folder_of, naming, read_patients
from diffmech.anomaly.nifti import Volume, check_same_grid, check_without_skull, need_nibabel, read_labels, read_volume
from diffmech.anomaly.planes import Frame, chosen, filled, lesion_pixels, sample_planes, slices_of
from diffmech.anomaly.slices import Slices
from diffmech.config.anomaly_data import Brats
from diffmech.errors import DataError

SEGMENTATION = "seg"
ENDINGS = {
    "flair": ("_flair", "-t2f"),
    "t1": ("_t1", "-t1n"),
    "t1ce": ("_t1ce", "-t1c"),
    "t2": ("_t2", "-t2w"),
    SEGMENTATION: ("_seg", "-seg", "_segm"),
}
_FORMATS = (".nii.gz", ".nii")
_VISIT = re.compile(r"^(BraTS-[A-Za-z]+(?:-[A-Za-z]+)*-\d+)-\d{1,3}$")


def read(config: Brats) -> Slices:
    """Return the slices of all patients below `config.path`, sorted by folder.

    Raises DataError naming the file: no folder of a patient, a modality or the segmentation missing or there twice, a
    volume that cannot be read or has its skull, grids that differ, or a brain that is larger than the field.
    """
    need_nibabel()
    cases = find_cases(folder_of(config.path))
    return read_patients(cases, config, lambda folder: read_case(folder, cases[folder], config))


def find_cases(root: Path) -> dict[Path, dict[str, list[Path]]]:
    """Return the folders of patients below `root`, sorted, with their files by modality."""
    cases: dict[Path, dict[str, list[Path]]] = {}
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (modality := modality_of(name)):
                cases.setdefault(Path(place), {}).setdefault(modality, []).append(Path(place) / name)
    if not cases:
        raise DataError(
            f"{root}: holds no files of BraTS; expected a folder per patient with CASE_flair.nii.gz or CASE-t2f.nii.gz "
            "and the other modalities beside it"
        )
    return dict(sorted(cases.items()))


def modality_of(name: str) -> str | None:
    """Return the modality of a file, `seg` for a segmentation, None for a file that is none of BraTS."""
    for suffix in _FORMATS:
        if name.lower().endswith(suffix):
            stem = name.lower()[: -len(suffix)]
            return next((modality for modality, ends in ENDINGS.items() if stem.endswith(ends)), None)
    return None


def patient_of(case: str) -> str:
    """Return the patient of a case: its name, without the number of the visit where it has one."""
    visit = _VISIT.match(case)
    return visit[1] if visit else case


def read_case(folder: Path, files: dict[str, list[Path]], config: Brats) -> Slices:
    """Return the slices of one case. Raises DataError as `read` does."""
    volumes: dict[str, Volume] = {}
    for modality in config.modalities:
        path = _only(folder, files, modality)
        with naming(path):
            volumes[modality] = read_volume(path)
            check_without_skull(volumes[modality])
            check_same_grid(volumes[modality], volumes[config.modalities[0]])
    first = volumes[config.modalities[0]]
    mask = _only(folder, files, SEGMENTATION)
    with naming(mask):
        lesion = read_labels(mask, first, config.labels)
        other = read_labels(mask, first, None) & ~lesion
    with naming(folder):
        inside = np.any([volume.values != 0 for volume in volumes.values()], axis=0)
        frame, position = frame_of(Volume(inside.astype(np.float32), first.affine), config)
        brain = filled(sample_planes(inside.astype(np.float32), first.affine, frame) >= 0.5)
        share, beside = (sample_planes(each.astype(np.float32), first.affine, frame) for each in (lesion, other))
        images = {name: sample_planes(volume.values, volume.affine, frame) for name, volume in volumes.items()}
        marked = lesion_pixels(share)
        # what has other labels alone is neither normal nor what is looked for
        unclear = (lesion_pixels(beside) & brain).any((1, 2)) & ~(marked & brain).any((1, 2))
        return slices_of(patient_of(folder.name), images, brain, marked, position, config, unclear=unclear)


def frame_of(inside: Volume, config: Brats) -> tuple[Frame, np.ndarray]:
    """Return where the slices of a brain lie, and the position of each in [0, 1] `(slice,)`.

    Planes are those of the volume that hold brain; the square is centred on it. Raises DataError, with the reason only,
    where the brain is larger than that, or where nothing of it is left.
    """
    held = np.flatnonzero(inside.values.any((0, 1)))
    planes = np.arange(held[0], held[-1] + 1)
    picked = chosen(planes, config.slices)
    voxels = np.argwhere(inside.values[:, :, planes].any(2))
    ends = np.array([inside.affine[:2, :2] @ voxel for voxel in (voxels.min(0) - 0.5, voxels.max(0) + 0.5)])
    middle = inside.affine[:2, 2] * planes.mean() + inside.affine[:2, 3]
    low, high = ends.min(0) + middle, ends.max(0) + middle
    widest = float((high - low).max())
    if widest > config.field:
        raise DataError(f"its brain is {widest:.0f} mm wide, more than field: {config.field:g}; give at least that")
    centre = (low + high) / 2
    position = (picked - planes[0]) / max(1, len(planes) - 1)
    return Frame((centre[0], centre[1]), config.field, config.size, inside.heights()[picked]), position


def _only(folder: Path, files: dict[str, list[Path]], modality: str) -> Path:
    """Return the one file of a modality."""
    found = files.get(modality, [])
    named = " or ".join(f"CASE{ending}.nii.gz" for ending in ENDINGS[modality][:2])
    if not found:
        there = ", ".join(sorted(files))
        advice = "a healthy patient has one of zeros" if modality == SEGMENTATION else "or leave it out of modalities"
        raise DataError(f"{folder}: has {there} but no {modality}; expected {named}: add it ({advice})")
    if len(found) > 1:
        raise DataError(
            f"{folder}: has {len(found)} files of {modality}, {found[0].name} and {found[1].name}; keep one"
        )
    return found[0]
