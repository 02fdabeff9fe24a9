"""Codes as rows of numbers, whatever the family: what factors are read from. Ours.

Those of a VAE with single latents are the means of the posterior. Those of a VQ-VAE are the codes themselves, not their
numbers, of all places one after the other.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffmech.randomness import generator
from diffmech.vae.families import ContinuousVae, GridVae, Vae, build_vae

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
    fresh = int(generator(seed, "an untrained encoder", vae.config.training.seed).integers(2**31))
    training = vae.config.training.model_copy(update={"seed": fresh})
    twin = build_vae(vae.image_shape, vae.config.model_copy(update={"training": training}))
    twin = twin.to(next(vae.parameters()).device).eval()
    return _batched(twin, lambda part: twin.encoder(part).flatten(1)) if isinstance(twin, GridVae) else encoder_of(twin)


def _batched(vae: Vae, run: Callable[[Tensor], Tensor]) -> Encode:
    device = next(vae.parameters()).device

    @torch.no_grad()
    def encode(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        parts = [run(part.to(device, memory_format=torch.channels_last)) for part in pixels.split(BATCH)]
        return torch.cat(parts).double().cpu().numpy()

    return encode
