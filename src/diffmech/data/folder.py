"""A folder of images, with an optional table of labels and an optional folder of masks. Ours.

Images are found recursively and drawn by a seed and their path relative to the folder. Hidden files, and whatever lies
in the folder of the masks, are no images. A mask belongs to the image with the same relative path, whatever their
suffixes. Files that look like images and are not read are misfits, rows of the table without an image a note.
"""

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmech.config.images import ImageFolder, ImagesConfig
from diffmech.data.draw import drawn_order
from diffmech.data.formats import readable, suffix_of, unread
from diffmech.data.labels import read_labels, read_table, why_none_fits
from diffmech.data.listing import list_images, note_what_is_left, scan
from diffmech.data.masks import read_mask
from diffmech.data.preparation import kept_area, prepare_image, prepare_mask, read_image
from diffmech.data.source import BadFile, Sample
from diffmech.errors import DataError

logger = logging.getLogger(__name__)


class ImageFolderSource:
    """The images of one folder.

    Raises DataError if the folder is missing or holds no image, if the label table is no table of numbers in [0, 1] or
    of other images, or if the mask folder has no subfolder. Images that are not read, without label or mask, and masks
    without image, are misfits.
    """

    def __init__(self, config: ImageFolder, images: ImagesConfig) -> None:
        self._crop = config.crop
        self._images = images
        self.folder = Path(config.path).expanduser()
        self.location = str(self.folder)
        mask_folder = Path(config.masks).expanduser() if config.masks else None
        listing = list_images(self.folder, without=mask_folder)
        note_what_is_left(self.folder, listing)
        files = list(listing.images)
        # where nothing may be bad, only the images that are used have to be good
        drawn = drawn_order(files, config.seed)
        used = drawn[: config.count] if config.on_bad_file == "error" else drawn
        misfits = {file: BadFile(file, reason) for file, reason in listing.unread.items()}
        self.attribute_names: tuple[str, ...] = ()
        self._labels: dict[str, np.ndarray] = {}
        if config.labels:
            table = read_table(Path(config.labels).expanduser(), files)
            self.attribute_names, self._labels = read_labels(table, files, without=config.group)
            if not self._labels:
                raise DataError(why_none_fits(table, files, self.folder))
            missing = {file: BadFile(file, f"has no row in {table.path}") for file in used if file not in self._labels}
            misfits.update(missing)
            if extra := table.without_image(files):
                logger.warning(
                    "%s: %d of its %d rows name no image of %s, for example %s",
                    *(table.path, len(extra), len(table.rows), self.folder, extra[0]),
                )
        self.part_names: tuple[str, ...] = ()
        self._masks: dict[str, dict[str, Path]] = {}
        if mask_folder is not None:
            self._masks = find_masks(mask_folder)
            self.part_names = tuple(self._masks)
            misfits.update(_mask_misfits(files, used, self._masks, mask_folder))
        self.misfits = tuple(misfits[file] for file in sorted(misfits))
        self._files = [file for file in used if file not in misfits]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Decode and prepare the images of `indices` with their masks."""
        return [self._sample(self._files[index]) for index in indices]

    def _sample(self, file: str) -> Sample | BadFile:
        try:
            pixels = read_image(self.folder / file)
            masks = [self._mask(part, file, pixels.shape[:2]) for part in self.part_names]
        except DataError as error:
            return BadFile(file, str(error))
        size = self._images.size
        return Sample(
            file,
            prepare_image(pixels, self._images, self._crop),
            self._labels.get(file, np.empty(0, dtype=np.float32)),
            np.stack(masks) if masks else np.empty((0, size, size), dtype=np.uint8),
            kept_area(pixels, self._crop),
        )

    def _mask(self, part: str, file: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self._masks[part][_stem(file)]
        try:
            pixels = read_mask(path)
        except DataError as error:
            raise DataError(f"its mask {path} {error}") from error
        found = pixels.shape[:2]
        if found != shape:
            turned = found == shape[::-1]
            advice = "turn it as the orientation in the image's EXIF turns the image" if turned else "make them equal"
            raise DataError(f"its mask {path} has height and width {found} but the image has {shape}; {advice}")
        return prepare_mask(pixels, self._images.size, self._crop)


def find_masks(folder: Path) -> dict[str, dict[str, Path]]:
    """Return, per part (subfolder of `folder`, sorted), the masks by their relative path without suffix."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; set `masks` to the folder of the masks, or to null")
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not parts:
        raise DataError(f"{folder}: has no subfolder; put the masks of each part in one, for example {folder}/eyes")
    return {
        part.name: {_stem(name): part / name for name, entry in scan(part) if suffix_of(entry.name) in readable()}
        for part in parts
    }


def _mask_misfits(
    files: list[str], used: list[str], masks: dict[str, dict[str, Path]], folder: Path
) -> dict[str, BadFile]:
    misfits = {}
    stems: dict[str, str] = {}
    for file in files:
        if _stem(file) in stems:
            misfits[file] = BadFile(
                file, f"shares its name with {stems[_stem(file)]}, so a mask would fit both; rename it"
            )
        stems.setdefault(_stem(file), file)
    for part, paths in masks.items():
        for stem, path in paths.items():
            if stem not in stems:
                misfits[str(path)] = BadFile(str(path), "is a mask without an image")
        other = {_stem(name): name for name, _ in scan(folder / part)}
        for file in used:
            if _stem(file) in paths:
                continue
            name = other.get(_stem(file), "")
            unfit = unread(suffix_of(name))
            misfits[file] = BadFile(
                file, f"its mask {folder / part / name} {unfit}" if unfit else f"has no mask in {folder / part}"
            )
    return misfits


def _stem(file: str) -> str:
    return unicodedata.normalize("NFC", Path(file).with_suffix("").as_posix())
