"""What a VAE is trained on: anything that says how its images look and draws them. Ours."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diffmech.errors import DataError


class ImageSampler(Protocol):
    """A data set of images, with or without the factors behind them."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""

    def __len__(self) -> int:
        """Return how many images there are; what is drawn without end says how many differ."""

    def sample(self, count: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 images `(sample, channel, y, x)` in [0, 1] and the values of their factors
        `(sample, factor)`, drawn by `source` alone."""


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory, `(image, channel, y, x)` in [0, 1], with their factors `(image, factor)`; drawn with
    replacement. Raises DataError where they are of other shapes, none, or not in [0, 1]."""

    images: np.ndarray
    factors: np.ndarray

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.factors.ndim != 2 or len(self.images) != len(self.factors):
            raise DataError(
                f"images of shape {self.images.shape} and factors of shape {self.factors.shape} do not belong "
                "together; give (image, channel, y, x) and (image, factor) of equally many images"
            )
        if not self.images.size:
            raise DataError(
                f"images of shape {self.images.shape} have no pixels, so none can be drawn; give an image or more"
            )
        low, high = float(self.images.min()), float(self.images.max())
        if not 0 <= low <= high <= 1:
            raise DataError(f"pixels range from {low:g} to {high:g}; a VAE expects them in [0, 1], so scale them")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, count: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return `count` images and their factors, drawn with replacement."""
        rows = source.integers(len(self), size=count)
        return self.images[rows].astype(np.float32), self.factors[rows]
