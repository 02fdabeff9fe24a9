"""The handwritten digits that need no download: 1,797 images of 8 x 8 pixels that ship inside scikit-learn.

Source: the test set of Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998, UCI), digits of 13 people, as
`sklearn.datasets.load_digits`. Their classes are attributes, one-hot.
"""

from collections.abc import Sequence

import numpy as np

from diffmech.config.images import Digits, ImagesConfig
from diffmech.data.preparation import check_pixels, prepare_image
from diffmech.data.source import BadFile, Sample

CLASSES = tuple(map(str, range(10)))
BRIGHTEST = 16  # each pixel is a count of 0 to 16


class DigitsSource:
    """White digits on black, with a class each and without masks."""

    def __init__(self, config: Digits, images: ImagesConfig) -> None:
        from sklearn.datasets import load_digits

        found = load_digits()
        self._numbers = np.flatnonzero(np.isin(found.target, config.classes))[: config.count]
        self._digits, self._classes = found.images, found.target
        self._images = images
        self.location = "digits"
        self.attribute_names = CLASSES
        self.part_names: tuple[str, ...] = ()
        self.misfits: tuple[BadFile, ...] = ()

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Return the digits of `indices`, enlarged from 8 x 8 pixels as any image is (Lanczos)."""
        size = self._images.size
        return [
            Sample(
                f"digit_{number:04d}",
                prepare_image(check_pixels(self._digits[number] / BRIGHTEST), self._images),
                np.eye(len(CLASSES), dtype=np.float32)[self._classes[number]],
                np.empty((0, size, size), dtype=np.uint8),
            )
            for number in self._numbers[list(indices)]
        ]
