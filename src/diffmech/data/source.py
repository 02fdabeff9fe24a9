"""What an image source is: anything that hands out prepared images with their attributes and part masks. Ours.

A source knows its files before it reads them. It reads them in any order and from several threads, a range at a time,
and gives each image in its final form, so that no more than one range of images is ever held in memory. What cannot be
used becomes a `BadFile`; whether that stops the preparation or is left out and listed is not the source's decision.
"""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from diffmech.config.images import AnyDataset, ImagesConfig
from diffmech.errors import DataError


@dataclass(frozen=True)
class Sample:
    """One image in the form in which it is studied.

    `image` is uint8 `(channel, y, x)`; `attributes` is float32 `(attribute,)` in [0, 1], NaN where unknown; `masks` is
    uint8 `(part, y, x)`, 255 where the part covers the whole pixel; `kept_area` is the share of the source's pixels
    that was kept when it was cut to a square.
    """

    file: str
    image: np.ndarray
    attributes: np.ndarray
    masks: np.ndarray
    kept_area: float = 1.0


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, and why."""

    file: str
    reason: str


@runtime_checkable
class ImageSource(Protocol):
    """A set of images behind one entry of `datasets`, built as `Source(config, images)`.

    `location` names it in messages; `misfits` lists what was found unusable without decoding (an image of a format
    that is not read, or without its label or mask). DataError is raised by the constructor if the whole set cannot be
    used.
    """

    location: str
    attribute_names: tuple[str, ...]
    part_names: tuple[str, ...]
    misfits: tuple[BadFile, ...]

    def __len__(self) -> int:
        """Return the number of candidates; those that turn out bad are among them."""
        ...

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Return the samples of `indices` in that order, a BadFile for each that cannot be decoded."""
        ...


def open_source(config: AnyDataset, images: ImagesConfig, generated: Sequence[Path | str] = ()) -> ImageSource:
    """Return the source that `config.implementation` (`module:Class`) names; only that module is imported.

    `generated` are the stores of the images that a data set of prompts consists of.
    """
    module_name, _, class_name = config.implementation.partition(":")
    implementation = getattr(importlib.import_module(module_name), class_name)
    built = implementation(config, images, generated) if generated else implementation(config, images)
    return cast(ImageSource, built)


def attribute_row(names: Sequence[str], values: Iterable[object], where: str) -> np.ndarray:
    """Return attribute values as float32 `(attribute,)`, NaN for None, '' and NaN.

    Raises DataError, naming `where` and the attribute, for a value that is no number or lies outside [0, 1].
    """
    row = np.full(len(names), np.nan, dtype=np.float32)
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise DataError(
                f"{where}: {name} is {value!r}, not a number; give a number in [0, 1], or nothing for unknown; "
                "write classes one-hot, with a column of 0 and 1 for each"
            ) from None
        if number < 0 or number > 1:
            raise DataError(
                f"{where}: {name} is {number:g}, outside [0, 1]; rescale the column (for example -1/1 to 0/1), or "
                "write classes one-hot, with a column of 0 and 1 for each"
            )
        row[index] = number
    return row
