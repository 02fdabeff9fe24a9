"""What a concept is to a denoiser, as a number that weights raise or lower (arXiv 2412.02542, CAD).

Both objectives are mean squared errors of the predicted noise at fixed points, J = mean |eps_hat(x_t, c) - target|^2
over points and pixels:

- `erase`: x_t on sampled trajectories of the concept, c asks for it, the target is what the same, unchanged denoiser
  predicts without it. Weights whose removal lowers J are those by which asking for the concept makes a difference.
- `amplify`: x_t is a noised image of the concept, the target its noise, and c asks weakly. Weights whose removal lowers
  J are those that keep the concept out. Which images, and that c asks weakly, is ours: where c asks fully, the denoiser
  lies at a minimum of this loss and its gradient is mostly noise. The images are those at the ends of the trajectories.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from diffmech.concepts.trajectories import Trajectories
from diffmech.models.denoiser import Conditioning, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.randomness import noise

# Images (image, ...), noise (step, image, ...) and timesteps -> what is noised, and what should be predicted of it.
Noised = Callable[[Tensor, Tensor, Sequence[int]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Points:
    """Where an objective is measured: x_t and targets `(step, sample, channel, y, x)`, timesteps and conditions."""

    x_t: Tensor
    targets: Tensor
    timesteps: tuple[int, ...]
    conditions: tuple[Conditioning, ...]

    @property
    def count(self) -> int:
        """How many points there are, over steps and samples."""
        return self.x_t.shape[0] * self.x_t.shape[1]

    def batches(self, size: int) -> Iterator[tuple[int, slice]]:
        """Yield a step and some of its samples at a time."""
        for step in range(len(self.timesteps)):
            for start in range(0, self.x_t.shape[1], size):
                yield step, slice(start, min(start + size, self.x_t.shape[1]))

    def of(self, steps: Sequence[int]) -> "Points":
        """Return the points of some steps."""
        chosen = list(steps)
        pick = tuple(self.timesteps[step] for step in chosen), tuple(self.conditions[step] for step in chosen)
        return Points(self.x_t[chosen], self.targets[chosen], *pick)


def erase_points(
    denoiser: Denoiser,
    trajectories: Trajectories,
    asked: Sequence[Conditioning],
    base: Sequence[Conditioning],
    *,
    batch_size: int,
) -> Points:
    """Return the points of the erase objective; `asked` and `base` are by timestep and have a row per trajectory."""
    without = Points(trajectories.points, torch.zeros_like(trajectories.points), trajectories.timesteps, tuple(base))
    targets = torch.empty_like(trajectories.points)
    with torch.no_grad(), channels_last(denoiser.module):
        for step, rows in without.batches(batch_size):
            targets[step, rows] = predicted(denoiser, without, step, rows).cpu()
    return Points(trajectories.points, targets, trajectories.timesteps, tuple(asked))


def amplify_points(trajectories: Trajectories, weak: Sequence[Conditioning], noised: Noised, *, seed: int) -> Points:
    """Return the points of the amplify objective: the sampled images, `noised`; noise belongs to (seed, image, t)."""
    images = trajectories.images
    added = torch.from_numpy(
        np.stack(
            [[noise(seed, i, t, tuple(images.shape[1:])) for i in range(len(images))] for t in trajectories.timesteps]
        )
    )
    return Points(*noised(images, added, trajectories.timesteps), trajectories.timesteps, tuple(weak))


def predicted(denoiser: Denoiser, points: Points, step: int, rows: slice) -> Tensor:
    """Return the predicted noise at some points, `(sample, channel, y, x)`; gradients flow where they are allowed."""
    weight = next(denoiser.module.parameters())
    x_t = points.x_t[step, rows].to(weight.device, weight.dtype)
    here = points.conditions[step].rows(rows).to(weight.device)
    return denoiser.predict_noise(x_t, points.timesteps[step], here)


def objective(denoiser: Denoiser, points: Points, *, batch_size: int) -> np.ndarray:
    """Return J of each point, `(step, sample)` in float64: the squared error, averaged over pixels."""
    values = np.empty(tuple(points.x_t.shape[:2]))
    with torch.no_grad(), channels_last(denoiser.module):
        for step, rows in points.batches(batch_size):
            error = predicted(denoiser, points, step, rows).double().cpu() - points.targets[step, rows].double()
            values[step, rows] = error.square().flatten(1).mean(1).numpy()
    return values


@contextmanager
def input_norms(modules: dict[str, nn.Module], squares: dict[str, Tensor]) -> Iterator[None]:
    """Within this context add to `squares` `(input,)` the squared inputs of linear layers and convolutions."""

    def note(name: str, channel: int) -> object:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            values = arguments[0].detach().float().movedim(channel, -1).flatten(0, -2)
            own = values.square().sum(0).cpu()
            squares[name] = squares[name] + own if name in squares else own

        return hook

    handles = []
    for name, module in modules.items():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            hook = note(name, -1 if isinstance(module, nn.Linear) else 1)
            handles.append(module.register_forward_pre_hook(hook))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
