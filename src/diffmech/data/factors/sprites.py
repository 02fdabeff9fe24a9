"""Sprites on the grid of dSprites, drawn instead of stored: shape, scale, orientation, x and y.

The factors, their values and their order are those of dSprites (Matthey et al. 2017): 3 shapes, 6 scales from 0.5 to
1, 40 orientations from 0 to 2 pi (both among them, so that the first and the last show the same), 32 positions along
each axis, 737,280 images in all. Its colour, which takes one value, is left out. Like there, a pixel is white or
black, and a step along x or y is one pixel of 64.

Ours: the outlines. All shapes of one scale have the same area, so that brightness tells the scale and nothing of the
shape. It is chosen so that the mean of all pixels is that of the published file, 0.0425. The square is axis-aligned at
orientation 0, the ellipse is twice as wide as high, the heart is (x^2 + y^2 - 1)^3 = x^2 y^3, turned about its centre
of mass. Orientation turns from the axis x towards y, which points down. Of all images
about 669,000 differ at 64 pixels and 637,000 at 32, where a step is half a pixel: the last orientation repeats the
first, and a small square may look the same after ten steps (92 degrees).
"""

import math

import numpy as np

from diffmech.data.factors.factor import Factor, spaced
from diffmech.data.factors.grid import GridData
from diffmech.data.factors.pixels import check_size

SHAPES = ("square", "ellipse", "heart")
FULL = 64  # pixels of the published images, the unit of what follows
AREA = 294.2  # of every shape at scale 1: 0.042494 * 64^2 over the mean of the squared scales, 0.59167
TRAVEL = 31.0  # from the first to the last position, centred in the image
HEART_AREA = 3.6619727  # of the curve above, by numerical integration, as the height of its centre of mass
HEART_CENTRE = 0.2934812
ROWS = 256  # images drawn at once: their arrays stay in the cache


class DSpritesLike(GridData):
    """The sprites at `size` pixels, black and white. Values between those of the grid are drawn as well.

    Raises ConfigError for a size below 8 or above 1024.
    """

    def __init__(self, size: int = FULL) -> None:
        check_size(size)
        self.name = "dsprites_like"
        self.image_shape = (1, size, size)
        self.factors = (
            Factor("shape", "discrete", "outline of the sprite", values=(0.0, 1.0, 2.0), labels=SHAPES),
            Factor("scale", "ordinal", "length relative to the largest", values=spaced(0.5, 1, 6)),
            Factor(
                "orientation",
                "circular",
                "turn in radians; a square looks the same after pi / 2, an ellipse after pi",
                values=spaced(0, 2 * math.pi, 40),
                period=2 * math.pi,
            ),
            Factor("x", "ordinal", "position to the right, 0 to 1", values=spaced(0, 1, 32)),
            Factor("y", "ordinal", "position downwards, 0 to 1", values=spaced(0, 1, 32)),
        )

    def images_of(self, values: np.ndarray, identity: np.ndarray | None = None) -> np.ndarray:
        """Return the sprites of values `(sample, factor)`; a pixel is white where its centre lies inside."""
        values, _ = self.checked(values, identity)
        size = self.image_shape[1]
        images = np.zeros((len(values), 1, size, size), dtype=np.float32)
        shapes = np.rint(values[:, 0]).astype(np.int64)
        for shape in range(len(SHAPES)):
            rows = np.flatnonzero(shapes == shape)
            for start in range(0, len(rows), ROWS):
                some = rows[start : start + ROWS]
                images[some, 0] = _inside(SHAPES[shape], *_own_axes(values[some], size))
        return images


def _own_axes(values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each pixel is on the axes of the sprite, each `(sample, y, x)`, in pixels of 64 at scale 1."""
    _, scale, turn, x, y = values.T
    axis = (np.arange(size) + 0.5) * (FULL / size)
    right = axis[None, :] - (FULL / 2 + TRAVEL * (x - 0.5))[:, None]
    down = axis[None, :] - (FULL / 2 + TRAVEL * (y - 0.5))[:, None]
    cos, sin = (np.cos(turn) / scale)[:, None], (np.sin(turn) / scale)[:, None]

    def sum_of(along_y: np.ndarray, along_x: np.ndarray) -> np.ndarray:
        return along_y.astype(np.float32)[:, :, None] + along_x.astype(np.float32)[:, None, :]

    return sum_of(sin * down, cos * right), sum_of(cos * down, -sin * right)


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return which points lie inside a shape of scale 1, bool like `u` and `v`."""
    if shape == "square":
        half = np.float32(math.sqrt(AREA) / 2)
        return (np.abs(u) < half) & (np.abs(v) < half)
    if shape == "ellipse":
        minor = math.sqrt(AREA / (2 * math.pi))
        u, v = u * np.float32(1 / (2 * minor)), v * np.float32(1 / minor)
        return u * u + v * v < 1
    unit = math.sqrt(AREA / HEART_AREA)
    u, v = u * np.float32(1 / unit), np.float32(HEART_CENTRE) - v * np.float32(1 / unit)  # its lobes are on top
    uu, vv = u * u, v * v
    left = uu + vv - 1
    return left * left * left < uu * vv * v
