"""Antialiased shapes, bumps and noise textures over batches of images, the pencils of the drawn faces.

Every function takes and returns float32 arrays that broadcast to `(sample, y, x)`. Shapes are signed distances
(negative inside), turned into coverage by a ramp one pixel wide. The ellipse distance is the first-order one, value
over length of the gradient (Taubin 1991, "Estimation of planar curves, surfaces and nonplanar space curves").
"""

import functools

import numpy as np
from scipy import ndimage

from diffmech.randomness import generator

TEXTURE_SIZE = 256


def cover(distance: np.ndarray, pixel: np.ndarray | float) -> np.ndarray:
    """Return the share of each pixel that lies inside a shape, from its signed distance and the width of a pixel."""
    return np.clip(0.5 - distance / pixel, 0.0, 1.0)


def smoothstep(low: np.ndarray | float, high: np.ndarray | float, value: np.ndarray) -> np.ndarray:
    """Return 0 below `low`, 1 above `high` and a cubic without kinks between."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mix(low: np.ndarray | float, high: np.ndarray | float, weight: np.ndarray) -> np.ndarray:
    """Return the point at `weight` in [0, 1] between `low` and `high`."""
    return low + (high - low) * weight


def ellipse(x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float) -> np.ndarray:
    """Return the first-order signed distance to the ellipse with half-axes `rx`, `ry` around the origin."""
    x, y = x / rx, y / ry
    radius = np.sqrt(x * x + y * y)
    x, y = x / rx, y / ry
    return radius * (radius - 1.0) / np.sqrt(x * x + y * y + 1e-6)


def rounded_box(
    x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float, corner: np.ndarray | float
) -> np.ndarray:
    """Return the signed distance to a box with half-sides `rx`, `ry` and rounded corners, around the origin."""
    x, y = np.abs(x) - rx + corner, np.abs(y) - ry + corner
    outside = np.sqrt(np.maximum(x, 0.0) ** 2 + np.maximum(y, 0.0) ** 2)
    return outside + np.minimum(np.maximum(x, y), 0.0) - corner


def bump(x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float) -> np.ndarray:
    """Return a Gaussian hill of height 1 around the origin."""
    x, y = x / rx, y / ry
    return np.exp(-(x * x + y * y))


@functools.cache
def _texture(name: str, sigma_y: float, sigma_x: float) -> np.ndarray:
    """Return a periodic noise field `(TEXTURE_SIZE, TEXTURE_SIZE)` of mean 0 and standard deviation 1."""
    field = generator(0, "face texture", name).standard_normal((TEXTURE_SIZE, TEXTURE_SIZE))
    field = ndimage.gaussian_filter(field, (sigma_y, sigma_x), mode="wrap")
    return ((field - field.mean()) / field.std()).astype(np.float32)


def strands(across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Return hair-like noise that changes fast `across` and slowly `along`, both in units of one strand."""
    return _look_up(_texture("strands", 5.0, 0.9), along, across)


def grain(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return isotropic noise with grains about two units wide."""
    return _look_up(_texture("grain", 0.9, 0.9), y, x)


def clouds(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return slow noise with blobs about thirty units wide."""
    return _look_up(_texture("clouds", 14.0, 14.0), y, x)


def _look_up(texture: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    # a texture repeats, so a large multiple of its size makes truncation towards zero act as a floor
    offset = 64 * TEXTURE_SIZE
    rows = (row + offset).astype(np.int32) % TEXTURE_SIZE
    columns = (column + offset).astype(np.int32) % TEXTURE_SIZE
    return texture[rows, columns]
