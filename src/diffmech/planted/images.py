"""Images whose causes are known, so that it is known what helps to denoise them. Ours.

An image is a sum of parts, each of which says something about another place, for one kind of head to find (`roles`):

- fine noise, mirrored left to right in the variant `symmetric`: there a pixel tells of its mirror image. All else is
  smooth but for the checkerboard, so a pixel tells of its neighbours;
- one brightness for the whole image, and one that opposite quadrants share;
- a square with soft edges, a checkerboard under a Gaussian window (it has no Sobel edges), and a dark dip (a part with
  a mask), each at a random place of a quadrant of its own. Their contrast is a code;
- a ridge along one row and a spot at one pixel, always at the same place: their heights are codes, of both signs;
- ridges along two columns, which carry one and the same bit: each alone is enough.

A code is also the amplitude of a template over the whole image (a product of sines, so nothing at the border): who
reads the code knows the template.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from diffmech.config.images import ImagesConfig, PlantedImages
from diffmech.data.source import BadFile, Sample
from diffmech.errors import DataError, DiffmechError
from diffmech.randomness import generator

# The codes and the half waves (rows, columns) of their templates: odd along columns, so mirroring changes nothing.
TEMPLATES = {
    "edge": (2, 1),
    "texture": (3, 1),
    "semantic": (1, 3),
    "sink": (2, 3),
    "positional": (4, 1),
    "pair": (3, 3),
}
CODES = tuple(TEMPLATES)
PART = "dip"
SMALLEST = 16
# Everything is on the scale [-1, 1] of the image.
TEMPLATE, BASE, BRIGHTNESS, FINE, QUADRANT = 0.1, 0.05, 0.08, 0.12, 0.1
RIDGE, SPOT = 0.35, 0.45
SQUARE, CHECKER, DIP = 0.75, 0.4, 0.8
CODED_SHARE = 0.45  # of the contrast of square, checkerboard and dip that is code
# Widths in pixels of ridges, spot, edges, checkerboard and dip.
RIDGE_WIDTH, SPOT_WIDTH, SOFTNESS, CHECKER_WIDTH, DIP_WIDTH = 1.0, 1.3, 0.6, 1.8, 1.5


@dataclass(frozen=True)
class Places:
    """Where fixed things lie, in pixels: the row of the ridge, the columns of the pair, the spot (y, x)."""

    row: int
    columns: tuple[int, int]
    spot: tuple[int, int]


def places(size: int) -> Places:
    """Return where fixed things lie in images of `size` pixels; near the border, where templates
    vanish and hardly a square or dip reaches; the columns are mirror images of each other."""
    return Places(size // 2, (1, size - 2), (1, size // 2))


def templates(size: int) -> dict[str, np.ndarray]:
    """Return what one unit of each code adds to fixed places of the image: (y, x) by code."""
    where = places(size)
    along = (np.arange(size) + 0.5) / size
    found = {
        name: 2 * TEMPLATE * np.outer(np.sin(np.pi * rows * along), np.sin(np.pi * columns * along))
        for name, (rows, columns) in TEMPLATES.items()
    }
    y, x = np.mgrid[:size, :size]
    found["positional"] += RIDGE * _bell(y - where.row, RIDGE_WIDTH)
    found["sink"] += SPOT * _bell(np.hypot(y - where.spot[0], x - where.spot[1]), SPOT_WIDTH)
    found["pair"] += RIDGE * sum(_bell(x - column, RIDGE_WIDTH) for column in where.columns)
    return found


def draw_images(
    indices: Sequence[int], seed: int, size: int, *, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (sample, y, x) in [-1, 1], masks of the dip in [0, 1], and codes (sample, code) in [-1, 1].

    An image depends on the seed and its index only; the two variants differ in their fine noise only.
    """
    fixed, quadrants = templates(size), _quadrants(size)
    images, masks, codes = (list[np.ndarray]() for _ in range(3))
    y, x = np.mgrid[:size, :size]
    for index in indices:
        random = generator(seed, "planted", int(index))
        code = random.integers(0, 2, len(CODES)) * 2.0 - 1
        brightness, quadrant = random.uniform(-1, 1, 2) * np.sqrt(3) * (BRIGHTNESS, QUADRANT)
        image = BASE + brightness + quadrant * quadrants
        for name, amplitude in zip(CODES, code, strict=True):
            image = image + amplitude * fixed[name]
        # one quadrant each, so that nothing covers another
        corners = random.permutation([(0, 0), (0, 1), (1, 0), (1, 1)])[:3]
        centres = (corners * 2 + 1) * size / 4 + random.uniform(-1, 1, (3, 2)) * size / 16
        contrast = dict(zip(CODES, 1 + CODED_SHARE * code, strict=True))
        (cy, cx), (ty, tx), (dy, dx) = np.round(centres)
        side = size / 8
        square = ((abs(y - cy) < side) & (abs(x - cx) < side)).astype(float)
        image += contrast["edge"] * SQUARE * ndimage.gaussian_filter(square, SOFTNESS)
        window = _bell(np.hypot(y - ty, x - tx), CHECKER_WIDTH)
        image += contrast["texture"] * CHECKER * window * (1 - 2 * ((y + x) % 2))
        dip = _bell(np.hypot(y - dy, x - dx), DIP_WIDTH)
        image -= contrast["semantic"] * DIP * dip
        fine = random.standard_normal((size, size))
        if symmetric:
            fine = (fine + fine[:, ::-1]) / np.sqrt(2)
        images.append(np.clip(image + FINE * fine, -1, 1))
        masks.append((dip > 0.5).astype(float))
        codes.append(code)
    return np.stack(images), np.stack(masks), np.stack(codes)


def check_form(images: ImagesConfig, error: type[DiffmechError]) -> None:
    """Raise `error` where planted images cannot be drawn in the form of `images`."""
    if images.size < SMALLEST or images.channels != 1:
        raise error(
            f"planted images have 1 channel and at least {SMALLEST} x {SMALLEST} pixels, but `images` gives "
            f"{images.channels} and {images.size} x {images.size}; set images.channels 1 and images.size {SMALLEST} "
            "or more"
        )


class PlantedSource:
    """Planted images as an image source: the codes are its attributes, scaled to [0, 1]; the dip is its part."""

    def __init__(self, config: PlantedImages, images: ImagesConfig) -> None:
        check_form(images, DataError)
        self._config, self._size = config, images.size
        self.location = "planted images"
        self.attribute_names = CODES
        self.part_names = (PART,)
        self.misfits: tuple[BadFile, ...] = ()

    def __len__(self) -> int:
        return self._config.count

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Draw the images of `indices`."""
        config = self._config
        images, masks, codes = draw_images(indices, config.seed, self._size, symmetric=config.symmetric)
        return [
            Sample(
                f"planted_{index:06d}",
                np.rint((images[row, None] + 1) * 127.5).astype(np.uint8),
                ((codes[row] + 1) / 2).astype(np.float32),
                np.rint(masks[row, None] * 255).astype(np.uint8),
            )
            for row, index in enumerate(indices)
        ]


def _quadrants(size: int) -> np.ndarray:
    """Return a pattern of opposite signs in neighbouring quadrants, of mean square about 1, (y, x)."""
    half_wave = np.cos(np.pi * (np.arange(size) + 0.5) / size)
    return 2 * np.outer(half_wave, half_wave)


def _bell(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-(distance**2) / (2 * width**2))
