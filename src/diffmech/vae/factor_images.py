"""A data set of factors as what a VAE is trained on. Ours."""

from dataclasses import dataclass

import numpy as np

from diffmech.data.factors.dataset import FactorData
from diffmech.data.factors.grid import GridData

WITHOUT_END = 1_000_000  # images that are said to differ where a factor takes any value


@dataclass(frozen=True)
class FactorImages:
    """An `ImageSampler` that draws images of a data set of factors, each draw anew."""

    data: FactorData

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.data.image_shape

    def __len__(self) -> int:
        if isinstance(self.data, GridData):
            return len(self.data) * self.data.identities
        sizes = [factor.size for factor in self.data.factors]
        everywhere = all(size is not None for size in sizes)
        return self.data.identities if everywhere and self.data.identities > 1 else WITHOUT_END

    def sample(self, count: int, source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return `count` images `(sample, channel, y, x)` and the values of their factors `(sample, factor)`."""
        drawn = self.data.sample(count, source)
        return drawn.images, drawn.values
