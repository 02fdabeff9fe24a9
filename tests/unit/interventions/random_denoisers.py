"""A tiny random denoiser with three layers of eight heads, and noised images of two domains in two blocks."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.models import Architecture
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.denoiser import Denoiser
from diffmech.randomness import generator

SHAPE = (1, 8, 8)
ARCHITECTURE = Architecture(channels=[8, 16], attention=[False, True], heads=8, norm_groups=4, token_width=8)
TIMESTEPS = (100, 700)
REFERENCES = range(6, 10)
DOMAINS = ("real", "synthetic")
RUNTIME = RuntimeConfig(progress=False, batch_size=16, device="cpu")


def tiny_denoiser(seed: int) -> Denoiser:
    """Return a denoiser with random weights whose attention is clearly not uniform."""
    unet, tokens = build_model(ARCHITECTURE, SHAPE, ["smile"], ["real", "synthetic"], seed=seed)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "to_q" in name or "to_k" in name:
                weight.mul_(6)
    for module in (unet, tokens):
        module.eval().requires_grad_(False)
    return Denoiser(unet, build_scheduler(ARCHITECTURE), SHAPE, tokens, ("smile",), ("real", "synthetic"))


def write_latents(
    path: Path, domain: int, timesteps: Iterable[int], samples: Iterable[int], named: str | None = None
) -> Path:
    """Write a latents store of random images, said to be of `named`, whose noise depends on id and timestep alone."""
    timesteps, samples = list(timesteps), list(samples)
    noise = np.array([[generator(0, "noise", i, t).standard_normal(SHAPE) for t in timesteps] for i in samples])
    image = np.array([generator(0, "image", domain, i).standard_normal(SHAPE) for i in samples])
    dims = ("sample", "timestep", "channel", "y", "x")
    data = xr.Dataset(
        {
            "x_t": (dims, (0.5 * image[:, None] + 0.8 * noise).astype(np.float32)),
            "noise": (dims, noise.astype(np.float32)),
            "domain": ("sample", np.full(len(samples), domain, dtype=np.int64)),
            "condition": (("sample", "attribute"), np.full((len(samples), 1), np.nan, dtype=np.float32)),
        },
        coords={"sample": np.array(samples), "timestep": np.array(timesteps)},
        attrs={"domain": named or DOMAINS[domain]},
    )
    write_store(path, data)
    return path
