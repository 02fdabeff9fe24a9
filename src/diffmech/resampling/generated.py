"""The same for pipelines: their own sampling loop runs, and heads are replaced in every pass that it makes.

What a pipeline does between passes is its own and is not repeated here, so that every pipeline and sampler of diffusers
can be steered; the clean images are sampled first and give the means, which are kept in memory. Ours.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from diffmech.artifacts import progress
from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.models.prompted import noised_argument
from diffmech.models.recording import call_arguments, denoiser_of, run_pipeline, watch_sampling
from diffmech.resampling.steering import MEAN, Steering, StepMeans
from diffmech.resampling.trajectories import Resampled, Task


class PromptedSampling:
    """A pipeline and what is asked of it: one prompt and one seed per clean image."""

    def __init__(
        self,
        pipeline: Any,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        negative_prompt: str,
        steps: int,
        guidance: float,
        size: int,
    ) -> None:
        self.pipeline, self.prompts, self.seeds = pipeline, list(prompts), list(seeds)
        self.module = denoiser_of(pipeline)
        self._asked: dict[str, Any] = {
            "negative_prompt": negative_prompt,
            "steps": steps,
            "guidance": guidance,
            "size": size,
        }

    def timesteps(self) -> list[int]:
        """Return the timesteps of the sampler's steps, rounded, as one image shows them."""
        found: list[float] = []
        with watch_sampling(self.pipeline, lambda _: None, lambda timestep, _: found.append(timestep)):
            self._sample([0])
        return [round(timestep) for timestep in found]

    def resample(
        self,
        sites: Sequence[AttentionSite],
        tasks: Sequence[Task],
        *,
        averaged: int,
        method: str,
        batch_size: int,
        show: bool = False,
    ) -> Resampled:
        """Sample all clean images, and those of `tasks` with heads replaced; the first `averaged` give the means."""
        total = len(self.prompts)
        size = max(1, min(batch_size, max(len(tasks), total)))
        used = frozenset[str]().union(*(task.removal.sites for task in tasks))
        means = StepMeans(used) if method == MEAN else None
        steering = Steering(sites, used, means, next(self.module.parameters()).device)

        calls: dict[int, set[str]] = {}

        def clean_batches() -> Iterator[Tensor]:
            with AttentionTap(self.module, observers=[] if means is None else [means], sites=sites) as tap:
                for rows in _parts(total, size):
                    counted = sum(row < averaged for row in rows)

                    def note(step: int, passes: Sequence[int], counted: int = counted) -> None:
                        if means is not None:
                            means.at(step, passes, counted)

                    def called(step: int) -> None:
                        calls.setdefault(step, set()).update(tap.calls)

                    with self._following(size, note, called):
                        yield self._sample(_filled(rows, size))[: len(rows)]

        def ablated_batches() -> Iterator[Tensor]:
            with AttentionTap(self.module, interventions=[steering], sites=sites):
                for rows in _parts(len(tasks), size):
                    here = [tasks[row] for row in _filled(rows, size)]

                    def steer(step: int, passes: Sequence[int], here: Sequence[Task] = here) -> None:
                        steering.at(step, passes, [task.removal.members[step] for task in here])

                    with self._following(size, steer):
                        yield self._sample([task.position for task in here])[: len(rows)]

        clean = torch.cat(list(_shown(clean_batches(), "clean images (batches)", total, size, show)))
        ablated = list(_shown(ablated_batches(), "ablated images (batches)", len(tasks), size, show))
        by_step = tuple(frozenset(calls[step]) for step in sorted(calls))
        return Resampled(clean, torch.cat(ablated) if ablated else clean[:0], by_step)

    def _sample(self, positions: Sequence[int]) -> Tensor:
        arguments = call_arguments(
            self.pipeline,
            [self.prompts[position] for position in positions],
            seeds=[self.seeds[position] for position in positions],
            **self._asked,
        )
        return torch.from_numpy(run_pipeline(self.pipeline, arguments))

    @contextmanager
    def _following(self, count: int, before: Any, after: Callable[[int], None] | None = None) -> Iterator[None]:
        """Call `before(step, passes of guidance)` ahead of every pass of the denoiser over `count` images.

        `after(step)` is called behind each step.
        """
        noised, step, seen = noised_argument(self.module), 0, 0

        def before_pass(arguments: dict[str, Any]) -> None:
            nonlocal seen
            rows = len(arguments[noised])
            if rows % count:
                raise ModelError(
                    f"{type(self.pipeline).__name__}: its denoiser gets {rows} rows for {count} images; expected as "
                    "many, or a multiple"
                )
            before(step, range(seen, seen + rows // count))
            seen += rows // count

        def after_step(timestep: float, sample: Tensor) -> None:
            nonlocal step, seen
            if after is not None:
                after(step)
            step, seen = step + 1, 0

        with watch_sampling(self.pipeline, before_pass, after_step):
            yield


def _parts(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def _filled(rows: Sequence[int], size: int) -> list[int]:
    return (list(rows) * size)[:size] if len(rows) < size else list(rows)


def _shown(batches: Iterable[Tensor], what: str, count: int, size: int, show: bool) -> Iterable[Tensor]:
    return progress(batches, what, total=-(-count // size), show=show)
