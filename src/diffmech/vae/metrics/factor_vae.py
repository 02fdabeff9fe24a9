"""The FactorVAE score (Kim & Mnih 2018, section 4): does one latent stand still while one factor does?

A vote draws a factor, fixes it, draws all others for a batch of images, and names the latent whose variance, over that
of all images, is the smallest. A majority vote names the factor of each latent; the score is the share of further votes
that it gets right. Latents of a standard deviation below 0.05 over all images are left out, as collapsed
(disentanglement_lib's setting; its default leaves out none, and its count of active latents is of all of them).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffmech.randomness import generator

COLLAPSED = 0.05

# Codes `(sample, latent)` of so many images, one value of the given factor for all of them, or none fixed where it is
# None, all else drawn by the generator.
DrawCodes = Callable[[int | None, int, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class FactorVaeScore:
    """The share of right votes, on those that the majority was taken of too, and the votes `(latent, factor)` of
    these; `active` `(latent,)` says which latents could be named."""

    score: float
    fit: float
    votes: np.ndarray
    active: np.ndarray
    inputs: dict[str, Any]


def factor_vae_score(
    draw: DrawCodes,
    factors: int,
    *,
    votes: int = 800,
    batch_size: int = 64,
    variance_samples: int = 5000,
    seed: int = 0,
) -> FactorVaeScore:
    """Return the score, of `votes` votes to learn the majority from and as many to score.

    It is 0 where every latent is collapsed. Codes that know nothing score about the largest share of votes that a
    factor gets by chance, 1 / factors.
    """
    spread = draw(None, variance_samples, generator(seed, "FactorVAE score: all images")).var(0, ddof=1)
    active = np.sqrt(spread) >= COLLAPSED
    counts = np.zeros((2, len(spread), factors))
    for part in range(2):
        for vote in range(votes):
            source = generator(seed, "FactorVAE score", part, vote)
            factor = int(source.integers(factors))
            if active.any():
                variance = draw(factor, batch_size, source).var(0, ddof=1)
                relative = np.divide(variance, spread, out=np.full(len(spread), np.inf), where=active)
                counts[part, relative.argmin(), factor] += 1
    majority = counts[0].argmax(1)
    right = counts[:, np.arange(len(spread)), majority].sum(1) / votes
    said = {"votes": votes, "batch_size": batch_size, "variance_samples": variance_samples, "collapsed": COLLAPSED}
    return FactorVaeScore(float(right[1]), float(right[0]), counts[0], active, said)
