"""Codes as rows of numbers, whatever the family: what factors are read from. Ours.

Those of a VAE with single latents are the means of the posterior. Those of a VQ-VAE are the codes themselves, not their
numbers, of all places one after the other.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from diffmech.randomness import generator
from diffmech.vae.families import ContinuousVae, GridVae, Vae, untrained

Encode = Callable[[np.ndarray], np.ndarray]  # images (image, channel, y, x) -> codes (image, number)
BATCH = 256


def encoder_of(vae: Vae) -> Encode:
    """Return images `(image, channel, y, x)` -> codes `(image, number)`."""
    if isinstance(vae, GridVae):
        return _batched(vae, lambda part: vae.codebook.look_up(vae.encode(part)).flatten(1))
    assert isinstance(vae, ContinuousVae)
    return _batched(vae, lambda part: vae.encode(part)[0])


def twin_encoder(vae: Vae, *, seed: int) -> Encode:
    """Return the same of a network of the same form with fresh weights, those of a VQ-VAE without choosing codes: an
    untrained codebook says one code for all."""
    twin = untrained(
        vae,
        int(generator(seed, "an untrained encoder", vae.config.family.kind, vae.config.training.seed).integers(2**31)),
    )
    return _batched(twin, lambda part: twin.encoder(part).flatten(1)) if isinstance(twin, GridVae) else encoder_of(twin)


def batches(vae: Vae, images: np.ndarray, size: int = BATCH) -> Iterator[Tensor]:
    """Yield images `(sample, channel, y, x)` piece by piece, where the VAE is and laid out as convolutions like it."""
    device = next(vae.parameters()).device
    for part in torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).split(size):
        yield part.to(device, memory_format=torch.channels_last)


def _batched(vae: Vae, run: Callable[[Tensor], Tensor]) -> Encode:
    @torch.no_grad()
    def encode(images: np.ndarray) -> np.ndarray:
        return torch.cat([run(part) for part in batches(vae, images)]).double().cpu().numpy()

    return encode
