"""Each loss against the same number computed another way: by quadrature, by loops, by numpy, by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor

from diffmech.vae.codebook import Codebook, perplexity
from diffmech.vae.losses import (
    bernoulli_nats,
    density_ratio_tc,
    dip_penalty,
    discrimination,
    divergence,
    gaussian_nats,
    log_importance_weights,
    permute_latents,
    total_correlation,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_divergence_is_the_integral_that_defines_it() -> None:
    for mean, log_variance in ((0.0, 0.0), (1.3, -2.0), (-0.4, 0.7)):
        posterior, prior = stats.norm(mean, math.exp(log_variance / 2)), stats.norm()

        def integrand(z: float, p: stats.rv_continuous = posterior, q: stats.rv_continuous = prior) -> float:
            return p.pdf(z) * (p.logpdf(z) - q.logpdf(z))

        expected, _ = quad(integrand, -20, 20, points=[mean])
        found = divergence(torch.tensor([[mean]], dtype=torch.float64), torch.tensor([[log_variance]]).double())
        assert found.item() == pytest.approx(expected, abs=1e-8)


def test_likelihoods_are_those_of_scipy() -> None:
    images, decoded = (draw(2, 1, 3, 3, seed=1) > 0).double(), draw(2, 1, 3, 3, seed=2)
    chances = 1 / (1 + np.exp(-decoded.numpy()))
    bernoulli = -stats.bernoulli(chances).logpmf(images.numpy()).sum((1, 2, 3))
    assert bernoulli_nats(images, decoded).numpy() == pytest.approx(bernoulli, rel=1e-6)
    gaussian = -stats.norm(decoded.numpy(), 0.3).logpdf(images.numpy()).sum((1, 2, 3))
    assert gaussian_nats(images, decoded, 0.3).numpy() == pytest.approx(gaussian, rel=1e-6)


def tc_by_loops(z: Tensor, mean: Tensor, log_variance: Tensor, weights: np.ndarray) -> float:
    """TC of the mixture with these weights, sample by sample, in float64."""
    n, latents = z.shape
    total = 0.0
    for a in range(n):
        joint, marginals = 0.0, np.zeros(latents)
        for b in range(n):
            each = stats.norm(mean[b].numpy(), np.exp(log_variance[b].numpy() / 2)).pdf(z[a].numpy())
            joint += weights[a, b] * each.prod()
            marginals += weights[a, b] * each
        total += math.log(joint) - np.log(marginals).sum()
    return total / n


@pytest.mark.parametrize("sampling", ["weighted", "stratified"])
def test_total_correlation_is_that_of_loops_over_pairs(sampling: str) -> None:
    n, images = 6, 50
    z, mean, log_variance = draw(n, 3, seed=3), draw(n, 3, seed=4), 0.3 * draw(n, 3, seed=5)
    if sampling == "weighted":
        weights = np.full((n, n), 1 / (n * images))
    else:
        weights = np.full((n, n), 1 / (n - 1))
        for a in range(n):
            weights[a, a] = 1 / images
            weights[a, (a + 1) % n] = (images - (n - 1)) / (images * (n - 1))
    found = total_correlation(z, mean, log_variance, images=images, sampling=sampling)
    assert found.item() == pytest.approx(tc_by_loops(z, mean, log_variance, weights), abs=1e-6)


def test_stratified_weights_are_a_distribution_and_weighted_ones_only_shift() -> None:
    weights = log_importance_weights(5, 40, "stratified").exp()
    assert weights.sum(1) == pytest.approx(np.ones(5), abs=1e-6)
    whole = log_importance_weights(5, 5, "stratified").exp()  # a batch that is the data set: every image counts alike
    assert whole.diagonal() == pytest.approx(np.full(5, 1 / 5), abs=1e-6)
    assert whole.sum(1) == pytest.approx(np.ones(5), abs=1e-6)
    z, mean, log_variance = draw(5, 3, seed=6), draw(5, 3, seed=7), draw(5, 3, seed=8)
    few, many = (total_correlation(z, mean, log_variance, images=n, sampling="weighted").item() for n in (10, 1000))
    assert many - few == pytest.approx(2 * math.log(100), abs=1e-5)


def test_total_correlation_of_a_correlated_gaussian_is_its_closed_form() -> None:
    """Of narrow posteriors around draws with correlation 0.8 it is -ln(1 - 0.64) / 2, where the batch is everything."""
    n, rho, width = 1500, 0.8, 0.25
    covariance = np.array([[1, rho], [rho, 1]]) - width**2 * np.eye(2)
    mean = torch.from_numpy(np.random.default_rng(0).multivariate_normal([0, 0], covariance, n))
    z = mean + width * draw(n, 2, seed=9)
    found = total_correlation(z, mean, torch.full_like(mean, 2 * math.log(width)), images=n, sampling="stratified")
    assert found.item() == pytest.approx(-math.log(1 - rho**2) / 2, abs=0.05)


def test_permuted_latents_keep_every_marginal_and_lose_what_binds_them() -> None:
    z = draw(400, 1, seed=10).repeat(1, 3)
    torch.manual_seed(0)
    permuted = permute_latents(z)
    assert torch.equal(permuted.sort(0).values, z.sort(0).values)
    assert np.abs(np.corrcoef(permuted.T.numpy()) - np.eye(3)).max() < 0.2
    assert not torch.equal(permuted, z)


def test_the_loss_of_the_discriminator_is_the_cross_entropy_of_two_classes() -> None:
    joint, permuted = draw(4, 1, seed=11), draw(4, 1, seed=12)
    logits = np.concatenate([joint, permuted])[:, 0]
    truth = np.repeat([1, 0], 4)
    chances = 1 / (1 + np.exp(-logits))
    expected = -np.mean(np.where(truth == 1, np.log(chances), np.log(1 - chances)))
    assert discrimination(joint, permuted).item() == pytest.approx(expected, rel=1e-6)
    assert discrimination(0 * joint, 0 * permuted).item() == pytest.approx(math.log(2))


def test_the_odds_of_a_perfect_discriminator_are_the_total_correlation() -> None:
    rho = 0.6
    z = np.random.default_rng(1).multivariate_normal([0, 0], [[1, rho], [rho, 1]], 40_000)
    odds = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).logpdf(z) - stats.norm.logpdf(z).sum(1)
    found = density_ratio_tc(torch.from_numpy(odds)[:, None])
    assert found.item() == pytest.approx(-math.log(1 - rho**2) / 2, abs=0.01)


def test_the_penalty_of_dip_is_that_of_the_covariance_of_numpy() -> None:
    mean, log_variance = draw(20, 3, seed=13), draw(20, 3, seed=14)
    covariance = np.cov(mean.numpy().T, bias=True) + np.diag(np.exp(log_variance.numpy()).mean(0))
    others = covariance[~np.eye(3, dtype=bool)]
    expected = 2 * (others**2).sum() + 5 * ((np.diag(covariance) - 1) ** 2).sum()
    assert dip_penalty(mean, log_variance, off_diagonal=2, diagonal=5).item() == pytest.approx(expected, rel=1e-9)
    # means and variances whose sum is the identity cost nothing
    corners = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)]).double() * math.sqrt(0.5)
    assert dip_penalty(corners, torch.full((4, 2), math.log(0.5)).double(), off_diagonal=1, diagonal=1) < 1e-12


def codebook(restart_below: float = 0.0) -> Codebook:
    book = Codebook(3, 2, decay=0.8, restart_below=restart_below)
    book.codes.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]]))
    book.counts.fill_(1)
    book.sums.copy_(book.codes)
    return book


def test_codes_follow_their_moving_averages() -> None:
    book = codebook()
    rows = torch.tensor([[0.1, 0.0], [0.0, 0.2], [1.2, 0.8]])
    encoded = rows.T.reshape(1, 2, 3, 1)
    chosen = book.choose(encoded)
    assert chosen.flatten().tolist() == [0, 0, 1]
    assert torch.equal(book.look_up(chosen)[0, :, 2, 0], torch.ones(2))
    book.follow(encoded, chosen)
    assert book.counts.tolist() == pytest.approx([0.8 + 0.2 * 2, 0.8 + 0.2, 0.8])
    assert book.codes[0].tolist() == pytest.approx([0.2 * 0.1 / 1.2, 0.2 * 0.2 / 1.2], rel=1e-4)
    assert book.codes[1].tolist() == pytest.approx([0.8 + 0.2 * 1.2, 0.8 + 0.2 * 0.8], rel=1e-4)
    assert book.codes[2].tolist() == pytest.approx([9, 9], rel=1e-4)  # never chosen, it stays


def test_a_dead_code_starts_anew_at_a_place_of_the_batch() -> None:
    book = codebook(restart_below=0.9)
    rows = torch.tensor([[0.1, 0.0], [0.0, 0.2], [1.2, 0.8]])
    encoded = rows.T.reshape(1, 2, 3, 1)
    torch.manual_seed(0)
    book.follow(encoded, book.choose(encoded))
    assert (rows - book.codes[2]).abs().sum(1).min() < 1e-3
    assert book.counts[2] == 1


def test_what_the_first_batch_does_not_choose_starts_anew_at_once() -> None:
    torch.manual_seed(0)
    book = Codebook(8, 2, decay=0.99, restart_below=0.1)
    far = torch.full((1, 2, 4, 4), 50.0)
    book.follow(far, book.choose(far))
    assert int((book.codes.sub(50).abs().max(1).values < 1).sum()) >= 7


def test_perplexity_counts_codes_in_use() -> None:
    assert perplexity(torch.tensor([[[0, 1], [2, 3]]]), 10).item() == pytest.approx(4)
    assert perplexity(torch.zeros(5, 2, 2, dtype=torch.long), 10).item() == pytest.approx(1)


def test_no_code_has_a_gradient() -> None:
    assert list(Codebook(4, 2, decay=0.9, restart_below=0).parameters()) == []
