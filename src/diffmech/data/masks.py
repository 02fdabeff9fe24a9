"""Masks of parts as people save them: grey, black and white, or label images of 0 and 1. Ours.

White is the part, and what lies between is its share of a pixel. A colour says which part a pixel is of, not how much
of it the part covers: read as a brightness, it would be a share that nobody meant. So masks in colours are refused,
unless they are palettes of two entries, 0 and 1 = the part, as are numbers that are too small to be shares.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffmech.data.preparation import BLACK, check_pixels, decode_image, has_alpha, pixels_of, read_image
from diffmech.errors import DataError

# By how much, of 255, the channels of a grey mask may differ: JPEG rounds colours.
MOST_COLOUR = 32
# A mask of shares whose largest one is below this, of 255, is taken for a label image of several parts.
LEAST_SHARE = 64
ADVICE = "save the mask of each part in a folder of its own, white (255) where the part is and black elsewhere"


def read_mask(path: Path) -> np.ndarray:
    """Return the pixels of a mask as `(y, x, 1 or 3)`, uint8 or float32 in [0, 1].

    A label image is uint8 of 0 and 1 = the part. Raises DataError with the reason only, as `read_image`, and for
    colours and numbers that say no share.
    """
    if path.suffix.lower() == ".npy":
        return checked(read_image(path, background=BLACK))
    return decode_image(path, _values)


def _values(image: Image.Image) -> np.ndarray:
    if image.mode == "P" and "transparency" not in image.info and (indices := _palette_indices(image)) is not None:
        return indices
    if image.mode.startswith("I"):
        numbers = np.asarray(image)
        largest = numbers.max()
        if 1 < largest <= 255:
            raise DataError(f"holds numbers up to {largest:g} in 16 bits, where 65535 is white; save it with 8 bits")
        if largest == 1:
            return numbers.astype(np.uint8)[:, :, None]
    if has_alpha(image):
        planes = np.asarray(image.convert("RGBA"))
        if not planes[:, :, :3].any() and np.ptp(planes[:, :, 3]):
            raise DataError(f"is black everywhere and says by its transparency where the part is; {ADVICE}")
    return checked(pixels_of(image, BLACK))


def _palette_indices(image: Image.Image) -> np.ndarray | None:
    """Return the indices of a palette in colours as a label image, None of one in grey, which shows what it means."""
    colours, indices = np.asarray(image.convert("RGB")), np.asarray(image)
    if not _is_coloured(colours):
        return None
    if indices.max() > 1:
        raise DataError(f"is a palette of {len(np.unique(indices))} colours; {ADVICE}")
    return indices[:, :, None]


def checked(pixels: Any) -> np.ndarray:
    """Return the pixels of a mask `(y, x, 1 or 3)` as they are. Raises DataError where they are no shares of a part."""
    pixels = check_pixels(pixels)
    full = 255 if pixels.dtype == np.uint8 else 1
    if _is_coloured(pixels):
        raise DataError(f"is in colours, which say no share; {ADVICE}")
    largest = float(pixels.max()) * 255 / full
    if (full == 255 and pixels.max() == 1) or not 0 < largest < LEAST_SHARE:
        return pixels
    raise DataError(f"holds nothing above {largest:.3g} of 255, as a label image of several parts does; {ADVICE}")


def _is_coloured(pixels: np.ndarray) -> bool:
    full = 255 if pixels.dtype == np.uint8 else 1
    return bool(np.ptp(pixels.astype(np.float32), axis=2).max() * 255 / full > MOST_COLOUR)
