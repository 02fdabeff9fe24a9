"""Whatever a network predicts is brought to the noise."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.tokens import AttributeTokens
from diffmech.testing import assert_same_up_to_rounding


class Answer:
    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


class Knowing(nn.Module):
    """A network that gives the answer it was made with."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor) -> Answer:
        return Answer(self.answer)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timestep", [5, 500, 990])
def test_every_kind_of_prediction_becomes_the_noise(prediction: str, timestep: int) -> None:
    scheduler = DDPMScheduler(1000, beta_schedule="linear", prediction_type=prediction)
    x_0, noise = torch.randn(2, 3, 1, 4, 4)
    abar = scheduler.alphas_cumprod[timestep]
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * noise
    answers = {"epsilon": noise, "sample": x_0, "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * x_0}
    denoiser = Denoiser(Knowing(answers[prediction]), scheduler, (1, 4, 4))
    # What rounds is x_t, of which early noise is a fortieth.
    scale = float(x_t.abs().max() / (1 - abar).sqrt())
    assert_same_up_to_rounding(denoiser.predict_noise(x_t, timestep), noise, scale=scale, roundings=16)


def test_predicted_variance_is_left_out() -> None:
    noise = torch.randn(2, 1, 4, 4)
    network = Knowing(torch.cat([noise, torch.ones_like(noise)], dim=1))
    assert torch.equal(Denoiser(network, DDPMScheduler(), (1, 4, 4)).predict_noise(torch.zeros(2, 1, 4, 4), 7), noise)


def test_null_condition_says_nothing() -> None:
    condition = Condition(torch.tensor([0, 1]), torch.tensor([[0.5], [1.0]]))
    null = condition.null_like()
    assert null.domain.tolist() == [-1, -1]
    assert null.values.shape == (2, 1)
    assert null.values.isnan().all()
    assert len(condition.null_like(5)) == 5
    assert condition.joined(null).rows(slice(1, 3)).domain.tolist() == [1, -1]


def test_token_names_follow_the_attributes() -> None:
    tokens = AttributeTokens(["hat"], ["real"], 4)
    conditional = Denoiser(nn.Identity(), DDPMScheduler(), (1, 4, 4), tokens, ("hat",), ("real",))
    assert conditional.token_names == ("domain", "hat")
    assert Denoiser(nn.Identity(), DDPMScheduler(), (1, 4, 4)).token_names == ()


def test_queries_are_laid_out_by_halving_the_image() -> None:
    denoiser = Denoiser(nn.Identity(), DDPMScheduler(), (1, 25, 50))
    grids = [denoiser.site_grid("any", n) for n in (1250, 13 * 25, 7 * 13)]
    assert grids == [(25, 50), (13, 25), (7, 13)]
    with pytest.raises(ModelError, match=r"99 queries of mid\.0\.self"):
        denoiser.site_grid("mid.0.self", 99)


def test_patches_are_laid_out_in_the_grid_that_keeps_the_aspect_of_the_image() -> None:
    denoiser = Denoiser(nn.Identity(), DDPMScheduler(), (1, 24, 36))
    grids = [denoiser.site_grid("any", n) for n in (12 * 18, 8 * 12, 6 * 9, 4 * 6, 2 * 3)]
    assert grids == [(12, 18), (8, 12), (6, 9), (4, 6), (2, 3)]
    with pytest.raises(ModelError, match="no grid of square patches"):
        denoiser.site_grid("any", 9 * 13)


def test_tokens_without_a_place_are_named() -> None:
    denoiser = Denoiser(nn.Identity(), DDPMScheduler(), (1, 32, 32))
    with pytest.raises(ModelError, match=r"a grid of 8 x 8 and 5 more, but nothing tells which have no place: let"):
        denoiser.site_grid("block00.self", 64 + 5)


def test_images_or_conditions_of_another_shape_are_refused() -> None:
    tokens = AttributeTokens(["hat"], ["real"], 4)
    denoiser = Denoiser(nn.Identity(), DDPMScheduler(), (1, 4, 4), tokens, ("hat",), ("real",))
    with pytest.raises(ValueError, match=r"expected \(n, 1, 4, 4\)"):
        denoiser.predict_noise(torch.zeros(2, 3, 4, 4), 0)
    with pytest.raises(ValueError, match="the condition is for 3 images, but x_t has 2"):
        denoiser.predict_noise(torch.zeros(2, 1, 4, 4), 0, Condition.null(3, 1))
