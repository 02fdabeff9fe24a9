"""Whether a VAE has learned its images, before anything is claimed of it. Ours."""

from collections.abc import Mapping
from typing import Any

LEAST_GONE = 0.5  # of the nats of the mean image
LEAST_ACTIVE = 2  # latents


def has_learned(quality: Mapping[str, Any], likelihood: str) -> bool:
    """Return whether a VAE has learned, from the record of its `diffmech.vae.quality.Quality`.

    It has where a reconstruction costs at most half the nats of the mean image (fewer nats, where pixels are Gaussian,
    whose nats have no zero), and where at least two latents are active; a VQ-VAE has none that could be.
    """
    bar = quality["mean_image"] * ((1 - LEAST_GONE) if likelihood == "bernoulli" else 1)
    active = quality["active"]
    return bool(quality["reconstruction"] <= bar and (active is None or sum(active) >= LEAST_ACTIVE))
