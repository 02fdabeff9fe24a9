"""Denoisers of text- or class-conditioned pipelines, and what one pass of them is given.

A pass is stored as the very arguments that the pipeline handed to its denoiser, so that it can be repeated bit for bit
without the pipeline, its text encoders or its sampling loop: this works for any denoiser that diffusers has. Ours.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffmech.models.denoiser import Conditioning, Denoiser

# Arguments are stored flat: `added_cond_kwargs.text_embeds`, `image_rotary_emb.0`.
SEPARATOR = "."
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PromptCondition:
    """What passes are conditioned on: arguments of the denoiser's forward, by their flat names.

    `rows_of` are those that have a row per sample, `(sample, ...)`; `shared` are the same for all. `timestep` is the
    exact number the denoiser is given, which may differ from the scheduler's integer; `timestep_per_row` says whether
    as a vector.
    """

    rows_of: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    count: int
    timestep: float
    timestep_per_row: bool

    def __len__(self) -> int:
        return self.count

    def rows(self, chosen: slice | Tensor) -> Self:
        """Return the condition of some of the samples."""
        count = len(range(self.count)[chosen]) if isinstance(chosen, slice) else len(chosen)
        some = {name: values[chosen] for name, values in self.rows_of.items()}
        return type(self)(some, self.shared, count, self.timestep, self.timestep_per_row)

    def to(self, device: torch.device | str) -> Self:
        """Return the condition on another device."""
        rows_of, shared = (
            {name: values.to(device) for name, values in part.items()} for part in (self.rows_of, self.shared)
        )
        return type(self)(rows_of, shared, self.count, self.timestep, self.timestep_per_row)


@dataclass(frozen=True)
class PromptedDenoiser(Denoiser):
    """The denoiser of a pipeline. `sample_shape` is that of the generated images, `(channel, y, x)` in pixels.

    `scheduler` is the config of the pipeline's own, `sample_argument` the forward's name of the noised input.
    """

    scheduler: Mapping[str, Any]  # type: ignore[assignment]
    sample_argument: str = "sample"

    @property
    def timesteps(self) -> int:
        """The number of timesteps of the diffusion."""
        return int(self.scheduler.get("num_train_timesteps", 1000))

    def predict_noise(self, x_t: Tensor, timestep: int | Tensor, condition: Conditioning | None = None) -> Tensor:
        """Return what the network predicts for `x_t`, in its shape: noise, v or velocity, as it was trained.

        `x_t` is in the space the network works in (latents, packed latents). The condition carries the exact timestep.
        """
        if not isinstance(condition, PromptCondition):
            raise ValueError(f"a pipeline's denoiser needs the arguments its pipeline gives it, found {condition!r}")
        dtype = next(self.module.parameters()).dtype
        step = torch.tensor(condition.timestep, device=x_t.device)
        named = {**condition.rows_of, **condition.shared}
        arguments = unflatten({name: _as(values, dtype) for name, values in named.items()})
        output = self.module(
            **{self.sample_argument: x_t.to(dtype)},
            timestep=step.expand(len(x_t)) if condition.timestep_per_row else step,
            **arguments,
            return_dict=False,
        )[0]
        # networks that also predict the variance put it in further channels
        return output[:, : x_t.shape[1]].to(x_t.dtype)


def flatten(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and sequences as one flat mapping, None left out; `unflatten` undoes it."""
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}{SEPARATOR}")
        elif isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            flat |= flatten({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}{SEPARATOR}")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested arguments behind flat names; numbered parts become tuples."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        first, _, rest = name.partition(SEPARATOR)
        if rest:
            nested.setdefault(first, {})[rest] = value
        else:
            nested[first] = value
    return {name: _numbered(unflatten(value)) if isinstance(value, dict) else value for name, value in nested.items()}


def _numbered(parts: dict[str, Any]) -> Any:
    return tuple(parts[key] for key in sorted(parts, key=int)) if all(key.isdigit() for key in parts) else parts


def _as(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype) if values.is_floating_point() else values


def noised_argument(module: nn.Module) -> str:
    """Return the name of the forward's first argument, the noised input."""
    return next(iter(inspect.signature(module.forward).parameters))
