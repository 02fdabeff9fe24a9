"""Some of the steps of sampling: the first, the last, with fresh noise in each, or none. Ours.

Run from the first to the last step without fresh noise, this is `models.sampling.sample_images`.
"""

import numpy as np
import torch
from torch import Tensor

from diffmech.config.analysis import RuntimeConfig
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.models.sampling import ddim, ddim_step, fresh_spread, guided_prediction
from diffmech.randomness import generator


def steps_from(
    denoiser: Denoiser,
    condition: Condition,
    x_t: Tensor,
    which: range,
    *,
    steps: int,
    guidance: float,
    runtime: RuntimeConfig,
    eta: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Return what `x_t` `(image, channel, y, x)` is after the steps `which` of a schedule of `steps`, on the CPU.

    The noise that `eta` adds belongs to (seed, image, timestep), so that two denoisers get the same.
    """
    scheduler = ddim(denoiser, steps)
    after = torch.empty_like(x_t)
    with torch.no_grad(), channels_last(denoiser.module):
        for start in range(0, len(x_t), runtime.batch_size):
            rows = slice(start, min(start + runtime.batch_size, len(x_t)))
            here = condition.rows(rows).to(denoiser.device)
            images = x_t[rows].to(denoiser.device)
            for t in scheduler.timesteps[which.start : which.stop].tolist():
                fresh = _fresh(seed, rows, t, images) if eta else None
                predicted = guided_prediction(denoiser, images, t, here, guidance)
                images = ddim_step(scheduler, predicted, t, images, eta=eta, fresh=fresh)
            after[rows] = images.cpu()
    return after


def cut_steps(denoiser: Denoiser, eta: float, steps: int) -> int:
    """Return at how many of `steps` steps less fresh noise is added than `eta` says, since there is none of the old."""
    scheduler = ddim(denoiser, steps)
    timesteps = scheduler.timesteps.tolist()
    once, asked = ([float(fresh_spread(scheduler, t, times)) for t in timesteps] for times in (1e-3, eta))
    return sum(spread < eta * own / 1e-3 * (1 - 1e-6) for own, spread in zip(once, asked, strict=True))


def _fresh(seed: int, rows: slice, t: int, like: Tensor) -> Tensor:
    shape = tuple(like.shape[1:])
    drawn = [
        generator(seed, "fresh noise", index, t).standard_normal(shape, dtype=np.float32)
        for index in range(rows.start, rows.stop)
    ]
    return torch.from_numpy(np.stack(drawn)).to(like)
