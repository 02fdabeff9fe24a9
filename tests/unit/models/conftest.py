"""A tiny study: 8 x 8 images of two domains, one labelled and one not, and a denoiser of four heads per layer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImageFolder, ImagesConfig, SyntheticFaces
from diffmech.config.models import Architecture, DenoiserConfig, Training
from diffmech.data.store import prepare_dataset
from diffmech.models.train import train_denoiser

TINY = Architecture(channels=[8, 16], attention=[False, True], heads=4, norm_groups=4, token_width=8, timesteps=50)


@pytest.fixture(scope="session")
def images_config() -> ImagesConfig:
    return ImagesConfig(size=8)


@pytest.fixture(scope="session")
def quiet() -> RuntimeConfig:
    return RuntimeConfig(device="cpu", batch_size=16, progress=False, threads=1)


@pytest.fixture(scope="session")
def stores(
    tmp_path_factory: pytest.TempPathFactory, images_config: ImagesConfig, quiet: RuntimeConfig
) -> dict[str, Path]:
    """Eleven unlabelled gradients (`real`) and thirty drawn faces (`synthetic`)."""
    folder = tmp_path_factory.mktemp("stores")
    pictures = folder / "pictures"
    pictures.mkdir()
    for index in range(11):
        row = np.linspace(0, 20 * index + 40, 8)
        Image.fromarray(np.tile(row, (8, 1)).astype(np.uint8)).save(pictures / f"{index:02d}.png")
    real, synthetic = folder / "real.zarr.zip", folder / "synthetic.zarr.zip"
    prepare_dataset(
        ImageFolder(kind="image_folder", path=str(pictures)), images_config, real, name="gradients", runtime=quiet
    )
    prepare_dataset(
        SyntheticFaces(kind="synthetic_faces", count=30), images_config, synthetic, name="drawn", runtime=quiet
    )
    return {"real": real, "synthetic": synthetic}


@pytest.fixture(scope="session")
def tiny_config() -> DenoiserConfig:
    training = Training(steps=12, batch_size=4, precision="float32", ema_decay=0.9)
    return DenoiserConfig(source="train", architecture=TINY, training=training)


@pytest.fixture(scope="session")
def train(stores: dict[str, Path], images_config: ImagesConfig, quiet: RuntimeConfig) -> Callable[..., Path]:
    """Return a function that trains `config` in `folder` and gives back the pointer to the denoiser."""

    def run(config: DenoiserConfig, folder: Path, **runtime: object) -> Path:
        train_denoiser(
            config,
            stores,
            folder / "model",
            folder / "checkpoints",
            images=images_config,
            runtime=quiet.model_copy(update=runtime),
        )
        return folder / "model" / "model.json"

    return run


@pytest.fixture(scope="session")
def trained(train: Callable[..., Path], tiny_config: DenoiserConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pointer to a denoiser that was trained for twelve steps without interruption."""
    return train(tiny_config, tmp_path_factory.mktemp("trained"))
