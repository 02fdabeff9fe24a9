"""Images whose attributes are known, prepared like those of a denoiser's training: a judge learns by them. Ours."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import Digits, ImagesConfig, SyntheticFaces
from diffmech.data.digits import CLASSES
from diffmech.data.store import open_dataset, prepare_dataset
from diffmech.randomness import generator


def labelled_images(
    source: SyntheticFaces | Digits,
    images: ImagesConfig,
    attributes: Sequence[str],
    *,
    count: int,
    seed: int,
    purpose: str,
    runtime: RuntimeConfig,
) -> tuple[np.ndarray, Tensor, Tensor]:
    """Return ids `(image,)`, images `(image, channel, y, x)` and whether each attribute is there, `(image, attribute)`.

    Faces are `count` new ones: in no data set of the study, nor among those drawn for another `purpose`, as their seed
    is drawn far from those that people write. Of digits it is all that there are.
    """
    chosen: SyntheticFaces | Digits
    if isinstance(source, SyntheticFaces):
        drawn_seed = int(generator(seed, purpose).integers(2**31, 2**32))
        chosen = source.model_copy(update={"first": 0, "count": count, "seed": drawn_seed})
    else:
        chosen = source.model_copy(update={"count": None, "classes": list(range(len(CLASSES)))})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "images.zarr.zip"
        prepare_dataset(chosen, images, store, name=purpose, runtime=runtime)
        drawn = open_dataset(store)
        columns = [drawn.attributes.index(name) for name in attributes]
        pixels = torch.from_numpy(drawn.images(drawn.ids))
        labels = torch.from_numpy(drawn.attribute_values(drawn.ids)[:, columns] > 0.5)
    return drawn.ids, pixels, labels
