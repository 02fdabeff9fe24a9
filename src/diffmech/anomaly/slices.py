"""The one record of axial slices that all data sets of brains are read into, and its store. Ours.

Rows of images run from the front of the head to its back, columns from the patient's right to the left (the
radiological convention), wherever the data set says which is which.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.artifacts import open_store, provenance, write_store
from diffmech.errors import StoreError

# The kind of a lesion of which is known that it is in the slice, and not where: its pixels are not marked.
UNMARKED = "unmarked"
CHUNK = 64  # slices per chunk of a store


@dataclass(frozen=True)
class Slices:
    """Axial slices of brains.

    `images` float32 `(slice, modality, y, x)` in [0, 1] after robust normalisation of each volume, 0 outside of the
    brain; `brain` and `lesion` bool `(slice, y, x)`; `patient` str `(slice,)`; `position` float64 `(slice,)` in [0, 1]
    from the bottom to the top of the brain, NaN where it is not known; `kind` str `(slice,)`: kinds of the lesions in
    it joined by "+", "" where there is none or it is not known. ValueError where these do not fit each other.
    """

    images: np.ndarray
    brain: np.ndarray
    lesion: np.ndarray
    patient: np.ndarray
    position: np.ndarray
    kind: np.ndarray
    modalities: tuple[str, ...]

    def __post_init__(self) -> None:
        if wrong := _misfit(self):
            raise ValueError(f"slices: {wrong}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def abnormal(self) -> np.ndarray:
        """Whether there is a lesion in each slice, bool `(slice,)`: a pixel of one, or one that is not marked."""
        return self.lesion.any((1, 2)) | ~self.marked

    @property
    def marked(self) -> np.ndarray:
        """Whether `lesion` holds all lesions of a slice, bool `(slice,)`; what is said of pixels is of these alone."""
        return np.array([UNMARKED not in kind.split("+") for kind in self.kind.tolist()], dtype=bool)

    @property
    def patients(self) -> list[str]:
        """The names of all patients, sorted."""
        return sorted(set(self.patient.tolist()))

    def unlabelled(self) -> "Slices":
        """Return the same slices as if nothing were known of lesions."""
        return replace(self, lesion=np.zeros_like(self.lesion), kind=np.full_like(self.kind, ""))

    def take(self, rows: np.ndarray) -> "Slices":
        """Return the slices `rows`, places or a mask of them, in that order."""
        arrays: dict[str, Any] = {
            field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name != "modalities"
        }
        return replace(self, **arrays)

    def of(self, patients: Iterable[str]) -> "Slices":
        """Return all slices of `patients`, in the order of this record. ValueError for one who has none."""
        wanted = list(patients)
        if missing := sorted(set(wanted) - set(self.patient.tolist())):
            raise ValueError(f"slices: none of patient {missing[0]}")
        return self.take(np.isin(self.patient, wanted))


def joined(parts: Iterable[Slices]) -> Slices:
    """Return the slices of all `parts` in one record. ValueError for none, and for other modalities or sizes."""
    every = list(parts)
    if len({(part.modalities, part.images.shape[1:]) for part in every}) != 1:
        raise ValueError("slices: only those of the same modalities and size are joined")
    arrays: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in every])
        for field in fields(Slices)
        if field.name != "modalities"
    }
    return replace(every[0], **arrays)


def write_slices(path: Path | str, slices: Slices, **about: Any) -> None:
    """Write slices as one store, with `about` (settings, seeds) in its provenance; equal slices give equal bytes."""
    import xarray as xr

    dataset = xr.Dataset(
        {
            "image": (("slice", "modality", "y", "x"), slices.images),
            "brain": (("slice", "y", "x"), slices.brain),
            "lesion": (("slice", "y", "x"), slices.lesion),
            "position": ("slice", slices.position),
        },
        coords={
            "patient": ("slice", slices.patient),
            "kind": ("slice", slices.kind),
            "modality": ("modality", np.array(slices.modalities)),
        },
        attrs={"provenance": provenance(**about)},
    )
    rows = max(1, min(CHUNK, len(slices)))
    encoding = {name: {"chunks": (rows, *dataset[name].shape[1:])} for name in ("image", "brain", "lesion")}
    write_store(path, dataset, encoding=encoding)


def read_slices(path: Path | str) -> Slices:
    """Read slices whole; StoreError where the store is missing, broken, no store of slices, or holds what none is."""
    data = open_store(path).dataset
    if missing := [name for name in ("image", "brain", "lesion", "position", "patient", "kind") if name not in data]:
        raise StoreError(
            f"{path}: is no store of slices (no {', '.join(missing)}); let the workflow read the data anew"
        )
    text = {name: np.array([str(value) for value in data[name].values]) for name in ("patient", "kind")}
    try:
        return Slices(
            images=data["image"].values,
            brain=data["brain"].values,
            lesion=data["lesion"].values,
            position=data["position"].values,
            modalities=tuple(str(name) for name in data["modality"].values),
            **text,
        )
    except ValueError as error:
        raise StoreError(f"{path}: holds no valid {error}; delete it and read the data again") from error


def _misfit(slices: Slices) -> str:
    """Return what is wrong with the arrays of `slices`, "" where nothing is."""
    shape = slices.images.shape
    if slices.images.dtype != np.float32 or len(shape) != 4 or shape[1] != len(slices.modalities) or 0 in shape:
        return f"images are {slices.images.dtype} of shape {shape} with {len(slices.modalities)} modalities"
    count, _, *plane = shape
    for name, dtype, expected in (
        ("brain", np.dtype(bool), (count, *plane)),
        ("lesion", np.dtype(bool), (count, *plane)),
        ("position", np.dtype(np.float64), (count,)),
    ):
        array = getattr(slices, name)
        if array.dtype != dtype or array.shape != expected:
            return f"{name} is {array.dtype} of shape {array.shape}, expected {dtype} of shape {expected}"
    for name in ("patient", "kind"):
        array = getattr(slices, name)
        if array.dtype.kind != "U" or array.shape != (count,):
            return f"{name} is {array.dtype} of shape {array.shape}, expected text of shape {(count,)}"
    if not (slices.patient != "").all():
        return "a patient has no name"
    if not ((slices.images >= 0) & (slices.images <= 1)).all():  # NaN too
        return "images hold values outside [0, 1]"
    known = slices.position[~np.isnan(slices.position)]
    if not ((known >= 0) & (known <= 1)).all():
        return "positions lie outside [0, 1]"
    return ""
