"""Images of further numbers of a data set whose images are made from their number, prepared as its own are. Ours.

So a study of fresh images can be compared with images of the training, which lie in no store of it.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from pydantic import TypeAdapter

from diffmech.config.images import AnyDataset, ImagesConfig
from diffmech.data.source import Sample, open_source
from diffmech.data.store import ImageSet, matched


class MadeAgain:
    """The images of `numbers`, with the size, gain and offset of the data set `like`.

    Ids are -1 - number, so that none is that of an image of `like`, whose noise belongs to its id.
    """

    def __init__(self, like: ImageSet, numbers: np.ndarray) -> None:
        made = like.attrs["provenance"]
        from_zero = {key: value for key, value in made["dataset"].items() if key != "first"}
        config = TypeAdapter[AnyDataset](AnyDataset).validate_python({**from_zero, "count": int(max(numbers)) + 1})
        self._source = open_source(config, ImagesConfig.restore(made["images"]))
        self._gain, self._offset = like.gain, like.offset
        self.ids = -1 - np.asarray(numbers)
        self.attributes = self._source.attribute_names

    def images(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 images `(sample, channel, y, x)` in [-1, 1], as `ImageSet.images` does."""
        return matched(np.stack([sample.image for sample in self._read(ids)]), self._gain, self._offset)

    def attribute_values(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 `(sample, attribute)` in [0, 1], NaN where unknown."""
        return np.stack([sample.attributes for sample in self._read(ids)])

    def _read(self, ids: Sequence[int] | np.ndarray) -> list[Sample]:
        # what is drawn is never a bad file
        return cast(list[Sample], self._source.read([int(-1 - i) for i in ids]))
