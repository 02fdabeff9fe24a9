"""The bundled denoiser of faces, and a linear one whose weights each touch one output."""

from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from diffmech.config.analysis import RuntimeConfig
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_layout
from diffmech.models.storage import find_layout
from diffmech.training.seeds import seeded

FACES = Path(__file__).parents[3] / "resources" / "models" / "faces"


class LinearDenoiser(torch.nn.Module):
    """eps_hat = A x_t + b * glasses, on images of 1 x 2 x 2 pixels; A is called as a feed-forward layer."""

    def __init__(self):
        super().__init__()
        self.ff = torch.nn.Linear(4, 4, bias=False)
        self.told = torch.nn.Embedding(1, 4)

    def forward(self, x_t, steps, condition):
        values = condition.values.nan_to_num()[:, :1]
        return (self.ff(x_t.flatten(1)) + values * self.told.weight[0]).reshape(x_t.shape)


@pytest.fixture
def linear() -> Denoiser:
    with seeded(3):
        module = LinearDenoiser().eval().requires_grad_(False)
    scheduler = DDPMScheduler(num_train_timesteps=20)
    return Denoiser(module, scheduler, (1, 2, 2), attributes=("glasses",), forward=module)


def load_faces() -> Denoiser:
    return load_layout(find_layout(FACES), device="cpu")


@pytest.fixture(scope="module")
def faces() -> Denoiser:
    return load_faces()


@pytest.fixture
def runtime() -> RuntimeConfig:
    return RuntimeConfig(progress=False, device="cpu", batch_size=8)


@pytest.fixture
def faces_folder() -> Path:
    return FACES
