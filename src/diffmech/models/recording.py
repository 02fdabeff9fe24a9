"""Recording what a pipeline hands to its denoiser while it generates images: the sampling trajectory, exactly.

A hook on the denoiser keeps the arguments of every call and the sampler's step tells which call belongs to which
timestep. Nothing of the pipeline is copied or changed, so any pipeline and any sampler of diffusers can be recorded.
Classifier-free guidance (Ho & Salimans 2022) shows as two passes per step, as two halves of one batch or as two calls;
which of them is conditional is found by comparison with one unguided step. Ours.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.errors import ConfigError, ModelError
from diffmech.models.pipelines import COMPONENTS
from diffmech.models.prompted import PromptCondition, flatten, noised_argument

GUIDANCE = ("conditional", "unconditional")
# Positions of tokens: never one row per sample, even where their number happens to be that of the samples.
NEVER_ROWS = ("img_ids", "txt_ids", "image_rotary_emb")
IGNORED = ("return_dict",)
NAMED = 5  # classes in a message; there may be thousands


@dataclass(frozen=True)
class Recording:
    """What was recorded of some samples; branches are the passes of guidance, conditional first.

    images: `(sample, channel, y, x)` in [-1, 1]. clean: `(sample, ...)`, what the sampler ended with. timesteps:
    `(step,)`, the scheduler's. inputs: `(step,)`, what the denoiser was given instead. x_t: `(step, sample, ...)`.
    rows_of: arguments of `(branch, sample, ...)`; shared: the other ones.
    """

    images: np.ndarray
    clean: Tensor
    timesteps: np.ndarray
    inputs: np.ndarray
    timestep_per_row: bool
    x_t: Tensor
    rows_of: dict[str, Tensor]
    shared: dict[str, Tensor]

    @property
    def branches(self) -> tuple[str, ...]:
        """The passes of one step: conditional alone, or with unconditional."""
        count = len(next(iter(self.rows_of.values()))) if self.rows_of else 1
        return GUIDANCE[:count]

    def condition(self, timestep: float) -> PromptCondition:
        """Return what the conditional pass of each sample was given, at a timestep as the denoiser is told it."""
        rows_of = {name: values[0] for name, values in self.rows_of.items()}
        return PromptCondition(rows_of, self.shared, len(self.images), timestep, self.timestep_per_row)


def joined(parts: Sequence[Recording]) -> Recording:
    """Return the recordings of several batches of one pipeline, with equal settings, as one."""
    first = parts[0]
    return replace(
        first,
        images=np.concatenate([part.images for part in parts]),
        clean=torch.cat([part.clean for part in parts]),
        x_t=torch.cat([part.x_t for part in parts], 1),
        rows_of={name: torch.cat([part.rows_of[name] for part in parts], 1) for name in first.rows_of},
    )


@dataclass
class _Step:
    calls: list[dict[str, Any]] = field(default_factory=list)
    timestep: float = 0.0
    sample: Tensor | None = None


def record_sampling(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    negative_prompt: str,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    size: int,
) -> Recording:
    """Generate one image per prompt and return it with everything its denoiser was given on the way.

    `seeds` are those of the initial noise, one per image; `size` is the side of the images in pixels. Raises
    ConfigError for prompts and settings that the pipeline does not take, ModelError for one that cannot be recorded.
    """
    arguments = call_arguments(
        pipeline, prompts, negative_prompt=negative_prompt, seeds=seeds, steps=steps, guidance=guidance, size=size
    )
    images, recorded = _run(pipeline, arguments)
    noised = noised_argument(denoiser_of(pipeline))
    split = [_branches(step.calls, noised, len(prompts), type(pipeline).__name__) for step in recorded]
    if len(split[0]) > 1:
        # one unguided step of one image says which half of the guided ones is conditional
        unguided = {**arguments, "guidance_scale": 1.0, "num_inference_steps": 1}
        first = _run(pipeline, {**unguided, "output_type": "latent"} if not takes_classes(pipeline) else unguided)[1][0]
        alone = _branches(first.calls, noised, len(prompts), type(pipeline).__name__)
        order = _conditional_first(split[0], alone[0], noised, type(pipeline).__name__)
        split = [[branches[index] for index in order] for branches in split]
    given, timesteps = split[0], np.array([step.timestep for step in recorded])
    inputs = [branches[0]["timestep"].flatten()[0].item() for branches in split]
    varying = {noised, "timestep"}
    names = [name for name in given[0] if name not in varying]
    for branches in split[1:]:
        changed = [name for name in names if not torch.equal(branches[0][name], given[0][name])]
        if changed:
            raise ModelError(
                f"{type(pipeline).__name__}: its argument {changed[0]} changes from step to step, which cannot be "
                "stored; watch such a pipeline with AttentionTap directly"
            )
    has_rows = {name: _has_rows(name, given[0][name], len(prompts)) for name in names}
    last = recorded[-1].sample
    assert last is not None
    return Recording(
        images=images,
        clean=last[: len(prompts)].cpu(),
        timesteps=timesteps,
        inputs=np.array(inputs, dtype=np.float64),
        timestep_per_row=given[0]["timestep"].dim() > 0,
        x_t=torch.stack([branches[0][noised] for branches in split]),
        rows_of={name: torch.stack([part[name] for part in given]) for name in names if has_rows[name]},
        shared={name: given[0][name] for name in names if not has_rows[name]},
    )


def denoiser_of(pipeline: Any) -> torch.nn.Module:
    """Return the pipeline's denoiser. Raises ModelError where it has none."""
    for name in COMPONENTS:
        module = getattr(pipeline, name, None)
        if isinstance(module, torch.nn.Module):
            return module
    raise ModelError(f"{type(pipeline).__name__} has neither {' nor '.join(COMPONENTS)}")


def call_arguments(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    negative_prompt: str,
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    size: int,
) -> dict[str, Any]:
    """Return the arguments of the pipeline's call, among those it knows. Raises ConfigError for unknown classes."""
    known = inspect.signature(type(pipeline).__call__).parameters
    if not {"prompt", "class_labels"} & set(known):
        raise ModelError(f"{type(pipeline).__name__} takes neither prompts nor classes; expected one that does")
    wanted: dict[str, Any] = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "height": size,
        "width": size,
        "output_type": "np",
        "use_resolution_binning": False,
        "clean_caption": False,
    }
    if "class_labels" in known:
        wanted["class_labels"] = [class_number(pipeline, prompt) for prompt in prompts]
    else:
        wanted["prompt"] = list(prompts)
        if guidance > 1:
            wanted["negative_prompt"] = [negative_prompt] * len(prompts)
    return {name: value for name, value in wanted.items() if name in known}


def takes_classes(pipeline: Any) -> bool:
    """Return whether a pipeline is asked for classes and not for texts."""
    return "class_labels" in inspect.signature(type(pipeline).__call__).parameters


def class_number(pipeline: Any, prompt: str, *, where: str = "prompts") -> int:
    """Return the class that `prompt` names, by number or by a name the pipeline knows; no words are the null class.

    Raises ConfigError for a class that it does not know.
    """
    labels = getattr(pipeline, "labels", None) or {}
    if prompt in labels:
        return int(labels[prompt])
    network: Any = denoiser_of(pipeline)
    count = int(network.config["num_embeds_ada_norm"])
    if not prompt:  # what guidance calls the unconditional pass with
        return count
    if not prompt.isdigit() or int(prompt) >= count:
        near = get_close_matches(prompt, labels, n=NAMED) or list(labels)[:NAMED]
        raise ConfigError(
            f"{where}: {prompt!r} is no class of {type(pipeline).__name__}; give a number below {count}"
            + (f" or one of its {len(labels)} names, such as {', '.join(near)}" if labels else "")
        )
    return int(prompt)


def _run(pipeline: Any, arguments: dict[str, Any]) -> tuple[np.ndarray, list[_Step]]:
    with _recording(pipeline) as steps:
        images = run_pipeline(pipeline, arguments)
    if not steps or not steps[-1].calls:
        raise ModelError(
            f"{type(pipeline).__name__} never called its denoiser through its sampler; watch such a pipeline with "
            "AttentionTap directly"
        )
    return images, steps


def run_pipeline(pipeline: Any, arguments: dict[str, Any]) -> np.ndarray:
    """Return the images `(sample, channel, y, x)` in [-1, 1] of one call with `call_arguments`. Raises ModelError."""
    with torch.no_grad():
        # generators are used up by a run, so each run gets them fresh
        fresh = [torch.Generator().manual_seed(each.initial_seed()) for each in arguments["generator"]]
        result = pipeline(**{**arguments, "generator": fresh})
    if not hasattr(result, "images"):
        raise ModelError(f"{type(pipeline).__name__} does not generate images; watch it with AttentionTap directly")
    images = np.asarray(result.images.cpu() if isinstance(result.images, Tensor) else result.images, dtype=np.float32)
    return np.moveaxis(images, -1, 1) * 2 - 1


def check_finite(pipeline: Any, *arrays: np.ndarray) -> None:
    """Raise ModelError where images or latents that `pipeline` generated are none, as by an overflow of float16."""
    if not all(np.isfinite(values).all() for values in arrays):
        raise ModelError(
            f"{type(pipeline).__name__}: generated images are NaN or infinite; give models.<name>.dtype float32 or "
            "bfloat16, or another sampling.scheduler"
        )


@contextmanager
def watch_sampling(
    pipeline: Any, before_pass: Callable[[dict[str, Any]], None], after_step: Callable[[float, Tensor], None]
) -> Iterator[None]:
    """Call `before_pass` with the arguments of every pass of the denoiser, and `after_step` behind every step of the
    sampler with the timestep that it left and what it came to. Everything is put back afterwards."""
    module, scheduler = denoiser_of(pipeline), pipeline.scheduler
    signature = inspect.signature(module.forward)

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before_pass(signature.bind(*args, **kwargs).arguments)

    original = scheduler.step

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        named = inspect.signature(original).bind(*args, **kwargs).arguments
        after_step(float(named["timestep"]), result[0] if isinstance(result, tuple) else result.prev_sample)
        return result

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    scheduler.step = step
    try:
        yield
    finally:
        handle.remove()
        del scheduler.step


@contextmanager
def _recording(pipeline: Any) -> Iterator[list[_Step]]:
    """Keep the denoiser's arguments by sampling step."""
    steps: list[_Step] = []
    current = _Step()

    def before_pass(arguments: dict[str, Any]) -> None:
        bound = flatten(arguments)
        current.calls.append({name: _kept(name, value, pipeline) for name, value in bound.items() if _kept_name(name)})

    def after_step(timestep: float, sample: Tensor) -> None:
        nonlocal current
        current.timestep, current.sample = timestep, sample
        if current.calls:
            steps.append(current)
        current = _Step()

    with watch_sampling(pipeline, before_pass, after_step):
        yield steps


def _kept_name(name: str) -> bool:
    return name not in IGNORED


def _kept(name: str, value: Any, pipeline: Any) -> Tensor:
    if isinstance(value, bool | int | float):
        value = torch.tensor(value)
    if not isinstance(value, Tensor):
        raise ModelError(
            f"{type(pipeline).__name__}: its denoiser is given {name} = {value!r}, which cannot be stored; "
            "watch such a pipeline with AttentionTap directly"
        )
    # halves of precision are exact in float32
    return (value.float() if value.is_floating_point() else value).detach().cpu().clone()


def _branches(calls: Sequence[Mapping[str, Tensor]], noised: str, count: int, name: str) -> list[dict[str, Tensor]]:
    """Return the arguments of each pass of one step, every one with a row per sample."""
    branches: list[dict[str, Tensor]] = []
    for call in calls:
        rows = len(call[noised])
        if rows not in (count, 2 * count):
            raise ModelError(
                f"{name}: its denoiser gets {rows} rows for {count} images; expected as many, or twice as many with "
                "guidance; watch such a pipeline with AttentionTap directly"
            )
        for start in range(0, rows, count):
            part = slice(start, start + count)
            branches.append({key: value[part] if _has_rows(key, value, rows) else value for key, value in call.items()})
    if len(branches) > len(GUIDANCE):
        raise ModelError(
            f"{name}: {len(branches)} passes per sampling step, expected one, or two with guidance; "
            "use a first-order sampler and plain guidance"
        )
    return branches


def _has_rows(name: str, value: Tensor, rows: int) -> bool:
    return not name.startswith(NEVER_ROWS) and value.dim() > 0 and len(value) == rows


def _conditional_first(
    branches: Sequence[Mapping[str, Tensor]], alone: Mapping[str, Tensor], noised: str, name: str
) -> list[int]:
    """Return the order of two branches in which the one that equals the unguided pass comes first."""
    compared = [key for key in alone if key not in (noised, "timestep")]
    same = [all(torch.allclose(branch[key], alone[key], atol=1e-4) for key in compared) for branch in branches]
    if same.count(True) == 1:
        return [same.index(True), same.index(False)]
    if all(same):  # the negative prompt is the prompt
        return [0, 1]
    raise ModelError(f"{name}: which pass of guidance is conditional cannot be told; sample it with guidance 1")
