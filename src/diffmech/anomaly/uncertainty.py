"""What a Bayesian VAE is unsure of, taken apart by the law of total variance.

A pixel that would be seen is drawn in three steps: weights w (a member of the ensemble, Lakshminarayanan et al. 2017,
and a dropout mask, Gal & Ghahramani 2016), latents z given the slice, and the pixel given both, of mean m(w, z) and
variance v(w, z). So

    Var x = Var_w E_z m  +  E_w Var_z m  +  E_w E_z v
            epistemic       latent          aleatoric

(Kendall & Gal 2017 for the first and the last). Sampling latents alone is no epistemic uncertainty, which is why it has
a part of its own. All three are those of the samples that were drawn, so that their sum is the variance of the mixture
of all of them. From few draws of the latents Var_w E_z m also holds some of the second part; the same standard normal
draws serve all weights, so that it is little.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from diffmech.anomaly.network import AnomalyVae, drop
from diffmech.anomaly.slices import Slices
from diffmech.batches import Batches
from diffmech.config.anomaly import UncertaintyConfig
from diffmech.errors import ModelError
from diffmech.training.seeds import seeded


@dataclass(frozen=True)
class Prediction:
    """What a model expects of each pixel; all float32 `(slice, modality, y, x)`, variances in squared intensity."""

    mean: np.ndarray
    epistemic: np.ndarray
    latent: np.ndarray
    aleatoric: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The variance of a pixel that would be seen: the sum of the three parts."""
        return self.epistemic + self.latent + self.aleatoric


def joined(parts: Iterable[Prediction]) -> Prediction:
    """Return the predictions of several sets of slices as one of all of them."""
    every = list(parts)
    arrays = (np.concatenate([getattr(part, field.name) for part in every]) for field in fields(Prediction))
    return Prediction(*arrays)


@torch.no_grad()
def predict(
    members: Sequence[AnomalyVae], slices: Slices, config: UncertaintyConfig, *, batch_size: int = 64
) -> Prediction:
    """Return what the ensemble expects of each pixel of `slices`; of these images and positions alone are used.

    A mask of channels is drawn anew for every batch of slices; that batch's draws of the latents share it. Raises
    ModelError for no member.
    """
    if not members:
        raise ModelError("uncertainty of an ensemble without members was asked for; give at least one trained model")
    pixels, positions = torch.from_numpy(slices.images), torch.from_numpy(slices.position).float()
    batches = Batches(batch_size)
    parts = batches.run(
        slice(0, len(pixels)), lambda rows: _parts(members, pixels[rows], positions[rows], config, rows.start)
    )
    return Prediction(*(torch.cat(each).numpy() for each in zip(*parts, strict=True)))


def decompose(draws: Iterator[tuple[Tensor, Tensor]] | Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
    """Return mean, epistemic, latent and aleatoric variance, each of shape `(...)`, from draws of the weights.

    Each draw holds the means and the variances of the draws of its latents, `(draw, ...)`. Moments are those about the
    first mean, so that equal draws have a variance of exactly 0.
    """
    centre: Tensor | None = None
    for count, (means, variances) in enumerate(draws, start=1):
        means, variances = means.double(), variances.double()
        if centre is None:
            centre = means[0]
            first, second, within, noise = (torch.zeros_like(centre) for _ in range(4))
        shifted = means - centre
        own = (shifted - shifted[:1]).mean(0) + shifted[0]
        # running means over weights: of E_z m, of its square, of Var_z m and of E_z v
        for total, value in ((first, own), (second, own.square()), (within, (shifted - own).square().mean(0))):
            total += (value - total) / count
        noise += (variances.mean(0) - noise) / count
    if centre is None:
        raise ModelError("a variance over weights needs draws of them; none were made")
    between = (second - first.square()).clamp_min(0)
    return tuple(part.float() for part in (centre + first, between, within, noise))


def _parts(
    members: Sequence[AnomalyVae], images: Tensor, positions: Tensor, config: UncertaintyConfig, start: int
) -> tuple[Tensor, ...]:
    """Return mean, epistemic, latent and aleatoric variance of one batch, which begins with slice `start`."""
    device = next(members[0].parameters()).device
    given = (images.to(device), positions.to(device))
    return tuple(part.cpu() for part in decompose(_draws(members, *given, config, start)))


def _draws(
    members: Sequence[AnomalyVae], images: Tensor, positions: Tensor, config: UncertaintyConfig, start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the means and variances `(draw, slice, modality, y, x)` under each draw of the weights."""
    for number, vae in enumerate(members):
        dropped = vae.config.dropout > 0
        vae.eval()
        drop(vae, dropped)
        for mask in range(config.masks if dropped else 1):
            key = ("dropout mask", number, mask, start)
            guide = vae.guide(positions)
            with seeded(config.seed, *key, device=images.device):
                mean, log_variance, grids = vae.encode(images, guide)
            means, variances = [], []
            for draw in range(config.latent_draws if vae.config.gaussian else 1):
                latents = mean
                if vae.config.gaussian:
                    with seeded(config.seed, "latents", draw, start, device=images.device):
                        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
                with seeded(config.seed, "decoder", *key, device=images.device):  # one mask for all latents
                    decoded, spread = vae.decode(latents, grids, guide)
                means.append(decoded)
                variances.append(spread.exp())
            yield torch.stack(means), torch.stack(variances)
        drop(vae, False)
