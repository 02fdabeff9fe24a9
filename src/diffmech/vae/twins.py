"""How much units change, in units of their own spread, in a VAE and in untrained twins of it. Ours.

Twins are VAEs of the same form with fresh weights: what they do is due to convolutions and to the data alone. Their
latents move in units of the spread of their own means, since the posterior of an untrained network is far wider than
its means. The decoders of twins of a VQ-VAE get what is not quantised: an untrained codebook says one code for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffmech.randomness import generator
from diffmech.vae.families import GridVae, Vae, untrained
from diffmech.vae.networks import layer_names, posterior
from diffmech.vae.patching import each_layer


@dataclass(frozen=True)
class Changes:
    """What a change of the inputs adds to the units of a layer, in their own spread: `activity` and the mean over
    places `signed`, both `(pair, unit)`."""

    activity: np.ndarray
    signed: np.ndarray

    @property
    def overall(self) -> np.ndarray:
        """The root mean square of the activity over pairs, `(unit,)`."""
        return np.asarray(np.sqrt(np.square(self.activity).mean(0)))


def changes(before: Tensor, after: Tensor) -> Changes:
    """Return what is added to the units of a layer, which gives `before` and `after` `(pair, unit, ...)`.

    A unit that gives the same for all images has no spread, and its change is 0.
    """
    first, then = (each.reshape(len(each), each.shape[1], -1) for each in (before, after))
    spread = torch.cat([first, then]).var(0, correction=0).mean(1).sqrt()
    unit = torch.where(spread > 0, spread, 1)
    added = then - first
    activity, signed = added.square().mean(2).sqrt() / unit, added.mean(2) / unit
    return Changes(activity.cpu().numpy(), signed.cpu().numpy())


@dataclass(frozen=True)
class Twin:
    """What an untrained network does: `moved` `(latent,)` or `(y, x)`, and the changes of each layer."""

    moved: np.ndarray
    changes: dict[str, Changes]


def untrained_twin(vae: Vae, images: Sequence[Tensor], *, seed: int, number: int) -> Twin:
    """Return what a twin of a VAE, told by its number, does on images before and after, `(pair, channel, y, x)` each.

    It is the same one whatever changes between the images.
    """
    twin = untrained(vae, int(generator(seed, "twin", number).integers(2**31)))
    encoded = [each_layer(twin.encoder, each) for each in images]
    last = layer_names(twin.encoder)[-1]
    if isinstance(twin, GridVae):
        latents = [each[last] for each in encoded]
        chosen = [twin.codebook.choose(each) for each in latents]
        moved = (chosen[1] != chosen[0]).double().mean(0).cpu().numpy()
    else:
        latents = [posterior(each[last])[0] for each in encoded]
        spread = torch.cat(latents).std(0, correction=0).double()
        moved = ((latents[1] - latents[0]).double().abs().mean(0) / spread).cpu().numpy()
    decoded = [each_layer(twin.decoder, each) for each in latents]
    found = {
        f"{side}.{layer}": changes(given[0][layer], given[1][layer])
        for side, given in (("encoder", encoded), ("decoder", decoded))
        for layer in list(given[0])[:-1]
    }
    return Twin(moved, found)
