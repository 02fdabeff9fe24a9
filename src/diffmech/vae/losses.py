"""What VAEs minimise, in nats per image, each a function of tensors alone.

Every family minimises -log p(x|z) + KL(q(z|x) || p(z)) (Kingma & Welling 2014) plus a penalty of its own:

- beta-VAE (Higgins et al. 2017): (beta - 1) KL;
- FactorVAE (Kim & Mnih 2018): gamma TC(z), the total correlation, from the odds of a discriminator;
- beta-TC-VAE (Chen et al. 2018): (beta - 1) TC(z), from the densities of the batch. Their decomposition weighs
  I(x; z), TC and the divergences of single latents by 1, beta and 1; these three add up to the divergence, which is
  taken in closed form here, where they take it at the sample;
- DIP-VAE-II (Kumar et al. 2018): squared distances of the covariance of the aggregate posterior from the identity.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2_PI = math.log(2 * math.pi)


def bernoulli_nats(images: Tensor, logits: Tensor) -> Tensor:
    """Return -log p(x|z) `(sample,)` of images in [0, 1] under Bernoulli pixels of these logits, both
    `(sample, channel, y, x)`: the cross-entropy, which is a likelihood only where pixels are 0 or 1."""
    pixels = F.binary_cross_entropy_with_logits(logits.float(), images.float(), reduction="none")
    return pixels.flatten(1).sum(1)


def gaussian_nats(images: Tensor, means: Tensor, sigma: float) -> Tensor:
    """Return -log p(x|z) `(sample,)` under Gaussian pixels of these means and one standard deviation `sigma`.

    It is a density, and so below 0 where pixels lie closer to their means than about sigma.
    """
    squares = ((images.float() - means.float()) / sigma).square().flatten(1)
    return (0.5 * squares + math.log(sigma) + 0.5 * LOG_2_PI).sum(1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q(z|x) || N(0, 1)) of every latent, `(sample, latent)` (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def log_densities(latents: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log q(z_i of sample a | x of sample b), `(a, b, latent)`."""
    distance = (latents[:, None] - mean).square() * (-log_variance).exp()
    return -0.5 * (LOG_2_PI + log_variance + distance)


def log_importance_weights(batch: int, images: int, sampling: str) -> Tensor:
    """Return the log weight `(a, b)` with which q(z|x_b) counts in the density of the aggregate posterior at z_a.

    `weighted` (Chen et al. 2018, section 4.1): 1 / (batch * images) for all. It shifts log-densities alone, whatever
    the number of `images` in the data set, and no gradient depends on it; with it the total correlation is off by up to
    (latents - 1) ln(images) nats.
    `stratified` (their appendix C.2): 1 / images for the own image, 1 / (batch - 1) for the others but one, which
    stands for all that remains; rows add up to 1. In their released code the weight of the own image stands in the
    first column of every row instead of on the diagonal.
    """
    if sampling == "weighted":
        return torch.full((batch, batch), -math.log(batch * images))
    others = batch - 1
    weights = torch.full((batch, batch), 1 / others)
    own = torch.arange(batch)
    weights[own, own] = 1 / images
    # none remain where the batch is the data set; a weight of nothing would be log 0
    weights[own, (own + 1) % batch] = max((images - others) / (images * others), 1e-12)
    return weights.log()


def total_correlation(latents: Tensor, mean: Tensor, log_variance: Tensor, *, images: int, sampling: str) -> Tensor:
    """Return the batch's estimate of TC(z) = KL(q(z) || prod_i q(z_i)), a scalar in nats (Chen et al. 2018, eq. 2).

    `latents` `(sample, latent)` are draws of the posteriors, and `images` is the size of the data set.
    """
    densities = log_densities(latents, mean, log_variance)
    weights = log_importance_weights(len(latents), images, sampling).to(densities)
    joint = (weights + densities.sum(2)).logsumexp(1)
    marginals = (weights[:, :, None] + densities).logsumexp(1)
    return (joint - marginals.sum(1)).mean()


def permute_latents(latents: Tensor) -> Tensor:
    """Return latents `(sample, latent)` with each latent permuted across the batch on its own, by torch's generator:
    draws of the product of the marginals (Kim & Mnih 2018, algorithm 1)."""
    orders = torch.rand(latents.shape, device=latents.device).argsort(0)
    return latents.gather(0, orders)


def density_ratio_tc(logits: Tensor) -> Tensor:
    """Return TC(z) in nats from a discriminator's logits `(sample, 1)` of draws of the aggregate posterior: the mean
    log odds (Kim & Mnih 2018, eq. 3)."""
    return logits.float().mean()


def discrimination(joint: Tensor, permuted: Tensor) -> Tensor:
    """Return the discriminator's loss, in nats: how badly its logits `(sample, 1)` tell draws of the aggregate
    posterior from permuted ones; ln 2 where it cannot tell."""
    return 0.5 * (F.softplus(-joint.float()).mean() + F.softplus(permuted.float()).mean())


def dip_penalty(mean: Tensor, log_variance: Tensor, *, off_diagonal: float, diagonal: float) -> Tensor:
    """Return the penalty of DIP-VAE-II on the covariance of z over the batch (Kumar et al. 2018, eq. 7).

    The covariance is that of the means, divided by the size of the batch, plus the mean of the posterior variances.
    """
    centred = mean - mean.mean(0)
    covariance = centred.T @ centred / len(mean) + log_variance.exp().mean(0).diag()
    variances = covariance.diagonal()
    others = covariance.square().sum() - variances.square().sum()
    return off_diagonal * others + diagonal * (variances - 1).square().sum()
