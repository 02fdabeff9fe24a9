"""The Bayesian VAE: shapes, gradients, what its switches switch, and its attention under the tap."""

import numpy as np
import pytest
import torch
from torch import nn

from diffmech.anomaly.network import (
    CONSTANT_LOG_VARIANCE,
    LEAST_LOG_VARIANCE,
    POSITIONS,
    AnomalyVae,
    drop,
)
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.tap import AttentionTap
from diffmech.config.anomaly import AnomalyNetworkConfig
from diffmech.errors import ModelError

SMALL = {"channels": [8, 8], "heads": 2, "latents": 2, "atlas": False}
MIDDLE = torch.full((2,), 0.5)


def small(shape=(1, 16, 16), **more) -> AnomalyVae:
    torch.manual_seed(0)
    return AnomalyVae(shape, AnomalyNetworkConfig(**{**SMALL, **more})).eval()


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("modalities", [1, 3])
def test_every_pixel_has_a_mean_and_a_variance_and_every_weight_a_gradient(modalities, skips):
    vae = small((modalities, 16, 32), skips=skips)
    images = torch.rand(3, modalities, 16, 32)
    guide = vae.guide(torch.rand(3))
    latent, log_variance, grids = vae.encode(images, guide)
    assert latent.shape == log_variance.shape == (3, 2, 4, 8)
    mean, spread = vae.decode(latent, grids, guide)
    assert mean.shape == spread.shape == images.shape
    (mean.sum() + spread.sum() + log_variance.square().sum()).backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in vae.parameters())


def test_variances_are_bounded_below_however_low_they_are_asked_to_be():
    vae = small()
    with torch.no_grad():
        vae.pixels.bias.fill_(-100.0)
        _, spread = vae(torch.rand(2, 1, 16, 16), MIDDLE)
    assert spread.min() >= LEAST_LOG_VARIANCE
    assert spread.max() < LEAST_LOG_VARIANCE + 1e-3


def test_without_variance_it_is_one_constant():
    _, spread = small(variance=False)(torch.rand(2, 1, 16, 16), MIDDLE)
    assert torch.equal(spread, torch.full_like(spread, CONSTANT_LOG_VARIANCE))


def test_without_skips_all_that_the_decoder_knows_are_the_latents():
    vae, images = small(skips=False), torch.rand(2, 1, 16, 16)
    guide = vae.guide(MIDDLE)
    latent, _, grids = vae.encode(images, guide)
    other = vae.encode(torch.rand(2, 1, 16, 16), guide)[2]
    assert torch.equal(vae.decode(latent, grids, guide)[0], vae.decode(latent, other, guide)[0])
    skipping = small(skips=True)
    assert not torch.equal(skipping.decode(latent, grids, guide)[0], skipping.decode(latent, other, guide)[0])


def test_dropout_can_be_on_after_training_and_nothing_else_changes():
    vae, images = small(dropout=0.5), torch.rand(2, 1, 16, 16)
    assert torch.equal(vae(images, MIDDLE)[0], vae(images, MIDDLE)[0])
    drop(vae, True)
    assert not torch.equal(vae(images, MIDDLE)[0], vae(images, MIDDLE)[0])
    assert not vae.attention.training
    drop(vae, False)
    assert all(not each.training for each in vae.modules() if isinstance(each, nn.Dropout2d))


def test_the_tap_sees_its_attention_and_the_entropy_of_every_head_is_that_of_the_map_by_hand():
    vae, images = small(), torch.rand(2, 1, 16, 16)
    plain = vae(images, MIDDLE)[0]
    calls, statistics = [], StatisticsObserver()
    with torch.no_grad(), AttentionTap(vae, [calls.append, statistics]) as tap:
        watched = vae(images, MIDDLE)[0]
    assert torch.equal(plain, watched)
    [site] = tap.sites
    assert (site.heads, tap.untapped, len(calls)) == (2, {}, 1)
    query, key = calls[0].query, calls[0].key
    probability = (query @ key.transpose(-1, -2) * calls[0].scale).double().softmax(-1)
    entropy = -(probability * probability.log()).sum(-1).mean(-1)
    assert np.allclose(statistics.results[site.name].entropy.numpy(), entropy.numpy(), atol=1e-5)
    assert entropy.shape == (2, 2)


def test_the_ablation_of_attention_has_none_to_see():
    vae = small(attention=False)
    with torch.no_grad(), AttentionTap(vae) as tap:
        vae(torch.rand(2, 1, 16, 16), MIDDLE)
    assert tap.sites == []


def test_with_an_atlas_a_network_that_adds_nothing_says_what_the_atlas_says_at_the_nearest_position():
    vae = small(atlas=True)
    with torch.no_grad():
        vae.atlas[0] = torch.rand(POSITIONS + 1, 1, 16, 16)
        vae.atlas[1] = -4.0 + torch.rand(POSITIONS + 1, 1, 16, 16)
        vae.pixels.weight.zero_()
        vae.pixels.bias.zero_()
        mean, spread = vae(torch.rand(3, 1, 16, 16), torch.tensor([0.0, 0.26, torch.nan]))
    for row, place in enumerate((0, 8, POSITIONS)):
        assert torch.equal(mean[row], vae.atlas[0, place])
        assert torch.allclose(spread[row], vae.atlas[1, place], atol=0.02)


def test_slices_that_cannot_be_halved_and_channels_that_cannot_be_grouped_are_refused():
    with pytest.raises(ModelError, match="need slices with sides of a multiple of 4 pixels, found 18 x 16"):
        small((1, 18, 16))
    with pytest.raises(ModelError, match="give multiples of 4, the last also one of the heads"):
        small(heads=3)
