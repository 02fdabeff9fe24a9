"""Reading the stored latents: which passes of the denoiser there are, and what each is given.

Apart from `latents` and `generated`, which make them, so that what replays passes does not depend on the code that
reads data sets or runs pipelines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int

from diffmech.artifacts import open_store
from diffmech.attention.layout import Prompted
from diffmech.errors import ConfigError, StoreError
from diffmech.models.denoiser import Condition, Conditioning
from diffmech.models.prompted import PromptCondition

# Arguments of a pipeline's denoiser in the store: those with a row per sample and branch of guidance, and the others.
ROWS, SHARED = "rows:", "shared:"
TIMESTEP_INPUT = "timestep_input"


@dataclass(frozen=True)
class Latents:
    """An open latents store. `x_t` and `noise` (sample, timestep, ...) are read where they are indexed.

    `noise` is what the denoiser should predict, None on a sampling trajectory, where nobody knows. `given` holds the
    conditioning: domain (sample) and condition (sample, attribute), or the arguments of a pipeline's denoiser.
    """

    path: Path
    samples: Int[np.ndarray, "sample"]
    timesteps: Int[np.ndarray, "timestep"]
    x_t: xr.DataArray
    noise: xr.DataArray | None
    given: xr.Dataset
    attrs: dict[str, Any]

    @property
    def prompts(self) -> Prompted | None:
        """The texts behind the samples, None where there are none."""
        if "prompt" not in self.given.coords:
            return None
        tokens = self.given["token"].values if "token" in self.given.coords else None
        return Prompted([str(prompt) for prompt in self.given["prompt"].values], tokens)

    @property
    def guidance(self) -> tuple[str, ...]:
        """The passes that classifier-free guidance makes of one, conditional first; empty where there is but one."""
        return tuple(map(str, self.given["guidance"].values)) if "guidance" in self.given.dims else ()

    def condition(self, rows: slice, column: int, device: torch.device | str, branch: int = 0) -> Conditioning:
        """Return what some samples are conditioned on at the timestep in `column`, in one branch of the guidance."""
        return conditioned(
            given_at(self.given, int(self.timesteps[column])).isel(sample=rows), self.attrs, device, branch
        )

    def nearest(self, timesteps: Sequence[int]) -> list[int]:
        """Return the stored timesteps that are meant by `timesteps`: on a trajectory, the nearest sampling steps."""
        if self.noise is not None:
            return list(timesteps)
        return nearest_timesteps(timesteps, self.timesteps)


def nearest_timesteps(wanted: Sequence[int], there: Int[np.ndarray, "timestep"]) -> list[int]:
    """Return, for each wanted timestep, the nearest of those `there`. Raises ConfigError where two fall on one."""
    chosen = [int(there[np.abs(there - timestep).argmin()]) for timestep in wanted]
    for index in range(1, len(chosen)):
        if chosen[index] in chosen[:index]:
            first = wanted[chosen.index(chosen[index])]
            raise ConfigError(
                f"capture.timesteps: {first} and {wanted[index]} both fall on the sampling step at timestep "
                f"{chosen[index]} (there are {len(there)} steps); give fewer timesteps, or more sampling.steps"
            )
    return chosen


def given_at(given: xr.Dataset, timestep: int) -> xr.Dataset:
    """Return the conditioning at one timestep."""
    return given.sel(timestep=timestep) if "timestep" in given.dims else given


def join_given(parts: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    """Return the conditioning of several stores joined along `dim`."""
    if len(parts) == 1:
        return parts[0]
    return xr.concat(parts, dim, data_vars="minimal", coords="minimal", compat="override", join="exact")


def conditioned(given: xr.Dataset, attrs: dict[str, Any], device: torch.device | str, branch: int = 0) -> Conditioning:
    """Return the conditioning (sample, ...) of one timestep as tensors; `attrs` are those of the latents store."""
    if TIMESTEP_INPUT not in given:
        return Condition(_tensor(given["domain"]), _tensor(given["condition"])).to(device)
    rows_of, shared = {}, {}
    for name, values in given.data_vars.items():
        if str(name).startswith(ROWS):
            rows_of[str(name).removeprefix(ROWS)] = _tensor(values.isel(guidance=branch))
        elif str(name).startswith(SHARED):
            shared[str(name).removeprefix(SHARED)] = _tensor(values)
    return PromptCondition(
        rows_of,
        shared,
        given.sizes["sample"],
        timestep=float(given[TIMESTEP_INPUT]),
        timestep_per_row=bool(attrs["timestep_per_row"]),
    ).to(device)


def open_latents(path: Path | str) -> Latents:
    """Open a latents store; only its small arrays are read. Raises StoreError where it is missing or broken."""
    store = open_store(path).to_dataset()
    named = [str(name) for name in store.data_vars if str(name).startswith((ROWS, SHARED))]
    needed = ["domain", "condition"] if TIMESTEP_INPUT not in store else [TIMESTEP_INPUT, *named]
    missing = [name for name in ("x_t", *needed) if name not in store]
    if missing:
        raise StoreError(f"{path}: is not a latents store, it lacks {', '.join(missing)}; give results/latents/...")
    return Latents(
        path=Path(path),
        samples=store["sample"].values,
        timesteps=store["timestep"].values,
        x_t=store["x_t"],
        noise=store.data_vars.get("noise"),
        given=store[needed].load(),
        attrs=store.attrs,
    )


def _tensor(values: xr.DataArray) -> torch.Tensor:
    return torch.from_numpy(np.array(values.values))
