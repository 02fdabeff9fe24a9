"""SmallNORB from its published files (LeCun, Huang and Bottou 2004): toys by category, elevation, azimuth and lighting.

Per split there are three files, `-dat` with images (image, camera, y, x), uint8, `-cat` with the category (image,) and
`-info` with instance, elevation, azimuth and lighting (image, 4), int32. Each starts with a magic number that tells its
type, the number of its axes, and their lengths (at least three are written), all little-endian int32. Both files as
they were published (.mat.gz) and unpacked ones (.mat) are read.

The instance, which of the ten toys of a category, is no factor: toy 3 of one category has nothing in common with toy 3
of another. It is the identity.
"""

import gzip
import math
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from diffmech.data.factors.factor import Factor
from diffmech.data.factors.grid import StoredGrid, check_count, columns_as_classes
from diffmech.errors import DataError

STEMS = {
    "training": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "testing": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
MAGIC: dict[int, np.dtype] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}
CATEGORIES = ("animal", "human", "airplane", "truck", "car")
CAMERAS = 2
COPIED = 16 << 20  # bytes unpacked at once


class SmallNORB(StoredGrid):
    """The stored toys of one split or both, as seen by one of the two cameras.

    Which values there are is what the labels in the files say; each category, toy, elevation, azimuth and lighting must
    be there once. Raises DataError for a file that is missing, cut off or not of this format, for labels that do not
    belong to the images, and for factors that do not enumerate.
    """

    def __init__(
        self,
        folder: Path | str,
        size: int | None = 64,
        splits: Sequence[str] = ("training", "testing"),
        camera: int = 0,
    ) -> None:
        root = Path(folder).expanduser()
        self._camera = camera
        self._images, labels = [], []
        for split in splits:
            images, of_split = _read_split(root, STEMS[split])
            self._images.append(images)
            labels.append(of_split)
        table = np.concatenate(labels)
        toys, factors = _instances(table, root), _factors(table)
        sizes = [len(factor.values) for factor in factors]
        self.identities = int(toys.max()) + 1
        check_count(len(table), [*sizes, self.identities], root)
        classes, _ = columns_as_classes(table[:, [0, 2, 3, 4]])
        place = np.ravel_multi_index((*classes.T, toys), (*sizes, self.identities))
        if len(np.unique(place)) != len(place):
            twice = table[np.flatnonzero(np.bincount(place)[place] > 1)[0]].tolist()
            raise DataError(
                f"{root}: category, instance, elevation, azimuth and lighting {twice} are there more than once, and "
                "others not at all; get the published files"
            )
        self._row = np.argsort(place).reshape(-1, self.identities)  # (number in the grid, toy)
        self._starts = np.cumsum([0, *(len(images) for images in self._images)])
        super().__init__("smallnorb", factors, (*self._images[0].shape[2:], 1), size, None)

    def _rows_of(self, numbers: np.ndarray, identity: np.ndarray) -> np.ndarray:
        return self._row[numbers, identity]

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(rows), *self._images[0].shape[2:], 1), dtype=np.uint8)
        of_split = np.searchsorted(self._starts, rows, side="right") - 1
        for split, images in enumerate(self._images):
            here = of_split == split
            pixels[here, ..., 0] = images[rows[here] - self._starts[split], self._camera]
        return pixels


def read_matrix(path: Path) -> np.ndarray:
    """Return the array in a file of the format of NORB, mapped and not read; one in .gz is unpacked once.

    Raises DataError for another magic number and for a file whose length is not what its header says.
    """
    try:
        with path.open("rb") as opened, _unpacked(opened) if path.suffix == ".gz" else opened as file:
            head = _integers(file, 2)
            dtype = MAGIC.get(int(head[0])) if len(head) == 2 else None
            if dtype is None or not 1 <= head[1] <= 4:
                raise DataError(f"{path}: does not start as a file of NORB with bytes or integers; get it anew")
            axes = max(3, int(head[1]))  # so many are written, ones where there are fewer
            shape = tuple(_integers(file, axes).tolist())[: int(head[1])]
            start, length = 8 + 4 * axes, file.seek(0, 2)
            expected = start + math.prod(shape) * dtype.itemsize
            if length != expected:
                raise DataError(
                    f"{path}: is {length} bytes long, its header of shape {shape} says {expected}; it is cut off or "
                    "damaged, get it anew"
                )
            return np.memmap(file, dtype=dtype, mode="r", offset=start, shape=shape)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read or unpacked ({error}); get the file of NORB anew") from error


def _integers(file: IO[bytes], count: int) -> np.ndarray:
    """Return the next integers, fewer where the file ends."""
    content = file.read(4 * count)
    return np.frombuffer(content[: len(content) // 4 * 4], dtype="<i4")


@contextmanager
def _unpacked(file: IO[bytes]) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as copy:  # a map keeps what is in it
        with gzip.open(file) as stream:
            while block := stream.read(COPIED):
                copy.write(block)
        copy.seek(0)
        yield copy


def _read_split(root: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (image, camera, y, x) and labels (image, 5) of one split."""
    images, category, info = (read_matrix(_file(root, f"{stem}-{part}.mat")) for part in ("dat", "cat", "info"))
    if images.ndim != 4 or images.shape[1] != CAMERAS or images.shape[2] != images.shape[3] or images.dtype != np.uint8:
        raise DataError(
            f"{root}: {stem}-dat.mat holds {images.dtype} of shape {images.shape}, expected bytes (image, 2, size, "
            "size); get the published file"
        )
    if category.shape != (len(images),) or info.shape != (len(images), 4):
        raise DataError(
            f"{root}: the labels of {stem} have shapes {category.shape} and {info.shape}, its {len(images)} images "
            f"need ({len(images)},) and ({len(images)}, 4); get its three files together"
        )
    return images, np.column_stack([category, info])


def _file(root: Path, name: str) -> Path:
    found = next((root / each for each in (name, f"{name}.gz") if (root / each).is_file()), None)
    if found is None:
        raise DataError(f"{root}: holds neither {name} nor {name}.gz; put one of them there")
    return found


def _instances(table: np.ndarray, root: Path) -> np.ndarray:
    """Return the number of each toy among those of its category, `(image,)`."""
    toys = np.empty(len(table), dtype=np.int64)
    counts = set()
    for category in np.unique(table[:, 0]):
        here = table[:, 0] == category
        known, toys[here] = np.unique(table[here, 1], return_inverse=True)
        counts.add(len(known))
    if len(counts) > 1:
        raise DataError(
            f"{root}: its categories have from {min(counts)} to {max(counts)} toys, all must have as many; "
            "get the published files"
        )
    return toys


def _factors(table: np.ndarray) -> list[Factor]:
    """Return the factors with the values that are there; angles are in degrees, as the files' authors say."""
    category, _, elevation, azimuth, lighting = ([float(v) for v in np.unique(column)] for column in table.T)
    names = tuple(CATEGORIES[int(v)] if v < len(CATEGORIES) else f"category {v:g}" for v in category)
    return [
        Factor("category", "discrete", "kind of the toy", tuple(category), labels=names),
        Factor("elevation", "ordinal", "of the camera, in degrees", tuple(30 + 5 * v for v in elevation)),
        Factor("azimuth", "circular", "turn of the toy in degrees", tuple(10 * v for v in azimuth), period=360.0),
        Factor("lighting", "discrete", "which lamps are lit, by number", tuple(lighting)),
    ]
