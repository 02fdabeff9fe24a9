"""Variances taken apart: known noise is found, doubt about weights goes with data and grows away from it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from made_slices import discs

from diffmech.anomaly.network import AnomalyVae
from diffmech.anomaly.uncertainty import decompose, predict
from diffmech.config.anomaly import AnomalyNetworkConfig, UncertaintyConfig
from diffmech.errors import ModelError

NOISE = 0.3


def vae(seed=0, **more) -> AnomalyVae:
    torch.manual_seed(seed)
    small = {"channels": [8, 8], "heads": 2, "latents": 2, "atlas": False, **more}
    return AnomalyVae((1, 16, 16), AnomalyNetworkConfig(**small)).eval()


SLICES = discs(1, 5)


def test_the_parts_add_up_to_the_variance_of_the_mixture():
    """The total is that of all normals with equal weights at once: the mean of m^2 + v less the squared mean."""
    source = np.random.default_rng(1)
    means, variances = source.normal(5, 2, (6, 4, 3, 7)), source.gamma(2, 1, (6, 4, 3, 7))
    draws = [(torch.from_numpy(m), torch.from_numpy(v)) for m, v in zip(means, variances, strict=True)]
    mean, epistemic, latent, aleatoric = (part.numpy() for part in decompose(draws))
    total = (means**2 + variances).mean((0, 1)) - means.mean((0, 1)) ** 2
    assert np.allclose(mean, means.mean((0, 1)), atol=1e-6)
    assert np.abs(epistemic + latent + aleatoric - total).max() < 1e-6 * total.max()
    assert np.allclose(epistemic, means.mean(1).var(0), atol=1e-5)
    assert np.allclose(latent, means.var(1).mean(0), atol=1e-5)


def test_of_a_model_the_parts_add_up_to_the_total_too():
    config = UncertaintyConfig(members=2, masks=3, latent_draws=2)
    found = predict([vae(0, dropout=0.3), vae(1, dropout=0.3)], SLICES, config)
    assert np.abs(found.total - (found.epistemic + found.latent + found.aleatoric)).max() < 1e-6
    assert min(found.epistemic.min(), found.latent.min()) > 0
    assert found.mean.shape == found.aleatoric.shape == (5, 1, 16, 16)


def test_one_member_without_dropout_is_sure_of_its_weights_exactly():
    found = predict([vae(dropout=0.0)], SLICES, UncertaintyConfig(masks=5, latent_draws=3))
    assert (found.epistemic == 0).all()
    assert found.latent.max() > 0  # sampling latents is no doubt about weights


def test_two_equal_members_are_sure_too_and_without_gaussians_nothing_is_latent():
    found = predict([vae(dropout=0.0, gaussian=False)] * 2, SLICES, UncertaintyConfig(latent_draws=3))
    assert (found.epistemic == 0).all()
    assert (found.latent == 0).all()


def test_prediction_is_a_function_of_the_seed_and_leaves_the_model_as_it_was():
    config, model = UncertaintyConfig(masks=2), vae(dropout=0.3)
    first, again = (predict([model], SLICES, config) for _ in range(2))
    other = predict([model], SLICES, config.model_copy(update={"seed": 1}))
    assert np.array_equal(first.mean, again.mean)
    assert not np.array_equal(first.mean, other.mean)
    assert not any(each.training for each in model.modules())


def test_all_draws_of_the_latents_share_a_mask(monkeypatch):
    """With latents that do not vary, whatever dropout does is doubt about weights, and nothing of it latent."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    found = predict([vae(dropout=0.5)], SLICES, UncertaintyConfig(masks=4, latent_draws=3))
    assert found.epistemic.max() > 1e-3
    assert (found.latent == 0).all()


def test_an_ensemble_of_none_is_refused():
    with pytest.raises(ModelError, match="an ensemble without members was asked for"):
        predict([], SLICES, UncertaintyConfig())
    with pytest.raises(ModelError, match="a variance over weights needs draws of them"):
        decompose([])


def features(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((x[:, None] - np.linspace(-5, 5, 41)) / 0.5) ** 2)


def regression(count: int, members: int = 400) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the weights of members `(member, feature)`, the covariance of the exact posterior and the noise found.

    A regression on bumps: each member fits targets and a prior that are disturbed, which for a linear model draws it
    from the exact posterior (Pearce et al. 2020).
    """
    source = np.random.default_rng(5)
    x = source.uniform(-1, 1, count)
    y = np.sin(3 * x) + NOISE * source.standard_normal(count)
    phi = features(x)
    covariance = np.linalg.inv(phi.T @ phi / NOISE**2 + np.eye(phi.shape[1]))
    disturbed = y + NOISE * source.standard_normal((members, count))
    weights = (disturbed @ phi / NOISE**2 + source.standard_normal((members, phi.shape[1]))) @ covariance
    residual = y - phi @ weights.mean(0)
    return weights, covariance, float(residual.var())


def parts_at(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights, covariance, noise = regression(count)
    draws = [(torch.from_numpy(features(x) @ own)[None], torch.full((1, len(x)), noise)) for own in weights]
    _, epistemic, _, aleatoric = (part.numpy() for part in decompose(draws))
    return epistemic, aleatoric, np.einsum("xi,ij,xj->x", features(x), covariance, features(x))


def test_on_a_toy_of_known_noise_doubt_goes_with_data_and_grows_away_from_it():
    inside, outside = np.linspace(-0.9, 0.9, 50), np.array([-4.0, 4.0])
    means = []
    for count in (10, 100, 1000, 10000):
        doubt, noise, exact = parts_at(inside, count)
        assert doubt.mean() == pytest.approx(exact.mean(), rel=0.15)
        means.append(doubt.mean())
    assert np.sqrt(noise.mean()) == pytest.approx(NOISE, rel=0.02)
    assert all(later < earlier / 4 for earlier, later in pairwise(means))
    assert means[-1] < 0.01 * NOISE**2
    away, _, exact = parts_at(outside, 10000)
    assert away == pytest.approx(exact, rel=0.3)
    assert away.min() > 1000 * means[-1]
