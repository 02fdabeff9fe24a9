"""A folder of images, with an optional table of labels and an optional folder of masks. Ours.

Images are found recursively and drawn by a seed and their path relative to the folder. Hidden files, and whatever lies
in the folder of the masks, are no images. A mask belongs to the image with the same relative path, whatever their
suffixes.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from diffmech.config.images import ImageFolder, ImagesConfig
from diffmech.data.draw import drawn_order
from diffmech.data.preparation import BLACK, SUFFIXES, kept_area, prepare_image, prepare_mask, read_image
from diffmech.data.source import BadFile, Sample, attribute_row
from diffmech.errors import DataError


class ImageFolderSource:
    """The images of one folder.

    Raises DataError if the folder is missing or holds no image, if the label table is no table of numbers in [0, 1], or
    if the mask folder has no subfolder. Images without label or mask, and the reverse, are misfits.
    """

    def __init__(self, config: ImageFolder, images: ImagesConfig) -> None:
        self._crop = config.crop
        self._images = images
        self.folder = Path(config.path).expanduser()
        self.location = str(self.folder)
        mask_folder = Path(config.masks).expanduser() if config.masks else None
        files = find_images(self.folder, without=mask_folder)
        # where nothing may be bad, only the images that are used have to be good
        drawn = drawn_order(files, config.seed)
        used = drawn[: config.count] if config.on_bad_file == "error" else drawn
        misfits: dict[str, BadFile] = {}
        self.attribute_names: tuple[str, ...] = ()
        self._labels: dict[str, np.ndarray] = {}
        if config.labels:
            table = Path(config.labels).expanduser()
            self.attribute_names, self._labels = read_labels(table, without=config.group)
            present = set(files)
            for file in self._labels:
                if file not in present:
                    misfits[file] = BadFile(file, f"has a row in {table} but there is no such image")
            for file in used:
                if file not in self._labels:
                    misfits[file] = BadFile(file, f"has no row in {table}")
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
            pixels = read_image(path, background=BLACK)
        except DataError as error:
            raise DataError(f"its mask {path} {error}") from error
        if pixels.shape[:2] != shape:
            raise DataError(
                f"its mask {path} has height and width {pixels.shape[:2]} but the image has {shape}; make them equal"
            )
        return prepare_mask(pixels, self._images.size, self._crop)


def find_images(folder: Path, *, without: Path | None = None) -> list[str]:
    """Return the paths of all images below `folder`, relative to it and sorted, except those below `without`.

    Raises DataError if the folder does not exist, is no folder or holds no image.
    """
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {found}; set `path` to the folder that holds the images")
    excluded = without.resolve() if without is not None else None
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in _walk(folder)
        if excluded is None or excluded not in path.resolve().parents
    )
    if not files:
        raise DataError(f"{folder}: holds no images; looked, also in subfolders, for {', '.join(SUFFIXES)}")
    return files


def read_labels(table: Path, *, without: str | None = None) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the attribute names of a CSV and, per file of its first column, float32 values `(attribute,)`.

    The column `without`, where there is one, is no attribute. An empty cell is an unknown value. Raises DataError as
    `read_table` does, and for a value that is no number in [0, 1].
    """
    columns, rows = read_table(table)
    kept = [place for place, name in enumerate(columns) if name != without]
    names = tuple(columns[place] for place in kept)
    labels = {
        file: attribute_row(names, [cells[place] for place in kept], f"{table}: line {line} ({file})")
        for file, (line, cells) in rows.items()
    }
    return names, labels


def read_table(table: Path) -> tuple[tuple[str, ...], dict[str, tuple[int, list[str]]]]:
    """Return the columns of a CSV after the first and, per file of the first, its line number and its cells.

    Raises DataError for a table that is missing, not UTF-8, without a second column, with rows of a wrong length, or
    with a file named twice.
    """
    found: dict[str, tuple[int, list[str]]] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream)
            names = tuple(name.strip() for name in next(rows, [])[1:])
            if not names or len(set(names)) != len(names) or not all(names):
                raise DataError(
                    f"{table}: its first line must name the file column and at least one attribute, each once, "
                    "for example 'file,smiling'"
                )
            for row in rows:
                if not row:
                    continue
                where = f"{table}: line {rows.line_num}"
                if len(row) != len(names) + 1:
                    raise DataError(
                        f"{where} has {len(row)} cells but the first line has {len(names) + 1}; mend the line"
                    )
                file = Path(row[0].strip()).as_posix()
                if file in found:
                    raise DataError(f"{where} names {file} a second time; keep one row per image")
                found[file] = rows.line_num, row[1:]
    except OSError as error:
        raise DataError(
            f"{table}: cannot be read ({error.strerror}); set `labels` to a CSV file, or to null"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: is not a CSV in UTF-8 ({error}); save it as CSV in UTF-8") from error
    return names, found


def find_masks(folder: Path) -> dict[str, dict[str, Path]]:
    """Return, per part (subfolder of `folder`, sorted), the masks by their relative path without suffix."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; set `masks` to the folder of the masks, or to null")
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not parts:
        raise DataError(f"{folder}: has no subfolder; put the masks of each part in one, for example {folder}/eyes")
    return {part.name: {_stem(path.relative_to(part).as_posix()): path for path in _walk(part)} for part in parts}


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
        for file in used:
            if _stem(file) not in paths:
                misfits[file] = BadFile(file, f"has no mask in {folder / part}")
    return misfits


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all image files below `folder`, following links to other folders but never in a circle."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent) / name


def _stem(file: str) -> str:
    return Path(file).with_suffix("").as_posix()
