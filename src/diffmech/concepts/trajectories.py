"""One sampled trajectory per image, whose points serve every timestep and every objective.

The released code of CAD (arXiv 2412.02542) samples anew from noise up to every timestep, 1 + 2 + ... + 50 = 1,275
guided steps for the points that one trajectory of 50 passes through. Guided steps are counted, not assumed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffmech.artifacts import progress
from diffmech.config.analysis import RuntimeConfig
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.models.sampling import checked, ddim, ddim_step, guided_prediction, initial_noise, steps_from


@dataclass(frozen=True)
class Trajectories:
    """The points x_t `(step, sample, channel, y, x)` of sampled images, on the CPU, their timesteps, and the images.

    `guided_steps` is the number of steps, each with guidance, that one sample took.
    """

    points: Tensor
    timesteps: tuple[int, ...]
    images: Tensor
    guided_steps: int

    def of(self, steps: list[int], samples: int) -> "Trajectories":
        """Return the points of some steps, of the first `samples`."""
        timesteps = tuple(self.timesteps[step] for step in steps)
        return Trajectories(self.points[steps, :samples], timesteps, self.images[:samples], self.guided_steps)


def sample_trajectories(
    denoiser: Denoiser, condition: Condition, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig
) -> Trajectories:
    """Sample one image for each row of `condition` and keep all points on the way. Raises as `sample_images` does."""
    timesteps = tuple(int(t) for t in ddim(denoiser, steps).timesteps)
    points = torch.empty(steps, len(condition), *denoiser.sample_shape)
    taken = 0

    def noted(rows: slice, step: int, x_t: Tensor) -> None:
        nonlocal taken
        points[step, rows] = x_t.cpu()
        taken += len(x_t)

    noise = initial_noise(seed, range(len(condition)), denoiser.sample_shape)
    with channels_last(denoiser.module):
        images = steps_from(
            denoiser,
            condition,
            noise,
            range(steps),
            steps=steps,
            guidance=guidance,
            runtime=runtime,
            noted=noted,
        )
    return Trajectories(points, timesteps, checked(images, steps), taken // len(condition))


def restarted_trajectories(
    denoiser: Denoiser, condition: Condition, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig
) -> Trajectories:
    """Return the same points as the released code of CAD finds them: sampled anew from noise up to every timestep."""
    scheduler = ddim(denoiser, steps)
    timesteps = [int(t) for t in scheduler.timesteps]
    noise = initial_noise(seed, range(len(condition)), denoiser.sample_shape).to(denoiser.device)
    here = condition.to(denoiser.device)
    points, taken = [], 0
    with torch.no_grad(), channels_last(denoiser.module):
        for last in progress(range(steps), "restarted trajectories", show=runtime.progress):
            x_t = noise
            for t in timesteps[: last + 1]:
                before = x_t
                x_t = ddim_step(scheduler, guided_prediction(denoiser, x_t, t, here, guidance), t, x_t)
                taken += 1
            points.append(before.cpu())
    return Trajectories(torch.stack(points), tuple(timesteps), checked(x_t.cpu(), steps), taken)
