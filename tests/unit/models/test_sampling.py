"""The sampler draws from the distribution of the images when the denoiser is perfect."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from diffmech.artifacts import open_store
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.models import SamplingConfig
from diffmech.errors import ConfigError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.sampling import drawn_condition, gallery_rows, generate_gallery, sample_images
from diffmech.models.tokens import AttributeTokens
from diffmech.testing import assert_same_up_to_rounding

SPREAD = 0.25


class Answer:
    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


class GaussianOracle(nn.Module):
    """The optimal denoiser of Gaussian pixels: their mean is the value of the token, their deviation SPREAD."""

    def __init__(self, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.register_buffer("abar", scheduler.alphas_cumprod)
        self.place = nn.Parameter(torch.zeros(1))

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor) -> Answer:
        abar = self.abar[timestep][:, None, None, None]
        mean = tokens[:, 1, 0][:, None, None, None]
        return Answer((1 - abar).sqrt() * (x_t - abar.sqrt() * mean) / (abar * SPREAD**2 + 1 - abar))


@pytest.fixture
def oracle() -> Denoiser:
    scheduler = DDPMScheduler(1000, beta_schedule="linear", clip_sample=False)
    tokens = AttributeTokens(["mean"], [], 1).requires_grad_(False)
    tokens.base.zero_()
    tokens.slope.fill_(1)
    tokens.null.fill_(0.1)  # without a condition the mean of the pixels is 0.1
    return Denoiser(GaussianOracle(scheduler), scheduler, (1, 6, 6), tokens, ("mean",))


def asked(mean: float, n: int) -> Condition:
    return Condition(torch.full((n,), -1), torch.full((n, 1), mean))


@pytest.mark.parametrize(("guidance", "mean"), [(1.0, 0.4), (0.0, 0.1), (3.0, 0.1 + 3 * 0.3)])
def test_perfect_denoiser_gives_back_mean_and_variance(
    oracle: Denoiser, quiet: RuntimeConfig, guidance: float, mean: float
) -> None:
    # of one variance, guidance moves the mean along the line through the means without and with the condition
    images = sample_images(oracle, asked(0.4, 150), steps=250, guidance=guidance, seed=0, runtime=quiet)
    pixels = images.numpy().ravel()
    assert pixels.mean() == pytest.approx(mean, abs=4 * SPREAD / len(pixels) ** 0.5 + 0.01)
    assert pixels.std() == pytest.approx(SPREAD, rel=0.05)


def test_image_depends_on_seed_and_index_alone(oracle: Denoiser, quiet: RuntimeConfig) -> None:
    settings = {"steps": 5, "guidance": 2.0}
    many = sample_images(oracle, asked(0.4, 5), seed=0, runtime=quiet, **settings)
    small = quiet.model_copy(update={"batch_size": 2})
    assert_same_up_to_rounding(sample_images(oracle, asked(0.4, 3), seed=0, runtime=small, **settings), many[:3])
    assert not torch.allclose(sample_images(oracle, asked(0.4, 5), seed=1, runtime=quiet, **settings), many)


def test_more_steps_than_the_diffusion_has_are_refused(oracle: Denoiser, quiet: RuntimeConfig) -> None:
    with pytest.raises(ConfigError, match=r"sampling\.steps: 1001"):
        sample_images(oracle, asked(0.4, 1), steps=1001, guidance=1, seed=0, runtime=quiet)


def test_contrast_rows_differ_in_their_attribute_only(trained: Path) -> None:
    denoiser = load_denoiser(trained, device="cpu")
    rows = gallery_rows(denoiser, SamplingConfig(count=20, attributes=["hat", "wings"]))
    assert list(rows) == ["real", "synthetic", "synthetic, hat", "synthetic, no hat"]
    hat = denoiser.attributes.index("hat")
    with_, without = rows["synthetic, hat"].values, rows["synthetic, no hat"].values
    assert (with_[:, hat] == 1).all()
    assert (without[:, hat] == 0).all()
    others = [k for k in range(with_.shape[1]) if k != hat]
    assert torch.equal(with_[:, others], without[:, others])
    assert with_[:, others].std(dim=0).min() > 0.2
    assert rows["real"].values.isnan().all()
    assert rows["real"].domain.tolist() == [0] * 20
    assert rows["synthetic"].domain.tolist() == [1] * 20


def test_drawn_condition_grows_without_changing(trained: Path) -> None:
    denoiser = load_denoiser(trained, device="cpu")
    assert torch.equal(drawn_condition(denoiser, 9, 0).values[:4], drawn_condition(denoiser, 4, 0).values)


def test_gallery_is_a_store_of_named_rows(trained: Path, quiet: RuntimeConfig, tmp_path: Path) -> None:
    sampling = SamplingConfig(count=2, steps=3, attributes=["glasses"])
    for name in ("a", "b"):
        generate_gallery(trained, tmp_path / f"{name}.zarr.zip", sampling=sampling, runtime=quiet)
    data = open_store(tmp_path / "a.zarr.zip").dataset
    assert data["image"].dims == ("row", "index", "channel", "y", "x")
    assert data["image"].shape == (4, 2, 1, 8, 8)
    assert data["image"].dtype == np.float32
    assert float(np.abs(data["image"]).max()) <= 1
    assert list(data["row"].values) == ["real", "synthetic", "synthetic, glasses", "synthetic, no glasses"]
    assert (tmp_path / "a.zarr.zip").read_bytes() == (tmp_path / "b.zarr.zip").read_bytes()
