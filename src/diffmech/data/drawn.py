"""Drawn faces as an image source: known attributes, exact part masks. Ours."""

from collections.abc import Sequence

import numpy as np

from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.data.preparation import prepare_image
from diffmech.data.source import BadFile, Sample
from diffmech.data.synthetic_faces import ATTRIBUTES, PARTS, draw_faces, sample_attributes


class SyntheticFacesSource:
    """Faces drawn at the size at which they are studied, so that no resampling blurs their edges."""

    def __init__(self, config: SyntheticFaces, images: ImagesConfig) -> None:
        self._config = config
        self._images = images
        self.location = "synthetic_faces"
        self.attribute_names = tuple(attribute.name for attribute in ATTRIBUTES)
        self.part_names = tuple(PARTS)
        self.misfits: tuple[BadFile, ...] = ()
        # a misspelt attribute in `fixed` is told before anything is drawn
        sample_attributes(range(1), config.seed, config.fixed)

    def __len__(self) -> int:
        return self._config.count

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Draw the faces of `indices`; a face depends on the seed and its number, `first` + index, only."""
        config = self._config
        numbers = [config.first + index for index in indices]
        table = sample_attributes(numbers, config.seed, config.fixed)[list(self.attribute_names)]
        faces = draw_faces(table, config.seed, self._images.size, config.zoom)
        masks = np.rint(faces.masks * 255).astype(np.uint8)
        values = table.to_numpy(dtype=np.float32)
        return [
            Sample(f"face_{number:06d}", prepare_image(faces.images[row], self._images), values[row], masks[row])
            for row, number in enumerate(numbers)
        ]
