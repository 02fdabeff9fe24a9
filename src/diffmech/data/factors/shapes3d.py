"""3D Shapes from its published file (Burgess and Kim 2018, 3dshapes.h5).

The file holds `images` (image, y, x, 3), uint8, and `labels` (image, 6), the values of floor hue, wall hue, object hue,
scale, shape and orientation in degrees: 10 x 10 x 10 x 8 x 4 x 15 = 480,000 images.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.data.factors.factor import Factor, Kind
from diffmech.data.factors.grid import REAL, StoredGrid, check_enumerates, columns_as_classes
from diffmech.errors import DataError

LABELS: tuple[tuple[str, Kind, str, float | None], ...] = (
    ("floor_hue", "circular", "hue of the floor, in turns of the colour circle", 1.0),
    ("wall_hue", "circular", "hue of the wall, in turns of the colour circle", 1.0),
    ("object_hue", "circular", "hue of the object, in turns of the colour circle", 1.0),
    ("scale", "ordinal", "size of the object", None),
    ("shape", "discrete", "form of the object", None),
    ("orientation", "ordinal", "turn of the room in degrees", None),
)
SHAPES = ("cube", "cylinder", "sphere", "capsule")


class Shapes3D(StoredGrid):
    """The stored scenes; how many values each factor has is what the labels in the file say.

    Raises DataError where h5py is not installed, and for a file that is missing, cut off, damaged, of another version,
    or whose factors do not enumerate.
    """

    def __init__(self, path: Path | str, size: int | None = None, channels: int | None = None) -> None:
        if importlib.util.find_spec("h5py") is None:
            raise DataError("3D Shapes is read with the package h5py; run: pip install 'diffmech[hdf5]'")
        path = Path(path).expanduser()
        file = _open(path)
        self._path = path
        self._images, labels = (_rows(path, file, name) for name in ("images", "labels"))
        shape, kind = self._images.shape, self._images.dtype
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or kind != np.uint8:
            raise DataError(
                f"{path}: its images are {kind} of shape {shape}, expected uint8 (image, size, size, 3); "
                "get 3dshapes.h5 as it was published"
            )
        if labels.shape != (shape[0], len(LABELS)):
            raise DataError(
                f"{path}: its labels have shape {labels.shape}, expected {(shape[0], len(LABELS))} "
                f"({', '.join(name for name, *_ in LABELS)}); get 3dshapes.h5 as it was published"
            )
        classes, known = columns_as_classes(_labels(path, labels))
        check_enumerates(classes, [len(values) for values in known], path)
        factors = [
            Factor(name, kind, about, values, labels=_names(path, values) if name == "shape" else (), period=period)
            for (name, kind, about, period), values in zip(LABELS, known, strict=True)
        ]
        super().__init__("shapes3d", factors, shape[1:], size, channels)

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        # h5py wants rows in rising order, each once
        once, back = np.unique(rows, return_inverse=True)
        return _read(self._path, self._images, once)[back]


def _open(path: Path) -> Any:
    import h5py

    if not path.is_file():
        raise DataError(f"{path}: there is no such file; put 3dshapes.h5 there")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path}: cannot be opened as HDF5 ({_reason(error)}); it is cut off or no .h5, get it anew"
        ) from error


def _reason(error: Exception) -> str:
    """Return what HDF5 says, on one line."""
    return " ".join(str(error).split())


def _rows(path: Path, file: Any, name: str) -> Any:
    """Return an array of the file that has rows, none of them read."""
    import h5py

    try:
        there = sorted(file)
        found = file[name] if name in there else None
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(
            f"{path}: {name!r} cannot be found in it ({_reason(error)}); it is damaged, get it anew"
        ) from error
    if found is None:
        raise DataError(
            f"{path}: has {', '.join(there) or 'nothing'} but no {name!r}; get 3dshapes.h5 as it was published"
        )
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: {name!r} is a group and no array of rows; get 3dshapes.h5 as it was published")
    if not found.shape or not found.shape[0]:
        raise DataError(f"{path}: {name!r} is an array without rows; get the whole 3dshapes.h5")
    return found


def _read(path: Path, array: Any, rows: Any) -> np.ndarray:
    try:
        return np.asarray(array[rows])
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path}: rows of {array.name!r} cannot be read from it ({_reason(error)}); a part of it is "
            "damaged, get it anew"
        ) from error


def _labels(path: Path, array: Any) -> np.ndarray:
    """Return the labels `(image, factor)`."""
    if array.dtype.kind not in REAL:
        raise DataError(
            f"{path}: its labels are {array.dtype}, expected real numbers; get 3dshapes.h5 as it was published"
        )
    labels = _read(path, array, slice(None))
    if not np.isfinite(labels).all():
        row = int(np.flatnonzero(~np.isfinite(labels).all(axis=1))[0])
        raise DataError(
            f"{path}: row {row} of its labels holds NaN or an infinite value; get 3dshapes.h5 as it was published"
        )
    return labels


def _names(path: Path, values: tuple[float, ...]) -> tuple[str, ...]:
    """Return the names of values of the shape."""
    if odd := [value for value in values if value not in range(len(SHAPES))]:
        known = ", ".join(f"{number} ({name})" for number, name in enumerate(SHAPES))
        raise DataError(f"{path}: shape is {odd[0]:g} in its labels, expected {known}; get the published 3dshapes.h5")
    return tuple(SHAPES[int(value)] for value in values)
