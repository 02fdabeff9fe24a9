"""MPI3D from its published files (Gondal et al. 2019, arXiv 1906.03292): toy, realistic, real and real_complex.

A file holds `images` (image, y, x, 3), uint8, and nothing of its factors: their order is published (colour, shape and
size of the object, height of the camera, colour of the background, and the two axes of the robot arm, the last
fastest), and their sizes follow from how many images there are.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmech.data.factors.archive import NpzArray, image_rows
from diffmech.data.factors.factor import Factor, Kind
from diffmech.data.factors.grid import StoredGrid, check_count
from diffmech.errors import DataError

FACTORS: tuple[tuple[str, Kind, str], ...] = (
    ("object_color", "discrete", "colour of the object, by number"),
    ("object_shape", "discrete", "form of the object, by number"),
    ("object_size", "ordinal", "0 small, 1 large"),
    ("camera_height", "ordinal", "0 top, 1 centre, 2 bottom"),
    ("background_color", "discrete", "colour of the background, by number"),
    ("horizontal_axis", "ordinal", "step of the first axis of the arm"),
    ("vertical_axis", "ordinal", "step of the second axis of the arm"),
)
PUBLISHED = ((6, 6, 2, 3, 3, 40, 40), (4, 4, 2, 3, 3, 40, 40))  # 1,036,800 images; 460,800 (real_complex)


class MPI3D(StoredGrid):
    """The stored pictures of the robot arm. `sizes` are those of the seven factors, None for a published file.

    Raises DataError for a file that is missing, cut off or of another version, or with a number of images that is not
    that of `sizes`.
    """

    def __init__(
        self,
        path: Path | str,
        size: int | None = None,
        channels: int | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        self._images = NpzArray(path, "images")
        stored = image_rows(self._images, 3)
        rows = self._images.shape[0]
        if sizes is None:
            known = {math.prod(each): each for each in PUBLISHED}
            if rows not in known:
                counts = " or ".join(f"{count:,}" for count in known)
                raise DataError(
                    f"{self._images.path}: {rows:,} images are of no published MPI3D, which has {counts}; get the "
                    "whole file, or give the sizes of its seven factors"
                )
            sizes = known[rows]
        if len(sizes) != len(FACTORS):
            names = ", ".join(name for name, *_ in FACTORS)
            raise DataError(f"sizes: {len(sizes)} numbers are given for the seven factors of MPI3D, {names}")
        check_count(rows, sizes, self._images.path)
        factors = [
            Factor(name, kind, about, tuple(map(float, range(count))))
            for (name, kind, about), count in zip(FACTORS, sizes, strict=True)
        ]
        super().__init__("mpi3d", factors, stored, size, channels)

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        return self._images.rows(rows)
