"""Pictures of a page: mosaics of images, and values drawn as heat over the images that they belong to.

Pictures are small PNGs at the images' own resolution, which the page enlarges without smoothing. Heat uses the inferno
scale, transparent where attention is low. Ours.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

LARGEST = 128  # pixels per side of one image; larger ones are reduced
GAP = 1  # pixels between the images of a mosaic

# Anchors of matplotlib's inferno, evenly spaced.
INFERNO = np.array(
    [
        [0, 0, 4],
        [40, 11, 84],
        [101, 21, 110],
        [159, 42, 99],
        [212, 72, 66],
        [245, 125, 21],
        [250, 193, 39],
        [252, 255, 164],
    ]
)


MARKED = (86, 220, 255)  # red, green, blue: not in the scale


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, its size in pixels, what it shows, and the words beneath it."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str
    tiles: int = 1


def picture(pixels: np.ndarray, alt: str, caption: str = "", *, tiles: int = 1) -> Picture:
    """Return uint8 `(y, x, 3 or 4)` pixels, `tiles` images wide, as a PNG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, pixels.shape[1], pixels.shape[0], alt, caption, tiles)


def colour_pixels(images: np.ndarray) -> np.ndarray:
    """Return images `(sample, channel, y, x)` in [-1, 1] as uint8 `(sample, y, x, 3)`, at most LARGEST wide."""
    step = max(1, -(-images.shape[-1] // LARGEST))
    small = images[..., ::step, ::step]
    pixels = np.clip(np.rint((np.nan_to_num(small) + 1) * 127.5), 0, 255).astype(np.uint8)
    pixels = np.moveaxis(pixels, 1, -1)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]


def mosaic(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Return uint8 tiles `(y, x, 3)` in rows of `columns`, with transparent gaps, as `(y, x, 4)`."""
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width, :3] = tile
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet


def heat(image: np.ndarray, values: np.ndarray, top: float) -> np.ndarray:
    """Draw `values` `(row, column)`, 0 to `top`, over an image `(y, x, 3)`: the higher, the more opaque and bright."""
    height, width = image.shape[:2]
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    share = np.clip(np.nan_to_num(values[np.ix_(rows, columns)]) / max(top, 1e-9), 0, 1)
    opacity = (0.1 + 0.7 * share)[..., None]
    grey = image.mean(axis=-1, keepdims=True)
    return np.rint(grey * (1 - opacity) + inferno(share) * opacity).astype(np.uint8)


def inferno(share: np.ndarray) -> np.ndarray:
    """Return the colours `(..., 3)`, 0 to 255, of shares `(...)` between 0 and 1."""
    position = share * (len(INFERNO) - 1)
    low = np.minimum(position.astype(int), len(INFERNO) - 2)
    return INFERNO[low] + (position - low)[..., None] * (INFERNO[low + 1] - INFERNO[low])


def mark(tile: np.ndarray, grid: tuple[int, ...], query: int) -> np.ndarray:
    """Frame the query position `query` of `grid` on a tile `(y, x, 3)`."""
    height, width = tile.shape[:2]
    row, column = divmod(query, grid[1])
    top, bottom = row * height // grid[0], max((row + 1) * height // grid[0] - 1, row * height // grid[0])
    left, right = column * width // grid[1], max((column + 1) * width // grid[1] - 1, column * width // grid[1])
    framed = tile.copy()
    top, left = max(0, top - 1), max(0, left - 1)
    bottom, right = min(height - 1, bottom + 1), min(width - 1, right + 1)
    framed[[top, bottom], left : right + 1] = MARKED
    framed[top : bottom + 1, [left, right]] = MARKED
    return framed
