"""Small files in the layouts in which data sets of factors are published."""

import gzip
import itertools
from pathlib import Path

import numpy as np

from diffmech.data.factors.sprites import DSpritesLike

LAYOUT = (1, 3, 2, 4, 2, 3)  # colour, shape, scale, orientation, x and y of the small dSprites
VALUES = ((1.0,), (1.0, 2.0, 3.0), (0.5, 1.0), (0.0, 2.0, 4.0, 6.0), (0.0, 1.0), (0.0, 0.5, 1.0))


class Trap:
    """Raises where it is unpickled."""

    def __reduce__(self):
        return (int, ("the metadata was unpickled",))


def dsprites_arrays() -> dict[str, np.ndarray]:
    """Return the arrays of a dSprites of 144 sprites of 16 x 16 pixels."""
    classes = np.array(list(itertools.product(*(range(size) for size in LAYOUT))))
    values = np.stack([np.array(known)[column] for known, column in zip(VALUES, classes.T, strict=True)], axis=1)
    images = DSpritesLike(16).images_of(values[:, 1:] - np.array([1, 0, 0, 0, 0]))[:, 0].astype(np.uint8)
    metadata = np.array(Trap(), dtype=object)
    return {"metadata": metadata, "imgs": images, "latents_classes": classes, "latents_values": values}


def pictures(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """Return noise (image, y, x, 3), uint8, each image another."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def matrix(values: np.ndarray) -> bytes:
    """Return an array in the format of NORB."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54, "float64": 0x1E3D4C53}[values.dtype.name]
    lengths = [*values.shape, *[1] * (3 - values.ndim)]
    return np.array([magic, values.ndim, *lengths], dtype="<i4").tobytes() + values.tobytes()


def norb_split(toys: tuple[int, ...], seed: int, size: int = 12) -> dict[str, np.ndarray]:
    """Return the three arrays of a split, in shuffled order as published: 2 categories, 2 elevations, 3 azimuths and 2
    lightings of each toy; a toy of category 1 has the number of one of category 0, plus one."""
    rows = [(c, t + c, e, 2 * a, li) for c, t, e, a, li in itertools.product(range(2), toys, (0, 8), range(3), (1, 5))]
    table = np.array(rows, dtype=np.int32)[np.random.default_rng(seed).permutation(len(rows))]
    images = np.random.default_rng(seed + 100).integers(0, 256, (len(rows), 2, size, size), dtype=np.uint8)
    return {"dat": images, "cat": np.ascontiguousarray(table[:, 0]), "info": np.ascontiguousarray(table[:, 1:])}


def write_norb(folder: Path, stem: str, arrays: dict[str, np.ndarray], *, packed: bool = False) -> None:
    """Write the three files of a split, as .mat or as .mat.gz."""
    for part, values in arrays.items():
        if packed:
            (folder / f"{stem}-{part}.mat.gz").write_bytes(gzip.compress(matrix(values)))
        else:
            (folder / f"{stem}-{part}.mat").write_bytes(matrix(values))
