"""A tiny study on disk: a U-Net with three levels and one transformer layer per block, and two small data sets."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.attention.capture import capture_attention
from diffmech.attention.latents import make_latents
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.models import Architecture
from diffmech.config.study import CaptureConfig, LatentsConfig
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.storage import find_layout, save_denoiser, write_pointer

SHAPE = (1, 16, 16)
ARCHITECTURE = Architecture(channels=[8, 16], attention=[False, True], heads=4, norm_groups=4, token_width=16)
ATTRIBUTES = ["glasses", "smile"]
# Maps from float16 queries and keys: a score of up to 4 is off by 4 x 2^-11, and so is its probability, relatively.
MAP_ERROR = 2e-3
# The entropy of maps in float16: each of some 64 keys adds an error of its own.
ENTROPY_ERROR = 5e-3
RUNTIME = RuntimeConfig(progress=False, batch_size=4, device="cpu")

Capture = Callable[..., Path]


def write_dataset(path: Path, count: int, *, shape: tuple[int, ...] = SHAPE, attributes: tuple[str, ...] = ()) -> Path:
    """Write a data set store of random images; the first images of two sets of other sizes are the same."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, *shape), dtype=np.uint8)[:count]
    values = rng.random((50, len(attributes)), dtype=np.float32)[:count]
    dataset = xr.Dataset(
        {
            "image": (("sample", "channel", "y", "x"), images),
            "attribute_value": (("sample", "attribute"), values),
            "mask": (("sample", "part", "y", "x"), np.zeros((count, 0, *shape[1:]), np.uint8)),
        },
        coords={
            "sample": np.arange(count),
            "attribute": np.asarray(attributes, np.dtypes.StringDType()),
            "part": np.asarray([], np.dtypes.StringDType()),
            "file": ("sample", np.asarray([f"{i}.png" for i in range(count)], np.dtypes.StringDType())),
        },
        attrs={"gain": 1.0, "offset": 0.0},
    )
    write_store(path, dataset)
    return path


@pytest.fixture(scope="session")
def model_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised denoiser, saved as a trained one would be."""
    directory = tmp_path_factory.mktemp("tiny")
    unet, tokens = build_model(ARCHITECTURE, SHAPE, ATTRIBUTES, ["real", "synthetic"], seed=5)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight.mul_(3)  # attention that is clearly not uniform
    save_denoiser(directory, unet, tokens, build_scheduler(ARCHITECTURE))
    write_pointer(directory / "model.json", find_layout(directory), parameters=1, source="untrained")
    return directory / "model.json"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images with values of one of the model's two attributes, and of one that the model does not know."""
    return write_dataset(tmp_path_factory.mktemp("data") / "faces.zarr.zip", 10, attributes=("hat", "smile"))


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory, model_json: Path, dataset: Path) -> Callable[..., Path]:
    """Make the latents of some samples at some timesteps; the same ones once per session."""
    root = tmp_path_factory.mktemp("latents")

    @cache
    def make(
        sample_ids: range = range(6), timesteps: tuple[int, ...] = (100, 700), seed: int = 0, folder: str = "latents"
    ) -> Path:
        name = f"t{'-'.join(map(str, timesteps))}-s{sample_ids.start:03d}-{sample_ids.stop:03d}-{seed}"
        output = root / folder / f"{name}.zarr.zip"
        config = LatentsConfig(seed=seed)
        make_latents(
            dataset,
            model_json,
            output,
            domain="synthetic",
            timesteps=timesteps,
            sample_ids=sample_ids,
            latents=config,
        )
        return output

    return make


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory, model_json: Path) -> Capture:
    """Capture some latents into a store under `folder`; the same ones once per session."""
    root = tmp_path_factory.mktemp("attention")

    @cache
    def run(latents: Path, folder: str = "attention", *, keep_maps: int = 3, batch_size: int = 4) -> Path:
        output = root / folder / latents.name
        runtime = RUNTIME.model_copy(update={"batch_size": batch_size})
        capture_attention(latents, model_json, output, capture=CaptureConfig(keep_maps=keep_maps), runtime=runtime)
        return output

    return run
