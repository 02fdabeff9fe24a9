"""Tiny VAEs, and images of bright bars on a grid of 8 x 8 pixels whose two factors are known."""

from collections.abc import Callable

import numpy as np
import pytest

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.vae import VaeConfig
from diffmech.vae.sampler import ArrayImages


def bars() -> ArrayImages:
    """All images of one bright row and one bright column: factors are their places, 0 to 7."""
    places = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2)
    images = np.zeros((64, 1, 8, 8), dtype=np.float32)
    for image, (row, column) in zip(images, places, strict=True):
        image[0, row] = image[0, :, column] = 1
    return ArrayImages(images, places.astype(np.float64))


def tiny(kind: str = "vae", *, steps: int = 5, likelihood: str = "bernoulli", **family: float | str) -> VaeConfig:
    """Return the settings of a VAE of three latents on such images."""
    return VaeConfig.model_validate(
        {
            "family": {"kind": kind, **family},
            "network": {"channels": [4, 4], "hidden": 8, "latents": 3, "likelihood": likelihood},
            "training": {"steps": steps, "batch_size": 8, "seed": 1},
        }
    )


@pytest.fixture
def images() -> ArrayImages:
    return bars()


@pytest.fixture
def settings() -> Callable[..., VaeConfig]:
    return tiny


@pytest.fixture
def runtime() -> RuntimeConfig:
    return RuntimeConfig(device="cpu", progress=False, checkpoint_seconds=1e-9)
