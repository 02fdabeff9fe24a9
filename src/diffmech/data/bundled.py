"""The real faces that need no download: 100 crops of 25 x 25 pixels that ship inside scikit-image.

Source: Labeled Faces in the Wild (Huang et al. 2007), as `skimage.data.lfw_subset`, whose first 100 images are faces.
"""

from collections.abc import Sequence

import numpy as np

from diffmech.config.images import ImagesConfig, LfwSubset
from diffmech.data.preparation import check_pixels, prepare_image
from diffmech.data.source import BadFile, Sample

FACES = 100  # the other 100 images of the subset show no face


class LfwSubsetSource:
    """Real grey faces without attributes or masks."""

    def __init__(self, config: LfwSubset, images: ImagesConfig) -> None:
        from skimage.data import lfw_subset

        self._faces = lfw_subset()[: min(FACES, config.count)]
        self._images = images
        self.location = "lfw_subset"
        self.attribute_names: tuple[str, ...] = ()
        self.part_names: tuple[str, ...] = ()
        self.misfits: tuple[BadFile, ...] = ()

    def __len__(self) -> int:
        return len(self._faces)

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Return the faces of `indices`, enlarged from 25 x 25 pixels."""
        size = self._images.size
        return [
            Sample(
                f"lfw_{index:03d}",
                prepare_image(check_pixels(self._faces[index]), self._images),
                np.empty(0, dtype=np.float32),
                np.empty((0, size, size), dtype=np.uint8),
            )
            for index in indices
        ]
