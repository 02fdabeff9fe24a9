"""Pictures of slices: one file read and checked, and folders of normal and abnormal ones. Ours."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmech.anomaly.ct import check_no_ct
from diffmech.anomaly.files import folder_of, naming
from diffmech.anomaly.planes import foreground, lesion_pixels, shrink, slices_of
from diffmech.anomaly.slices import UNMARKED, Slices, joined
from diffmech.config.anomaly_data import BrainData, PictureFolder
from diffmech.data.listing import list_images
from diffmech.data.masks import read_mask
from diffmech.data.preparation import read_image
from diffmech.errors import DataError

NORMAL, ABNORMAL, MASKS = "normal", "abnormal", "masks"
GREY = 8 / 255  # by how much the channels of a grey picture may differ, as JPEG rounds colours

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """One file of a slice: of whom, where in the head (NaN: not known), with which mask if any, and whether normal."""

    path: Path
    patient: str
    height: float
    normal: bool
    mask: Path | None = None


def read(config: PictureFolder) -> Slices:
    """Return the slices of a folder, by patient and, where their numbers are known, from the bottom up.

    Raises DataError naming the file or folder: no normal/ or abnormal/, a picture that cannot be read, is in colours or
    looks like CT, a name that the regular expressions of the settings do not fit, a mask that is missing, of another
    shape, or of a normal picture.
    """
    root = folder_of(config.path)
    pictures = find_pictures(root, config)
    if config.patient is None and all(picture.path.parent.name in (NORMAL, ABNORMAL) for picture in pictures):
        logger.warning(
            "%s: each of its %d pictures counts as a patient of its own; where patients have several, give `patient`, "
            "or splits and intervals are wrong",
            *(root, len(pictures)),
        )
    return read_pictures(pictures, config, refuse_ct=config.refuse_ct)


def find_pictures(root: Path, config: PictureFolder) -> list[Picture]:
    """Return the pictures below normal/ and abnormal/, sorted by name, with their masks."""
    found = []
    masks = _masks(root)
    for normal, name in ((True, NORMAL), (False, ABNORMAL)):
        folder = root / name
        if not folder.is_dir():
            raise DataError(
                f"{root}: has no folder {name}/; sort the pictures of slices into {NORMAL}/ and {ABNORMAL}/"
            )
        for file in list_images(folder).images:
            stem = Path(file).with_suffix("").as_posix()
            mask = None if normal else masks.pop(stem, None)
            if not normal and mask is None and (root / MASKS).is_dir():
                raise DataError(f"{folder / file}: has no mask {root / MASKS}/{stem}.*; add it, or take {MASKS}/ away")
            patient = _matched(config.patient, folder / file, file) if config.patient else _named(file)
            height = float("nan")
            if config.position:
                number = _matched(config.position, folder / file, file)
                if not number.isdigit():
                    raise DataError(f"{folder / file}: position finds {number!r} there; it must find a whole number")
                height = float(number)
            found.append(Picture(folder / file, patient, height, normal, mask))
    if masks:
        raise DataError(f"{next(iter(masks.values()))}: belongs to no picture in {ABNORMAL}/; name it like its picture")
    return found


def read_pictures(
    pictures: Sequence[Picture], config: BrainData, *, refuse_ct: bool = False, positions: np.ndarray | None = None
) -> Slices:
    """Return the slices of pictures, those of one patient together, each patient normalised as one volume.

    `positions` `(picture,)` in [0, 1] are taken as they are; without them, those of a patient are spread by `height`.
    """
    of_patient: dict[str, list[int]] = {}
    for place, picture in enumerate(pictures):
        of_patient.setdefault(picture.patient, []).append(place)
    parts = []
    for patient, places in sorted(of_patient.items()):
        own = sorted(places, key=lambda place: (pictures[place].height, pictures[place].path))
        chosen = [pictures[place] for place in own]
        position = _spread(chosen) if positions is None else positions[own]
        parts.append(_read_patient(patient, chosen, position, config, refuse_ct))
    return joined(parts)


def read_picture(path: Path) -> np.ndarray:
    """Return a grey picture, float32 `(y, x)` in [0, 1]. Raises DataError with the reason only."""
    pixels = read_image(path)
    values = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
    if float(np.ptp(values, axis=2).max()) > GREY:
        raise DataError("is in colours, but slices of MRI are grey; take maps and overlays away")
    return values.mean(axis=2)


def read_picture_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask of a picture, float32 `(y, x)` in [0, 1]. Raises DataError with the reason only."""
    pixels = read_mask(path)
    if pixels.shape[:2] != shape:
        raise DataError(f"has height and width {pixels.shape[:2]} but its picture {shape}; make both alike")
    full = 255 if pixels.dtype == np.uint8 and pixels.max() > 1 else 1
    return pixels.astype(np.float32).mean(axis=2) / full


def _read_patient(
    patient: str, pictures: Sequence[Picture], position: np.ndarray, config: BrainData, refuse_ct: bool
) -> Slices:
    images, lesions = [], []
    for picture in pictures:
        with naming(picture.path):
            whole = read_picture(picture.path)
            if refuse_ct:
                check_no_ct(whole)
        share = np.zeros_like(whole)
        if picture.mask is not None:
            with naming(picture.mask):
                share = (read_picture_mask(picture.mask, whole.shape) >= 0.5).astype(np.float32)
                if not share.any():
                    raise DataError("marks nothing, though its picture is abnormal; sort that among the normal ones")
        images.append(shrink(whole[None], config.size)[0])
        lesions.append(lesion_pixels(shrink(share[None], config.size))[0])
    planes = np.stack(images)
    unmarked = [not picture.normal and picture.mask is None for picture in pictures]
    with naming(pictures[0].path):
        return slices_of(
            patient,
            {"flair": planes},
            foreground(planes),
            np.stack(lesions),
            position,
            config,
            kind=np.where(unmarked, UNMARKED, ""),
        )


def _spread(pictures: Sequence[Picture]) -> np.ndarray:
    """Return the positions of the pictures of one patient, sorted by height: evenly by number, NaN where unknown."""
    heights = np.array([picture.height for picture in pictures])
    extent = float(np.ptp(heights))
    return (heights - heights.min()) / extent if extent > 0 else heights * np.nan


def _masks(root: Path) -> dict[str, Path]:
    folder = root / MASKS
    if not folder.is_dir():
        return {}
    return {Path(file).with_suffix("").as_posix(): folder / file for file in list_images(folder).images}


def _named(file: str) -> str:
    """Return the patient of a picture without a rule: the folder that holds it, or its own name."""
    path = Path(file)
    return path.parent.as_posix() if path.parent != Path() else path.stem


def _matched(pattern: str, path: Path, file: str) -> str:
    found = re.search(pattern, file)
    if not found or not found[1]:
        raise DataError(f"{path}: the regular expression {pattern!r} finds nothing in {file!r}; mend either of them")
    return found[1]
