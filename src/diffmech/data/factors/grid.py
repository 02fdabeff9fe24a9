"""Data sets that hold each combination of their factors, as images by number. Ours.

Images are counted as in the published files: the last factor changes fastest.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmech.data.factors.dataset import FactorData
from diffmech.data.factors.factor import Factor
from diffmech.data.factors.pixels import as_float
from diffmech.errors import DataError

REAL = "iuf"  # kinds of arrays whose numbers have an order: whole and real ones


class GridData(FactorData):
    """Factors that all have finitely many values; images are also found by their number in the grid."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many values each factor has."""
        return tuple(len(factor.values) for factor in self.factors)

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def values_at(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the values `(sample, factor)` of images by their number. Raises DataError for one beyond the last."""
        wanted = np.asarray(numbers, dtype=np.int64).reshape(-1)
        outside = (wanted < 0) | (wanted >= len(self))
        if outside.any():
            raise DataError(f"{self.name}: has images 0 to {len(self) - 1}, no number {wanted[outside][0]}")
        classes = np.unravel_index(wanted, self.sizes)
        return np.stack([np.array(f.values)[k] for f, k in zip(self.factors, classes, strict=True)], axis=1)

    def classes_of(self, values: np.ndarray) -> np.ndarray:
        """Return the classes `(sample, factor)`, int64, of values that are on the grid."""
        return np.stack([f.classes_of(column) for f, column in zip(self.factors, values.T, strict=True)], axis=1)

    def numbers_of(self, values: np.ndarray) -> np.ndarray:
        """Return the numbers `(sample,)` of the images of values that are on the grid."""
        return np.asarray(np.ravel_multi_index(tuple(self.classes_of(values).T), self.sizes))

    def images_at(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the images `(sample, channel, y, x)` in [0, 1] of numbers, of identity 0."""
        return self.images_of(self.values_at(numbers))


class StoredGrid(GridData):
    """A grid that is read from a file, row by row: what is not stored there cannot be shown.

    `size` and `channels` are those of the images that it gives; None leaves them as they are stored.
    """

    def __init__(
        self, name: str, factors: Sequence[Factor], stored: tuple[int, int, int], size: int | None, channels: int | None
    ) -> None:
        """Prepare to give images of rows that are stored as `(y, x, channel)`."""
        self.name = name
        self.factors = tuple(factors)
        height, _, depth = stored
        self.image_shape = (channels or depth, size or height, size or height)

    def images_of(self, values: np.ndarray, identity: np.ndarray | None = None) -> np.ndarray:
        """Return the stored images of values on the grid. Raises DataError for values between."""
        values, identity = self.checked(values, identity)
        pixels = self._pixels(self._rows_of(self.numbers_of(values), identity))
        channels, size, _ = self.image_shape
        return as_float(pixels, size, channels)

    def _rows_of(self, numbers: np.ndarray, identity: np.ndarray) -> np.ndarray:
        """Return the rows of the file that hold images by their number in the grid and their identity."""
        return numbers

    @abstractmethod
    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 `(sample, y, x, channel)` of rows of the file, in the order asked for."""


def columns_as_classes(values: np.ndarray) -> tuple[np.ndarray, list[tuple[float, ...]]]:
    """Return the class `(row, factor)` of each cell of `values` `(row, factor)`, and the values of each factor."""
    classes = np.empty(values.shape, dtype=np.int64)
    known = []
    for column in range(values.shape[1]):
        found, classes[:, column] = np.unique(values[:, column], return_inverse=True)
        known.append(tuple(float(value) for value in found))
    return classes, known


def check_enumerates(classes: np.ndarray, sizes: Sequence[int], path: Path | str) -> None:
    """Raise DataError unless classes `(row, factor)` are each combination once, the last factor fastest."""
    check_count(len(classes), sizes, path)
    expected = np.stack(np.unravel_index(np.arange(len(classes)), tuple(sizes)), axis=1)
    wrong = np.flatnonzero((classes != expected).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{path}: its factors do not enumerate: row {row} has the classes {classes[row].tolist()} where "
            f"{expected[row].tolist()} is expected (each combination once, the last factor fastest); "
            "get the published file"
        )


def check_count(rows: int, sizes: Sequence[int], path: Path | str) -> None:
    """Raise DataError unless the number of rows is that of all combinations of factors of these sizes."""
    if rows != math.prod(sizes):
        raise DataError(
            f"{path}: holds {rows} images, but factors of {' x '.join(map(str, sizes))} values have "
            f"{math.prod(sizes)} combinations; the file is cut off or is another version, get the published one"
        )
