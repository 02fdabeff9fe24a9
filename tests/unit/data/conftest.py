"""Fixtures of the data tests: how sections are built and data sets prepared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import AnyDataset, ImagesConfig
from diffmech.data.store import ImageSet, open_dataset, prepare_dataset
from diffmech.randomness import generator

Prepare = Callable[..., ImageSet]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Prepare a data set and open its store; keywords are fields of the images section."""

    def run(config: AnyDataset, *, threads: int = 2, **images: Any) -> ImageSet:
        output = tmp_path / "stores" / "set.zarr.zip"
        runtime = RuntimeConfig(threads=threads, progress=False)
        prepare_dataset(config, ImagesConfig(**{"size": 16, **images}), output, name="set", runtime=runtime)
        return open_dataset(output)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[int], Path]:
    """Write `n` grey noise images of mixed formats to a folder, 00.png, 01.jpg, 02.bmp, 03.webp, 04.tif, 05.png ..."""

    def write(count: int) -> Path:
        folder = tmp_path / "photos"
        folder.mkdir()
        for index in range(count):
            suffix = ("png", "jpg", "bmp", "webp", "tif")[index % 5]
            pixels = generator(0, "photo", index).integers(40, 216, (24, 20 + index % 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:02d}.{suffix}")
        return folder

    return write
