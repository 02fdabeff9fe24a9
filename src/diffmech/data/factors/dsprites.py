"""dSprites from its published file (Matthey et al. 2017, dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz).

The file holds `imgs` (image, y, x), 0 or 1, `latents_classes` and `latents_values` (image, latent), of colour, shape,
scale, orientation, x and y, and a pickle `metadata`, which is not read: it could run code, and says nothing more.
Images are read when first asked for and kept packed, one bit per pixel (380 MB instead of 3 GB).
"""

import math
from pathlib import Path

import numpy as np

from diffmech.data.factors.archive import NpzArray, image_rows
from diffmech.data.factors.factor import Factor
from diffmech.data.factors.grid import REAL, StoredGrid, check_enumerates, columns_as_classes
from diffmech.data.factors.sprites import SHAPES
from diffmech.errors import DataError

LATENTS = ("color", "shape", "scale", "orientation", "x", "y")
RANGES = ((0.9, 1.1), (1, 3), (0.5, 1), (0, 2 * math.pi), (0, 1), (0, 1))  # of the published values
SLACK = 1e-3


class DSprites(StoredGrid):
    """The stored sprites; how many there are of each factor is what the file says of itself.

    A latent that takes one value (the colour) is no factor. Orientation has its first value a second time as 2 pi.
    Raises DataError for a file of another version, one that is cut off, and factors that do not enumerate.
    """

    def __init__(self, path: Path | str, size: int | None = None) -> None:
        images = NpzArray(path, "imgs")
        stored = image_rows(images, 1)
        values, classes = (NpzArray(path, name).whole() for name in ("latents_values", "latents_classes"))
        for name, table in (("latents_values", values), ("latents_classes", classes)):
            if table.shape != (images.shape[0], len(LATENTS)):
                raise DataError(
                    f"{images.path}: {name!r} has shape {table.shape}, expected {(images.shape[0], len(LATENTS))} "
                    f"({', '.join(LATENTS)}); its table of latents is another one, get the published file"
                )
            if table.dtype.kind not in REAL:
                raise DataError(
                    f"{images.path}: {name!r} holds {table.dtype}, expected whole or real numbers; "
                    "get dSprites as it was published"
                )
        for name, column, (low, high) in zip(LATENTS, values.T, RANGES, strict=True):
            if not (column.min() >= low - SLACK and column.max() <= high + SLACK):
                raise DataError(
                    f"{images.path}: {name} goes from {column.min():g} to {column.max():g}, expected {low:g} to "
                    f"{high:g}; its latents are of another version or in another order"
                )
        shapes = values[:, LATENTS.index("shape")]
        if (odd := shapes[shapes != np.rint(shapes)]).size:
            raise DataError(
                f"{images.path}: shape is {odd[0]:g} in 'latents_values', expected 1 (square), 2 (ellipse) or 3 "
                "(heart); its sprites are of another version, get the published file"
            )
        by_value, known = columns_as_classes(values)
        check_enumerates(classes, [len(column) for column in known], images.path)
        if (by_value != classes).any():
            row = int(np.flatnonzero((by_value != classes).any(axis=1))[0])
            raise DataError(
                f"{images.path}: row {row} has the values {values[row].tolist()}, which are not those of its classes "
                f"{classes[row].tolist()}; get the published file"
            )
        factors = [_factor(name, column) for name, column in zip(LATENTS, known, strict=True) if len(column) > 1]
        super().__init__("dsprites", factors, stored, size, None)
        self._images, self._stored = images, stored
        self._packed: np.ndarray | None = None

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        """Return pixels of 0 and 255 `(sample, y, x, 1)`."""
        if self._packed is None:
            self._packed = np.concatenate([self._pack(block) for block in self._images.blocks()])
        flat = np.unpackbits(self._packed[rows], axis=1, count=math.prod(self._stored))
        return flat.reshape(-1, *self._stored) * np.uint8(255)

    def _pack(self, block: np.ndarray) -> np.ndarray:
        if block.max(initial=0) > 1:
            raise DataError(
                f"{self._images.path}: 'imgs' holds pixels of {block.max()}, expected only 0 and 1; "
                "get the published version"
            )
        return np.packbits(block.reshape(len(block), -1), axis=1)


def _factor(name: str, values: tuple[float, ...]) -> Factor:
    if name == "shape":
        labels = tuple(SHAPES[round(value) - 1] for value in values)
        return Factor(name, "discrete", "outline of the sprite", values, labels=labels)
    if name == "orientation":
        return Factor(name, "circular", "turn in radians", values, period=2 * math.pi)
    return Factor(name, "ordinal", {"scale": "length relative to the largest"}.get(name, "position, 0 to 1"), values)
