"""Planted denoisers, built once."""

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
def studied(tmp_path_factory) -> Path:
    """The folder of the planted study of one seed at one timestep; of ten at two, benchmarks/planted.py tells."""
    from planted_study import ONE_TIMESTEP, planted_study, run_planted

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("planted")
    return run_planted(planted_study(0, ONE_TIMESTEP), folder, few_for_pairs=True)
