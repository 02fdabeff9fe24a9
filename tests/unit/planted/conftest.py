"""Planted denoisers, built once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from diffmech.config.models import PlantedCircuit
from diffmech.planted.network import PlantedDenoiser
from diffmech.planted.roles import build_network

SIZE = 20


@pytest.fixture(scope="session")
def circuit() -> PlantedCircuit:
    return PlantedCircuit(images=32, weight_noise=0.0)


@pytest.fixture(scope="session")
def network(circuit) -> PlantedDenoiser:
    alphas = DDPMScheduler(1000, beta_schedule="linear").alphas_cumprod
    return build_network(circuit, SIZE, alphas)


@pytest.fixture(scope="session")
def studied(tmp_path_factory) -> Callable[[int], Path]:
    """Return a function that runs the planted study of a seed, once."""
    from planted_study import SHORTER, planted_study, run_planted

    done: dict[int, Path] = {}

    def run(seed: int) -> Path:
        if seed not in done:
            torch.set_num_threads(1)
            study = planted_study(seed, SHORTER)
            done[seed] = run_planted(study, tmp_path_factory.mktemp(f"planted{seed}"))
        return done[seed]

    return run
