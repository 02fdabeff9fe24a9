"""Freshly drawn faces, prepared like those that a denoiser was trained on: a judge learns by them. Ours."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.data.store import open_dataset, prepare_dataset
from diffmech.randomness import generator


def fresh_faces(
    faces: SyntheticFaces,
    images: ImagesConfig,
    attributes: Sequence[str],
    *,
    count: int,
    seed: int,
    purpose: str,
    runtime: RuntimeConfig,
) -> tuple[np.ndarray, Tensor, Tensor]:
    """Return ids `(image,)`, images `(image, channel, y, x)` and whether each attribute is there, `(image, attribute)`.

    They are in no data set of the study, nor among those drawn for another `purpose`: their seed is drawn far from
    those that people write.
    """
    drawn_seed = int(generator(seed, purpose).integers(2**31, 2**32))
    fresh = faces.model_copy(update={"first": 0, "count": count, "seed": drawn_seed})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "faces.zarr.zip"
        prepare_dataset(fresh, images, store, name=purpose, runtime=runtime)
        drawn = open_dataset(store)
        columns = [drawn.attributes.index(name) for name in attributes]
        pixels = torch.from_numpy(drawn.images(drawn.ids))
        labels = torch.from_numpy(drawn.attribute_values(drawn.ids)[:, columns] > 0.5)
    return drawn.ids, pixels, labels
