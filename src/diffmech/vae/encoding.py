"""Codes as rows of numbers, whatever the family: what factors are read from. Ours.

Those of a VAE with single latents are the means of the posterior. Those of a VQ-VAE are the codes themselves, not their
numbers, of all places one after the other.
"""

from collections.abc import Callable

import numpy as np
import torch

from diffmech.errors import StoreError
from diffmech.vae.families import ContinuousVae, GridVae, Vae
from diffmech.vae.stores import Codes


def encoder_of(vae: Vae, *, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return images `(image, channel, y, x)` -> codes `(image, number)`."""
    device = next(vae.parameters()).device

    @torch.no_grad()
    def encode(images: np.ndarray) -> np.ndarray:
        rows = []
        for part in torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).split(batch_size):
            if isinstance(vae, GridVae):
                rows.append(vae.codebook.look_up(vae.encode(part.to(device))).flatten(1))
            else:
                assert isinstance(vae, ContinuousVae)
                rows.append(vae.encode(part.to(device))[0])
        return torch.cat(rows).double().cpu().numpy()

    return encode


def as_rows(vae: Vae, codes: Codes) -> np.ndarray:
    """Return codes that are kept, `(image, number)`. Raises StoreError where they are not of such a VAE."""
    if isinstance(vae, GridVae) and codes.chosen is not None:
        chosen = torch.from_numpy(codes.chosen).to(next(vae.parameters()).device)
        return vae.codebook.look_up(chosen).flatten(1).double().cpu().numpy()
    if codes.mean is None or isinstance(vae, GridVae):
        raise StoreError(
            f"the codes of {codes.family} seed {codes.seed} and its weights are not of one kind of latent; "
            "delete the store of codes to have it made from these weights"
        )
    return codes.mean.astype(np.float64)
