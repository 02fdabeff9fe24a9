"""Benchmarks of anomalies in brain MRI with the splits that they published, their counts checked.

MedIAnomaly (Cai et al. 2024): BraTS2021/train, test/normal, test/tumor and test/annotation, where a mask is named like
its picture with `seg` for `flair`. BMAD (Bao et al. 2024): train/good, valid/ and test/ with good/ and Ungood/, each
with img/, and label/ with masks named like the pictures; train/good has its pictures in img/ or right in it. Both are
axial FLAIR slices of BraTS 2021, of the 155 planes of a volume, without skulls.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffmech.anomaly.files import folder_of
from diffmech.anomaly.pictures import Picture, read_pictures
from diffmech.anomaly.slices import Slices
from diffmech.anomaly.splits import NAMES, TEST, TRAIN, VALIDATION, place
from diffmech.config.anomaly_data import Bmad, MedIAnomaly, Published, SplitConfig
from diffmech.data.listing import list_images
from diffmech.errors import DataError

PLANES = 155  # of a volume of BraTS


class Part(NamedTuple):
    """A folder of one split: whether its slices are normal, how many were `published`, where their masks lie."""

    folder: str
    split: str
    normal: bool
    published: int
    masks: str = ""


PARTS: Mapping[str, tuple[Part, ...]] = {
    "medianomaly": (
        Part("train", TRAIN, True, 4211),
        Part("test/normal", TEST, True, 828),
        Part("test/tumor", TEST, False, 1948, "test/annotation"),
    ),
    "bmad": (
        Part("train/good", TRAIN, True, 7500),
        Part("valid/good/img", VALIDATION, True, 39),
        Part("valid/Ungood/img", VALIDATION, False, 44, "valid/Ungood/label"),
        Part("test/good/img", TEST, True, 640),
        Part("test/Ungood/img", TEST, False, 3075, "test/Ungood/label"),
    ),
}
# The number of the patient, of five digits, and behind it that of the plane: 00003_60, BraTS2021_00003_flair_60.
_NAME = re.compile(r"^(?:.*?\D)?(\d{5})(?!\d)(?:.*\D)(\d{1,3})$")

logger = logging.getLogger(__name__)


def read(config: MedIAnomaly | Bmad) -> Slices:
    """Return the slices of all splits. Raises DataError naming the folder or file: other counts than those published, a
    mask that is missing, a patient in two splits."""
    found = _find(config)
    pictures = [picture for _, picture in found]
    positions = np.array([picture.height / (PLANES - 1) for picture in pictures])
    return read_pictures(pictures, config, positions=positions)


def published_splits(config: MedIAnomaly | Bmad, splits: SplitConfig) -> dict[str, str]:
    """Return the split of each patient. Where no slices validate, some of the patients who train do, by hash.

    Raises DataError as `read`.
    """
    found = {picture.patient: split for split, picture in _find(config)}
    if VALIDATION in found.values():
        return found
    share = splits.validation / (1 - splits.test)
    return {
        patient: VALIDATION if split == TRAIN and place(patient, splits.seed) < share else split
        for patient, split in found.items()
    }


def _find(config: MedIAnomaly | Bmad) -> list[tuple[str, Picture]]:
    root = folder_of(config.path)
    found: list[tuple[str, Picture]] = []
    for part in PARTS[config.kind]:
        folder = root / part.folder
        if part.folder == "train/good" and (folder / "img").is_dir():
            folder = folder / "img"
        files = list_images(folder).images
        if len(files) != part.published:
            raise DataError(
                f"{folder}: holds {len(files)} pictures, but {part.published} were published there; get all of "
                "them, or read the folder as kind: picture_folder"
            )
        masks = (
            {Path(name).stem: root / part.masks / name for name in list_images(root / part.masks).images}
            if part.masks
            else {}
        )
        for file in files:
            stem = Path(file).stem
            mask = masks.get(stem) or masks.get(stem.replace("flair", "seg"))
            if part.masks and mask is None:
                raise DataError(
                    f"{folder / file}: has no mask of its name in {root / part.masks}; get the data set whole"
                )
            name = _NAME.match(stem)
            patient, height = (name[1], float(name[2])) if name else (stem, float("nan"))
            if height >= PLANES:
                raise DataError(f"{folder / file}: would be plane {height:.0f} of {PLANES}; check what data set it is")
            found.append((part.split, Picture(folder / file, patient, height, part.normal, mask)))
    if alone := sum(np.isnan(picture.height) for _, picture in found):
        logger.warning(
            "%s: the names of %d pictures tell neither patient nor plane, so that each counts as a patient of its own "
            "and has no position",
            *(root, alone),
        )
    return _apart(root, found, config)


def _apart(root: Path, found: list[tuple[str, Picture]], config: Published) -> list[tuple[str, Picture]]:
    """Return pictures such that no patient is in two splits."""
    last: dict[str, int] = {}
    for split, picture in found:
        last[picture.patient] = max(last.get(picture.patient, 0), NAMES.index(split))
    shared = sorted({picture.patient for split, picture in found if NAMES.index(split) != last[picture.patient]})
    if not shared:
        return found
    if config.on_shared_patient == "error":
        raise DataError(
            f"{root}: {len(shared)} patients are in more than one of its splits, for example {shared[0]}; set "
            "on_shared_patient: drop to keep only their slices of the last one"
        )
    kept = [(split, picture) for split, picture in found if NAMES.index(split) == last[picture.patient]]
    logger.warning("%s: %d slices of %d patients in two splits are dropped", root, len(found) - len(kept), len(shared))
    return kept
