"""What changing one latent does to the image: how strong it is, and how specific.

The formulas of arXiv 2505.03530 are known from a third party only: effect strength CES_i = E |D(z) - D(do(z_i))|_2,
specificity S_i = 1 / (H(p_i) + eps) with p_i the changes over outputs, normalised to sum 1, and modularity
M = 1 - mean over pairs of units of |corr(da_i, da_j)|, with da the changes of their activations. Ours: what is done to
a latent is said (a shift, a value, a swap), effects per pixel and in units of the aggregate posterior beside raw ones,
and specificity as 1 - H / ln n, which is in [0, 1] and has no eps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffmech.errors import ModelError

Decode = Callable[[Tensor], Tensor]  # latents (sample, latent) -> images (sample, channel, y, x)
Read = Callable[[Tensor], Tensor]  # images (sample, channel, y, x) -> features (sample, feature)
Intervene = Callable[[Tensor, int], Tensor]  # latents (sample, latent) and a latent -> what it is set to (sample,)
EPS = 1e-8


def shift(by: float | Tensor) -> Intervene:
    """Return the intervention that adds `by`, one number or one per latent `(latent,)`.

    With steps in units of the aggregate posterior (`diffmech.vae.quality.aggregate_deviation`) effects are calibrated:
    latents are moved as far as data move them, whatever their unit.
    """

    def intervene(latents: Tensor, latent: int) -> Tensor:
        return latents[:, latent] + (by[latent].to(latents) if isinstance(by, Tensor) else by)

    return intervene


def clamp(value: float | Tensor) -> Intervene:
    """Return the intervention that sets a latent to one value for all samples: one number or one per latent."""

    def intervene(latents: Tensor, latent: int) -> Tensor:
        set_to = float(value[latent]) if isinstance(value, Tensor) else value
        return torch.full_like(latents[:, latent], set_to)

    return intervene


def swap(donors: Tensor) -> Intervene:
    """Return the intervention that takes a latent from other samples, `(sample, latent)`, one for each."""
    return lambda latents, latent: donors[:, latent].to(latents)


@dataclass(frozen=True)
class Effects:
    """`strength` `(sample, latent)` is |D(z) - D(do(z_i))|_2 of every sample, whose mean is CES; `per_pixel` the same
    over the root of the number of values in an image, the root mean squared change of one; `change` `(latent, output)`
    the mean absolute change of each value of the image, and `features` `(sample, latent, feature)` the signed one of
    its features, none unless asked for."""

    strength: np.ndarray
    per_pixel: np.ndarray
    change: np.ndarray
    features: np.ndarray


@torch.no_grad()
def effects(
    decode: Decode,
    latents: Tensor,
    intervene: Intervene,
    *,
    batch_size: int = 256,
    features: Read | None = None,
) -> Effects:
    """Return the effects of intervening on each latent alone.

    `features` reads images as `(sample, feature)`. Raises ModelError for donors of another number.
    """
    strength, change, signed = [], [], []
    before = torch.cat([decode(part) for part in latents.split(batch_size)])
    clean = before.flatten(1)
    read = features or _no_features
    features_before = read(before)
    for latent in range(latents.shape[1]):
        values = intervene(latents, latent)
        if values.shape != latents[:, latent].shape:
            raise ModelError(
                f"an intervention gave {tuple(values.shape)} values for {len(latents)} samples; give as many"
            )
        moved = latents.clone()
        moved[:, latent] = values
        after = torch.cat([decode(part) for part in moved.split(batch_size)])
        signed.append((read(after) - features_before).cpu().numpy())
        difference = (after.flatten(1) - clean).double()
        strength.append(difference.norm(dim=1).cpu().numpy())
        change.append(difference.abs().mean(0).cpu().numpy())
    found = np.stack(strength, axis=1)
    return Effects(found, found / math.sqrt(clean.shape[1]), np.stack(change), np.stack(signed, axis=1))


def specificity(change: np.ndarray, *, eps: float = EPS) -> np.ndarray:
    """Return 1 / (H(p) + eps) `(...)` of changes over outputs `(..., output)`, the third party's formula.

    It depends on how many outputs there are and has no upper end but 1 / eps: read it beside `bounded_specificity`. NaN
    where nothing changes.
    """
    return 1 / (_entropy(change) + eps)


def bounded_specificity(change: np.ndarray) -> np.ndarray:
    """Return 1 - H(p) / ln n `(...)` of changes over n outputs `(..., output)`: 1 = one output alone changes, 0 = all
    alike. NaN where nothing changes; 1 where there is one output."""
    n = change.shape[-1]
    entropy = _entropy(change)
    return 1 - entropy / math.log(n) if n > 1 else np.where(np.isnan(entropy), np.nan, 1.0)


def modularity(changes: np.ndarray) -> tuple[float, int]:
    """Return 1 - mean over pairs of |corr| of the changes of units' activations `(sample, unit)`, and how many units
    it is of.

    Units whose change never varies have no correlation and are left out; of fewer than two it is NaN. Correlations of n
    samples are about sqrt(2 / (pi n)) by chance, which keeps it below 1.
    """
    varying = changes[:, changes.std(0) > 0]
    units = varying.shape[1]
    if units < 2:
        return float("nan"), units
    correlation = np.corrcoef(varying, rowvar=False)
    pairs = np.triu_indices(units, k=1)
    return float(1 - np.abs(correlation[pairs]).mean()), units


def _no_features(images: Tensor) -> Tensor:
    return images.new_zeros((len(images), 0))


def _entropy(change: np.ndarray) -> np.ndarray:
    totals = change.sum(-1, keepdims=True)
    shares = np.divide(change, totals, out=np.full(change.shape, np.nan), where=totals > 0)
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)
