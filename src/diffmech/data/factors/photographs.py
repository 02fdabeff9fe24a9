"""Labelled photographs as a data set of factors: CelebA and its attributes. Ours.

A photograph cannot be taken again with another attribute. It can be drawn by its attributes, so that what compares
groups of images works as elsewhere, and what changes one factor of an image is refused.
"""

import numpy as np

from diffmech.config.images import CelebA, ImagesConfig
from diffmech.data.celeba import CelebASource
from diffmech.data.factors.dataset import FactorData
from diffmech.data.factors.factor import Factor
from diffmech.data.source import BadFile
from diffmech.errors import DataError


class CelebAPhotographs(FactorData):
    """The photographs of CelebA, each with its attributes, 0 or 1; the identity is the number of the photograph.

    Attributes are not independent of each other here, nor balanced. Raises what `CelebASource` raises.
    """

    changeable = False

    def __init__(self, config: CelebA, images: ImagesConfig) -> None:
        self._source = CelebASource(config, images)
        self.name = "celeba"
        self.image_shape = (images.channels, images.size, images.size)
        self.identities = len(self._source)
        self.factors = tuple(
            Factor(name, "discrete", f"attribute {name} of CelebA", (0.0, 1.0), labels=("no", "yes"))
            for name in self._source.attribute_names
        )
        self._values = self._source.attribute_values(range(len(self._source))).astype(float)

    def draw(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return values `(sample, factor)` and numbers `(sample,)` of photographs, each equally likely."""
        identity = generator.integers(self.identities, size=count)
        return self._values[identity], identity

    def draw_fixed(
        self, count: int, factor: str, generator: np.random.Generator, value: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and numbers of photographs with one value of `factor`, that of a drawn one where not given.

        Raises DataError where no photograph has it.
        """
        column = self._values[:, self.place(factor)]
        wanted = column[generator.integers(self.identities)] if value is None else value
        there = np.flatnonzero(column == wanted)
        if not len(there):
            raise DataError(f"{self.name}: none of its {self.identities} photographs has {factor} {wanted:g}")
        identity = there[generator.integers(len(there), size=count)]
        return self._values[identity], identity

    def images_of(self, values: np.ndarray, identity: np.ndarray | None = None) -> np.ndarray:
        """Return photographs by their number. Raises DataError for values that are not theirs, and for a bad file."""
        values, numbers = self.checked(values, identity)
        different = np.argwhere(self._values[numbers] != values)
        if len(different):
            row, column = different[0]
            raise DataError(
                f"{self.name}: photograph {numbers[row]} has {self.factors[column].name} "
                f"{self._values[numbers[row], column]:g}, and cannot be taken again with {values[row, column]:g}; "
                "change factors of a data set that is drawn or enumerated"
            )
        images = np.empty((len(numbers), *self.image_shape), dtype=np.float32)
        for row, sample in enumerate(self._source.read(numbers.tolist())):
            if isinstance(sample, BadFile):
                raise DataError(f"{self._source.location}: the photograph {sample.file} {sample.reason}")
            images[row] = sample.image / np.float32(255)
        return images
