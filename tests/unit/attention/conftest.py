"""A tiny study on disk: a U-Net with three levels and one transformer layer per block, and two small data sets."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny_captures import ARCHITECTURE, ATTRIBUTES, RUNTIME, SHAPE, Capture, write_dataset

from diffmech.attention.capture import capture_attention
from diffmech.attention.latents import make_latents
from diffmech.config.study import CaptureConfig, LatentsConfig
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.storage import find_layout, save_denoiser, write_pointer


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
