"""Images that a pipeline generated from prompts, as an image source. Ours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from diffmech.artifacts import open_store
from diffmech.config.images import ImagesConfig, Prompts
from diffmech.data.source import BadFile, Sample
from diffmech.errors import ConfigError


class GeneratedSource:
    """The generated images in the order of their sample ids, unchanged; a sample is called by its prompt."""

    def __init__(self, config: Prompts, images: ImagesConfig, generated: Sequence[Path | str] = ()) -> None:
        if not generated:
            raise ConfigError(
                "datasets: prompts become images only by a model of source pipeline; name one in study.model"
            )
        stores = [open_store(path).to_dataset()[["image", "prompt"]] for path in generated]
        self._images = xr.concat(stores, "sample").sortby("sample")
        self.location = config.file or "prompts"
        self.attribute_names: tuple[str, ...] = ()
        self.part_names: tuple[str, ...] = ()
        self.misfits: tuple[BadFile, ...] = ()

    def __len__(self) -> int:
        return self._images.sizes["sample"]

    def read(self, indices: Sequence[int]) -> list[Sample | BadFile]:
        """Return the images of `indices`."""
        some = self._images.isel(sample=list(indices)).load()
        nothing = np.zeros(0, np.float32)
        masks = np.zeros((0, *some["image"].shape[-2:]), np.uint8)
        return [
            Sample(str(prompt), image, nothing, masks)
            for image, prompt in zip(some["image"].values, some["prompt"].values, strict=True)
        ]
