"""Images of data sets of factors as arrays of one form. Ours."""

import numpy as np

from diffmech.config.images import ImagesConfig
from diffmech.data.preparation import prepare_image
from diffmech.errors import ConfigError

SMALLEST, LARGEST = 8, 1024  # as `images.size` of the configuration


def check_size(size: int, channels: int = 1) -> None:
    """Raise ConfigError for images of a size or with channels that no data set has."""
    if not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"size: images of {size} pixels are not made; give {SMALLEST} to {LARGEST}, for example 64")
    if channels not in (1, 3):
        raise ConfigError(f"channels: images with {channels} channels are not made; give 1 (grey) or 3 (RGB)")


def as_float(pixels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Return uint8 `(sample, y, x, channel)` as float32 `(sample, channels, size, size)` in [0, 1].

    Where the form differs, images pass through what prepares those of all studies: Lanczos, and luma for grey.
    """
    if pixels.shape[1:] == (size, size, channels):
        same = np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
    else:
        check_size(size, channels)
        form = ImagesConfig(size=size, channels=channels, resolution=None, match=None)
        same = np.empty((len(pixels), channels, size, size), dtype=np.uint8)
        for row, image in enumerate(pixels):
            same[row] = prepare_image(image, form)
    return same.astype(np.float32) / np.float32(255)
