"""How good a VAE is before any claim about it: its reconstruction beside the mean image's, and the latents it uses."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.training.seeds import seeded
from diffmech.vae.codebook import perplexity
from diffmech.vae.encoding import batches
from diffmech.vae.families import ContinuousVae, GridVae, Vae
from diffmech.vae.losses import divergence
from diffmech.vae.networks import sample_posterior

ACTIVE = 0.01  # variance of a posterior mean over images above which a latent is active (Burda et al. 2016, section 4)
CERTAIN = 1e-6  # a pixel that is never on is not given infinite nats
NO_UNITS = "undefined: the latent of a VQ-VAE is a grid of numbers of codes"


@dataclass(frozen=True)
class Quality:
    """Nats are means over `images` images.

    `reconstruction` is -log p(x|z) with z the posterior mean (or the codes); `mean_image` that of their own mean for
    every image; `bound` is the negative evidence lower bound, at one draw of the posterior. `variances` of the
    posterior means and `divergences`, in nats, are those of every latent, and `active` says which variances exceed
    0.01; None for a VQ-VAE, whose `codes_in_use` is the perplexity of its codes.
    """

    images: int
    reconstruction: float
    mean_image: float
    bound: float
    variances: list[float] | None
    divergences: list[float] | None
    active: list[bool] | None
    codes_in_use: float | None

    def record(self) -> dict[str, Any]:
        """Return all of it, and the number of active latents or why there is none, as is kept beside the weights."""
        units = NO_UNITS if self.active is None else sum(self.active)
        return {**asdict(self), "active_units": units, "active_above": ACTIVE}


@torch.no_grad()
def quality(vae: Vae, images: np.ndarray, *, seed: int = 0, batch_size: int = 256) -> Quality:
    """Return how good a VAE is on images `(sample, channel, y, x)` in [0, 1]."""
    device = next(vae.parameters()).device
    pieces = list(batches(vae, images, batch_size))
    average = torch.from_numpy(np.asarray(images, np.float32)).mean(0, keepdim=True).to(device)
    if vae.config.network.likelihood == "bernoulli":
        average = average.clamp(CERTAIN, 1 - CERTAIN).logit()
    reconstruction = _mean([vae.nats(x, vae.reconstruct(x)) for x in pieces])
    mean_image = _mean([vae.nats(x, average.expand_as(x)) for x in pieces])
    if isinstance(vae, GridVae):
        chosen = torch.cat([vae.encode(x) for x in pieces])
        rate = vae.grid[0] * vae.grid[1] * float(np.log(vae.family.codes))
        in_use = float(perplexity(chosen, vae.family.codes))
        return Quality(len(images), reconstruction, mean_image, reconstruction + rate, None, None, None, in_use)
    assert isinstance(vae, ContinuousVae)
    posteriors = [vae.encode(x) for x in pieces]
    means = torch.cat([mean for mean, _ in posteriors]).double()
    nats = torch.cat([divergence(*each) for each in posteriors]).double()
    with seeded(seed, "a draw of every posterior", device=device):
        drawn = [sample_posterior(*each) for each in posteriors]
    at_draws = _mean([vae.nats(x, vae.decoder(z)) for x, z in zip(pieces, drawn, strict=True)])
    variances = means.var(0, correction=0)
    return Quality(
        images=len(images),
        reconstruction=reconstruction,
        mean_image=mean_image,
        bound=at_draws + float(nats.sum(1).mean()),
        variances=variances.tolist(),
        divergences=nats.mean(0).tolist(),
        active=(variances > ACTIVE).tolist(),
        codes_in_use=None,
    )


def aggregate_deviation(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the standard deviation of every latent under the aggregate posterior, `(latent,)`: that of the means over
    images together with the posterior's own (law of total variance). Both are `(sample, latent)`."""
    return (mean.double().var(0, correction=0) + log_variance.double().exp().mean(0)).sqrt()


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).double().mean())
