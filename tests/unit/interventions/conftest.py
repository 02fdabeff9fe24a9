"""The random denoiser, saved as a trained one would be, and noised images of two domains in two blocks."""

from pathlib import Path

import pytest
import torch
from random_denoisers import TIMESTEPS, tiny_denoiser, write_latents

from diffmech.attention.sites import AttentionSite, find_sites
from diffmech.config.analysis import AblationConfig
from diffmech.models.denoiser import Denoiser
from diffmech.models.storage import find_layout, save_denoiser, write_pointer


@pytest.fixture(scope="session")
def denoiser() -> Denoiser:
    # As jobs run by default: with more threads, how a pass is rounded depends on its place in the batch.
    torch.set_num_threads(1)
    return tiny_denoiser(5)


@pytest.fixture(scope="session")
def sites(denoiser: Denoiser) -> list[AttentionSite]:
    return find_sites(denoiser.module)


@pytest.fixture(scope="session")
def model_json(denoiser: Denoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ablated")
    assert denoiser.tokens is not None
    save_denoiser(directory, denoiser.module, denoiser.tokens, denoiser.scheduler)
    write_pointer(directory / "model.json", find_layout(directory), parameters=1, source="untrained")
    return directory / "model.json"


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Six images of each domain that are studied, and four for reference: one store per timestep."""
    folder = tmp_path_factory.mktemp("latents")
    return {
        name: [write_latents(folder / f"{name}-{t}.zarr.zip", index, [t], range(10)) for t in TIMESTEPS]
        for index, name in enumerate(["real", "synthetic"])
    }


@pytest.fixture
def ablation() -> AblationConfig:
    return AblationConfig(samples=6, reference_samples=4, draws=200, permutations=200)
