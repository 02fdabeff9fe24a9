"""CelebA in its own layout: aligned faces of 178 x 218 pixels with forty binary attributes.

Source: Liu et al. 2015, Deep Learning Face Attributes in the Wild. The attribute table may be the original text file or
the CSV in which it is often passed on; images may lie in `img_align_celeba/` or once more below it.
"""

import csv
import logging
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from diffmech.config.images import CelebA, ImagesConfig
from diffmech.data.draw import drawn_order
from diffmech.data.listing import list_images
from diffmech.data.preparation import kept_area, prepare_image, read_image
from diffmech.data.source import BadFile, Sample
from diffmech.errors import ConfigError, DataError

IMAGES = "img_align_celeba"
TABLES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
_VALUES = {"1": 1, "-1": 0, "0": 0}

logger = logging.getLogger(__name__)


class CelebASource:
    """The images that are there, with their attributes as 0 or 1. Rows without an image are allowed (a part of CelebA).

    Raises DataError if the images or the table are missing or the table is cut off, ConfigError for an attribute that
    CelebA does not have.
    """

    def __init__(self, config: CelebA, images: ImagesConfig) -> None:
        root = Path(config.path).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: there is no such folder; set `path` to the folder that holds {IMAGES}/")
        folder = root / IMAGES
        if not folder.is_dir():
            raise DataError(f"{root}: holds no {IMAGES}/; unpack {IMAGES}.zip there")
        self.folder = folder / IMAGES if (folder / IMAGES).is_dir() else folder
        self.location = str(self.folder)
        self._crop = config.crop
        self._images = images
        table = next((root / name for name in TABLES if (root / name).is_file()), None)
        if table is None:
            raise DataError(f"{root}: holds neither {TABLES[0]} nor {TABLES[1]}; put one of them there")
        names, rows, values = read_attributes(table)
        kept = names if config.attributes is None else tuple(config.attributes)
        for name in kept:
            if name not in names:
                near = get_close_matches(name, names, n=1, cutoff=0.0)[0]
                raise ConfigError(f"attributes: {name!r} is not in {table}; did you mean {near!r}?")
        self.attribute_names = kept
        self.part_names: tuple[str, ...] = ()
        self._values = values[:, [names.index(name) for name in kept]]
        listing = list_images(self.folder)
        files = list(listing.images)
        drawn = drawn_order(files, config.seed)
        used = drawn[: config.count] if config.on_bad_file == "error" else drawn
        self._files = [file for file in used if file in rows]
        self._rows = rows
        misfits = {file: f"has no row in {table}" for file in used if file not in rows} | listing.unread
        self.misfits = tuple(BadFile(file, misfits[file]) for file in sorted(misfits))
        if len(files) < len(rows):
            logger.warning("%s: %d of the %d images in %s are there", self.folder, len(files), len(rows), table.name)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Decode and prepare the images of `indices`."""
        return [self._sample(self._files[index]) for index in indices]

    def attribute_values(self, indices: Sequence[int]) -> np.ndarray:
        """Return the attributes of `indices`, float32 `(image, attribute)`, without decoding the images."""
        return self._values[[self._rows[self._files[index]] for index in indices]].astype(np.float32)

    def _sample(self, file: str) -> Sample | BadFile:
        try:
            pixels = read_image(self.folder / file)
        except DataError as error:
            return BadFile(file, str(error))
        image = prepare_image(pixels, self._images, self._crop)
        values = self._values[self._rows[file]].astype(np.float32)
        masks = np.empty((0, self._images.size, self._images.size), dtype=np.uint8)
        return Sample(file, image, values, masks, kept_area(pixels, self._crop))


def read_attributes(table: Path) -> tuple[tuple[str, ...], dict[str, int], np.ndarray]:
    """Return attribute names, the row of each image, and uint8 values `(row, attribute)` of 0 (absent) and 1 (present).

    The text form starts with the number of images and a line of names; the CSV form with `image_id` and the names.
    Raises DataError for a table that is cut off or holds anything but -1, 0 and 1.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            if table.suffix == ".csv":
                lines: Iterator[list[str]] = csv.reader(stream)
                expected, names = None, tuple(next(lines, [])[1:])
            else:
                lines = (line.split() for line in stream)
                first = next(lines, [])
                if len(first) != 1 or not first[0].isdigit():
                    raise DataError(f"{table}: its first line must be the number of images; take the original file")
                expected, names = int(first[0]), tuple(next(lines, []))
            rows: dict[str, int] = {}
            values: list[np.ndarray] = []
            for row in lines:
                if not row:
                    continue
                try:
                    numbers = [_VALUES[cell] for cell in row[1:]]
                except KeyError as error:
                    raise DataError(f"{table}: {row[0]} has the value {error}; expected -1, 0 or 1") from None
                if len(numbers) != len(names):
                    raise DataError(
                        f"{table}: {row[0]} has {len(numbers)} values for {len(names)} names; the file is cut off "
                        "or was changed, get it anew"
                    )
                rows[row[0]] = len(values)
                values.append(np.array(numbers, dtype=np.uint8))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table}: cannot be read ({error}); take the original file") from error
    if not names or not rows or (expected is not None and len(rows) != expected):
        wanted = "at least one" if expected is None else f"{expected}"
        raise DataError(
            f"{table}: holds {len(rows)} rows where {wanted} are expected; the file is cut off, get it anew"
        )
    return names, rows, np.stack(values)
