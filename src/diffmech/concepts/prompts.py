"""Concepts that are words to a pipeline: a prompt, or a class of a pipeline of classes. Ours.

The pipeline samples by itself, with its own loop and guidance, by the very network that edits change. What that was
given on the way is recorded, as in the main study: the points of trajectories are inputs of its passes, and objectives
repeat the conditional ones, with the arguments of other prompts. Images of number i have the i-th prompt in turn and
noise from (seed, i) alone, so that those of the same seed differ in the words alone.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.artifacts import progress
from diffmech.attention.generated import noised
from diffmech.attention.latents import alphas_cumprod
from diffmech.concepts.edits import Way
from diffmech.concepts.groups import weights
from diffmech.concepts.trajectories import Trajectories
from diffmech.concepts.ways import CrossTokens
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.concepts import PromptConcept, listed
from diffmech.data.prompts import prompt_of
from diffmech.models.denoiser import Conditioning
from diffmech.models.pipelines import described, is_flow, prediction_type
from diffmech.models.prompt_tokens import check_lengths
from diffmech.models.prompted import PromptedDenoiser
from diffmech.models.recording import (
    Recording,
    call_arguments,
    check_finite,
    class_number,
    joined,
    record_sampling,
    run_pipeline,
    takes_classes,
)
from diffmech.randomness import generator

TEXT = "encoder_hidden_states"


class PromptAsking:
    """The prompts that ask for a concept, those of the same images without it, and those that ask weakly.

    Images without it are asked for the other things that the concept names, in turn, so that they show what else an
    edit takes away; where it names none, they have the base prompts.
    """

    def __init__(self, denoiser: PromptedDenoiser, pipeline: Any, concept: PromptConcept, name: str) -> None:
        """`pipeline` samples by the network of `denoiser`. Raises ConfigError for prompts that it does not take."""
        self.denoiser, self.pipeline, self.concept, self.attribute = denoiser, pipeline, concept, concept.seen(name)
        self._recorded: Recording | None = None
        self._guidance = 1.0
        self.others = tuple(concept.others)
        self._others = [listed(words) for words in concept.others.values()]
        every = [*concept.prompts("asked"), *concept.prompts("base"), *concept.prompts("weak")]
        every += chain.from_iterable(self._others)
        if takes_classes(pipeline):
            for prompt in every:
                class_number(pipeline, prompt, where=f"concepts.concepts.{name}")
        else:
            check_lengths(pipeline, [*every, concept.negative])

    def trajectories(self, n: int, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig) -> Trajectories:
        """Sample `n` images that are asked for the concept; `images` are what the denoiser ends with, not decoded."""
        found = self._record(self._prompts("asked", n), steps=steps, guidance=guidance, seed=seed, runtime=runtime)
        self._recorded, self._guidance = found, guidance
        return Trajectories(found.x_t, _labels(found), found.clean, len(found.timesteps))

    def conditions(self, way: Way, n: int, seed: int, timesteps: Sequence[int]) -> tuple[Conditioning, ...]:
        """Return the arguments of `n` passes at some timesteps of the trajectories, which are sampled before."""
        recorded = self._trajectory()
        told = recorded if way == "asked" else self._arguments(self._prompts(way, n), self._guidance)
        inputs = dict(zip(_labels(recorded), recorded.inputs.tolist(), strict=True))
        return tuple(told.condition(inputs[timestep]) for timestep in timesteps)

    def noised(self, images: Tensor, eps: Tensor, timesteps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return latents noised to timesteps of the trajectories, and what should be predicted of them.

        `images` `(image, ...)`, `eps` and what is returned `(step, image, ...)`.
        """
        recorded, scheduler = self._trajectory(), described(self.pipeline.scheduler)
        exact = dict(zip(_labels(recorded), recorded.timesteps.tolist(), strict=True))
        alphas = None if is_flow(scheduler) else alphas_cumprod(dict(self.denoiser.scheduler))
        target, steps, pairs = prediction_type(scheduler), self.denoiser.timesteps, []
        for timestep, own in zip(timesteps, eps.numpy(), strict=True):
            at: Any = exact[timestep] if alphas is None else timestep
            pairs.append(noised(images.float().numpy(), own, at, alphas=alphas, target=target, steps=steps))
        x_t, targets = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        return x_t, targets

    def images(self, way: Way, n: int, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig) -> Tensor:
        """Sample and decode `n` images `(image, channel, y, x)`, from -1 black to 1 white, on the CPU.

        Raises ModelError for images that are NaN.
        """

        def sampled(prompts: Sequence[str], settings: dict[str, Any]) -> np.ndarray:
            return run_pipeline(self.pipeline, call_arguments(self.pipeline, prompts, **settings))

        prompts = self._shown(way, n)
        parts = self._batches(prompts, sampled, steps=steps, guidance=guidance, seed=seed, runtime=runtime)
        check_finite(self.pipeline, *parts)
        return torch.from_numpy(np.concatenate(parts)).clamp(-1, 1)

    def told(self, way: Way, n: int, seed: int, attributes: Sequence[str]) -> np.ndarray:
        """Return whether each of those images is told to have each attribute, `(image, attribute)` booleans."""
        names = {"asked": [self.attribute], "weak": [], "base": list(self.others)}[way]
        return np.array([[bool(names) and name == names[i % len(names)] for name in attributes] for i in range(n)])

    def cross_tokens(self) -> CrossTokens | None:
        """Return the tokens of the prompts place by place; those of all else that is asked for, and of none, are kept.

        None where values of cross-attention are not made of the text as it is encoded.
        """
        widths = {weight.parameter.shape[1] for weight in weights(self.denoiser) if weight.group == "cross_value"}
        if not widths or getattr(self.denoiser.module, "caption_projection", None) is not None:
            return None
        asked = self.concept.prompts("asked")
        kept = [*self.concept.prompts("base"), "", *chain.from_iterable(self._others)]
        told = (asked, self.concept.prompts("base"), kept)
        read = [self._arguments(prompts, 1.0).rows_of.get(TEXT) for prompts in told]
        if any(each is None or {each.shape[-1]} != widths for each in read):
            return None
        device = self.denoiser.device
        return CrossTokens(*(each[0].flatten(0, 1).to(device) for each in read if each is not None))

    def _prompts(self, way: Way, n: int) -> list[str]:
        prompts = self.concept.prompts(way)
        return [prompt_of(prompts, number) for number in range(n)]

    def _shown(self, way: Way, n: int) -> list[str]:
        """Return the prompts of images that are looked at."""
        count = len(self._others)
        if way != "base" or not count:
            return self._prompts(way, n)
        return [prompt_of(self._others[number % count], number // count) for number in range(n)]

    def _trajectory(self) -> Recording:
        if self._recorded is None:
            raise ValueError("no trajectories were sampled yet, and it is these whose timesteps are asked for")
        return self._recorded

    def _arguments(self, prompts: Sequence[str], guidance: float) -> Recording:
        """Return what the denoiser is given for some prompts: one step of any noise tells it."""
        runtime = RuntimeConfig(batch_size=len(prompts), progress=False)
        return self._record(prompts, steps=1, guidance=guidance, seed=0, runtime=runtime)

    def _record(
        self, prompts: Sequence[str], *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig
    ) -> Recording:
        def recorded(part: Sequence[str], settings: dict[str, Any]) -> Recording:
            return record_sampling(self.pipeline, part, **settings)

        parts = self._batches(prompts, recorded, steps=steps, guidance=guidance, seed=seed, runtime=runtime)
        check_finite(self.pipeline, *(part.clean.numpy() for part in parts))
        return joined(parts)

    def _batches(
        self,
        prompts: Sequence[str],
        work: Callable[[Sequence[str], dict[str, Any]], Any],
        *,
        steps: int,
        guidance: float,
        seed: int,
        runtime: RuntimeConfig,
    ) -> list[Any]:
        settings = {
            "negative_prompt": self.concept.negative,
            "steps": steps,
            "guidance": guidance,
            "size": self.denoiser.sample_shape[-1],
        }
        seeds = [int(generator(seed, "sampling", number).integers(2**63)) for number in range(len(prompts))]
        starts = range(0, len(prompts), runtime.batch_size)
        rows = [slice(start, start + runtime.batch_size) for start in starts]
        shown = progress(rows, "sampling (batches)", total=len(rows), show=runtime.progress)
        return [work(prompts[part], settings | {"seeds": seeds[part]}) for part in shown]


def _labels(recorded: Recording) -> tuple[int, ...]:
    return tuple(int(timestep) for timestep in np.rint(recorded.timesteps))
