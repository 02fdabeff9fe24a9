"""Sampling with heads removed: all images step by step side by side, so that clean ones give the means. DDIM.

An image whose heads are first replaced at step k is the clean image up to there, so its passes start at step k. All
batches have one fixed size, filled up where need be: kernels may round differently for another one, and a dead head
should change nothing, bit for bit. Ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmech.artifacts import progress
from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionTap
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.models.sampling import checked, ddim, ddim_step, guidance_branches, guided_prediction, initial_noise
from diffmech.resampling.removals import Removal
from diffmech.resampling.steering import MEAN, Steering, StepMeans


@dataclass(frozen=True)
class Task:
    """One image to sample: row `position` of the clean ones, with the heads of one removal replaced."""

    removal: Removal
    position: int


@dataclass(frozen=True)
class Resampled:
    """Images in [-1, 1] on the CPU: `clean` `(image, channel, y, x)`, and `ablated` `(task, channel, y, x)`.

    `calls` names the attention calls of a clean pass at each step, those of sites that are not studied too.
    """

    clean: Tensor
    ablated: Tensor
    calls: tuple[frozenset[str], ...]


def resample(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    condition: Condition,
    tasks: Sequence[Task],
    *,
    numbers: Sequence[int],
    averaged: int,
    steps: int,
    guidance: float,
    method: str,
    seed: int,
    batch_size: int,
    show: bool = False,
) -> Resampled:
    """Sample the clean images `numbers` (of the seed's noise), and of these the ones of `tasks` with heads replaced.

    `condition` has a row per clean image. The first `averaged` of them give the means of the method "mean". Raises
    ConfigError for more steps than the diffusion has, ModelError for images that are none.
    """
    scheduler, device = ddim(denoiser, steps), denoiser.device
    condition, branches = condition.to(device), range(guidance_branches(denoiser, guidance))
    size = max(1, min(batch_size, max(len(tasks), len(numbers))))
    clean = initial_noise(seed, numbers, denoiser.sample_shape)
    ablated = torch.empty(len(tasks), *denoiser.sample_shape)
    used = frozenset[str]().union(*(task.removal.sites for task in tasks))
    means = StepMeans(used, device) if method == MEAN else None
    steering = Steering(sites, used, means, device)
    observers = [] if means is None else [means]
    calls: list[frozenset[str]] = []

    def batches(rows: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the rows of each batch, and those with the filling."""
        for start in range(0, len(rows), size):
            part = list(rows[start : start + size])
            yield part, torch.tensor((part * size)[:size] if len(part) < size else part)

    def denoised(x_t: Tensor, t: int, positions: Tensor) -> Tensor:
        """Return what follows `x_t`, whose rows are the clean images `positions` or ablated ones of theirs."""
        noisy = x_t.to(device)
        predicted = guided_prediction(denoiser, noisy, t, condition.rows(positions.to(device)), guidance)
        return ddim_step(scheduler, predicted, t, noisy).cpu()

    def run() -> Iterator[None]:
        nonlocal clean
        for step, t in enumerate(int(timestep) for timestep in scheduler.timesteps):
            following = torch.empty_like(clean)
            with AttentionTap(denoiser.module, observers=observers, sites=sites) as tap:
                for rows, filled in batches(range(len(numbers))):
                    if means is not None:
                        means.at(step, branches, sum(row < averaged for row in rows))
                    following[rows] = denoised(clean[filled], t, filled)[: len(rows)]
                    yield
            calls.append(frozenset(tap.calls))
            for row, task in enumerate(tasks):
                if task.removal.first_step == step:
                    ablated[row] = clean[task.position]
            active = [row for row, task in enumerate(tasks) if task.removal.first_step <= step]
            with AttentionTap(denoiser.module, interventions=[steering], sites=sites):
                for rows, filled in batches(active):
                    here = [tasks[row] for row in filled.tolist()]
                    steering.at(step, branches, [task.removal.members[step] for task in here])
                    positions = torch.tensor([task.position for task in here])
                    ablated[rows] = denoised(ablated[filled], t, positions)[: len(rows)]
                    yield
            if means is not None:
                means.forget(step)
            clean = following

    first = [task.removal.first_step for task in tasks]
    total = sum(-(-len(numbers) // size) + -(-sum(at <= step for at in first) // size) for step in range(steps))
    with torch.inference_mode(), channels_last(denoiser.module):
        for _ in progress(run(), "sampling (batches)", total=total, show=show):
            pass
    for row, task in enumerate(tasks):
        if task.removal.first_step >= steps:
            ablated[row] = clean[task.position]
    return Resampled(checked(clean, steps), checked(ablated, steps), tuple(calls))
