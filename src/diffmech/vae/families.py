"""The six families as networks with a loss: VAE, beta-VAE, FactorVAE, beta-TC-VAE, DIP-VAE-II and VQ-VAE.

The first five have a Gaussian posterior of single latents. The latent of a VQ-VAE is a grid of numbers of codes: it has
no latent that could be shifted, no posterior variance and no active units, so measures of these are undefined there.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from diffmech.config.vae import BetaTcVae, BetaVae, DipVaeII, FactorVae, VaeConfig, VqVae
from diffmech.errors import ModelError
from diffmech.training.seeds import seeded
from diffmech.vae.codebook import Codebook, perplexity
from diffmech.vae.losses import (
    bernoulli_nats,
    density_ratio_tc,
    dip_penalty,
    discrimination,
    divergence,
    gaussian_nats,
    permute_latents,
    total_correlation,
)
from diffmech.vae.networks import (
    ImageShape,
    decoder,
    discriminator,
    encoder,
    grid_decoder,
    grid_encoder,
    grid_shape,
    posterior,
    sample_posterior,
)


class Vae(nn.Module, ABC):
    """An encoder and a decoder with the loss of their family. Images are in [0, 1], `(sample, channel, y, x)`."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    def __init__(self, image_shape: ImageShape, config: VaeConfig) -> None:
        super().__init__()
        self.image_shape, self.config = image_shape, config

    @property
    def batches(self) -> int:
        """How many batches a step draws."""
        return 1

    @abstractmethod
    def losses(self, images: Tensor, *, size: int) -> dict[str, Tensor]:
        """Return `loss` and its parts, scalars in nats per image, for `batches` batches, one after the other.

        `size` is the number of images in the data set. What is sampled comes from torch's own generators.
        """

    @abstractmethod
    def reconstruct(self, images: Tensor) -> Tensor:
        """Return what the likelihood is made of, `(sample, channel, y, x)`, without sampling."""

    def nats(self, images: Tensor, decoded: Tensor) -> Tensor:
        """Return -log p(x|z) `(sample,)` of images under what was decoded."""
        network = self.config.network
        if network.likelihood == "bernoulli":
            return bernoulli_nats(images, decoded)
        return gaussian_nats(images, decoded, network.sigma)

    def pixels(self, decoded: Tensor) -> Tensor:
        """Return the mean of every pixel under what was decoded: the image that a decoder draws."""
        return decoded.sigmoid() if self.config.network.likelihood == "bernoulli" else decoded


class ContinuousVae(Vae):
    """A VAE of single latents, `(sample, latent)`, with a Gaussian posterior."""

    def __init__(self, image_shape: ImageShape, config: VaeConfig) -> None:
        super().__init__(image_shape, config)
        self.encoder = encoder(image_shape, config.network)
        self.decoder = decoder(image_shape, config.network)
        family = config.family
        if isinstance(family, FactorVae):
            self.discriminator = discriminator(config.network.latents, family.layers, family.width)

    @property
    def batches(self) -> int:
        """FactorVAE draws two batches a step: one that is encoded and decoded, one whose latents are permuted."""
        return 2 if isinstance(self.config.family, FactorVae) else 1

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log-variances of the posterior, each `(sample, latent)`."""
        return posterior(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the images `(sample, channel, y, x)`, in [0, 1], that the decoder draws for latents."""
        return self.pixels(self.decoder(latents))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return what is decoded from the means of the posterior."""
        return self.decoder(self.encode(images)[0])

    def losses(self, images: Tensor, *, size: int) -> dict[str, Tensor]:
        """Return `loss`, `reconstruction`, `divergence` and `penalty`; FactorVAE's `loss` holds `discrimination`, too.

        The two networks of FactorVAE take their steps at once and not in turn; neither has a gradient from the loss of
        the other.
        """
        images, others = images.chunk(2) if self.batches == 2 else (images, images[:0])
        mean, log_variance = self.encode(images)
        latents = sample_posterior(mean, log_variance)
        reconstruction = self.nats(images, self.decoder(latents)).mean()
        from_prior = divergence(mean, log_variance).sum(1).mean()
        extra: dict[str, Tensor] = {}
        match self.config.family:
            case BetaVae(beta=beta):
                penalty = (beta - 1) * from_prior
            case BetaTcVae(beta=beta, sampling=sampling):
                penalty = (beta - 1) * total_correlation(latents, mean, log_variance, images=size, sampling=sampling)
            case DipVaeII(off_diagonal=off_diagonal, diagonal=diagonal):
                penalty = dip_penalty(mean, log_variance, off_diagonal=off_diagonal, diagonal=diagonal)
            case FactorVae(gamma=gamma):
                fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
                penalty = gamma * density_ratio_tc(functional_call(self.discriminator, fixed, (latents,)))
                with torch.no_grad():
                    permuted = permute_latents(sample_posterior(*self.encode(others)))
                extra["discrimination"] = discrimination(
                    self.discriminator(latents.detach()), self.discriminator(permuted)
                )
            case _:
                penalty = torch.zeros_like(from_prior)
        loss = reconstruction + from_prior + penalty + sum(extra.values())
        parts = {"reconstruction": reconstruction, "divergence": from_prior, "penalty": penalty}
        return {"loss": loss, **parts, **extra}


class GridVae(Vae):
    """A VQ-VAE: its latent is a grid of numbers of codes `(sample, y, x)`.

    Under a uniform prior of codes the divergence is places x ln(codes) nats, a constant, which `loss` leaves out.
    """

    def __init__(self, image_shape: ImageShape, config: VaeConfig) -> None:
        super().__init__(image_shape, config)
        family = config.family
        assert isinstance(family, VqVae)
        self.family = family
        self.grid = grid_shape(image_shape, config.network)
        self.encoder = grid_encoder(image_shape, config.network, family.code_size)
        self.decoder = grid_decoder(image_shape, config.network, family.code_size)
        self.codebook = Codebook(family.codes, family.code_size, decay=family.decay, restart_below=family.restart_below)

    def encode(self, images: Tensor) -> Tensor:
        """Return the numbers of the codes, `(sample, y, x)`."""
        return self.codebook.choose(self.encoder(images))

    def decode(self, chosen: Tensor) -> Tensor:
        """Return the images `(sample, channel, y, x)`, in [0, 1], that the decoder draws for numbers of codes."""
        return self.pixels(self.decoder(self.codebook.look_up(chosen)))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return what is decoded from the codes."""
        return self.decoder(self.codebook.look_up(self.encode(images)))

    def losses(self, images: Tensor, *, size: int) -> dict[str, Tensor]:
        """Return `loss`, `reconstruction`, `commitment`, summed over the grid, and `codes_in_use`. Moves codes."""
        encoded = self.encoder(images).float()
        chosen = self.codebook.choose(encoded)
        codes = self.codebook.look_up(chosen)
        straight_through = encoded + (codes - encoded).detach()
        reconstruction = self.nats(images, self.decoder(straight_through)).mean()
        distance = F.mse_loss(encoded, codes, reduction="sum") / len(images)
        commitment = self.family.commitment * distance
        in_use = perplexity(chosen, self.family.codes)
        self.codebook.follow(encoded.detach(), chosen)
        loss = reconstruction + commitment
        return {"loss": loss, "reconstruction": reconstruction, "commitment": commitment, "codes_in_use": in_use}


def build_vae(image_shape: ImageShape, config: VaeConfig) -> Vae:
    """Return the untrained VAE of a family for images `(channel, y, x)`, with the weights of its seed.

    Raises ModelError where the image cannot be halved as often as the networks ask.
    """
    kind: type[Vae] = GridVae if isinstance(config.family, VqVae) else ContinuousVae
    with seeded(config.training.seed):
        return kind(image_shape, config)


def untrained(vae: Vae, seed: int) -> Vae:
    """Return a network of the same form with fresh weights, where `vae` is, laid out as its convolutions like it."""
    training = vae.config.training.model_copy(update={"seed": seed})
    twin = build_vae(vae.image_shape, vae.config.model_copy(update={"training": training}))
    return laid_out(twin).to(next(vae.parameters()).device).eval().requires_grad_(False)


def laid_out(vae: Vae) -> Vae:
    """Return a VAE with its weights as convolutions on a CPU take a third of the time with."""
    return vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def continuous(vae: Vae, measure: str) -> ContinuousVae:
    """Return a VAE that has single latents. Raises ModelError, naming the `measure`, where it has none."""
    if isinstance(vae, ContinuousVae):
        return vae
    raise ModelError(
        f"{measure} is undefined for a VQ-VAE: its latent is a grid of numbers of codes, which cannot be shifted; "
        "swap codes instead"
    )
