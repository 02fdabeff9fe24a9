"""The denoising passes that interventions replay: stored noised images, read by timestep and sample id."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from diffmech.attention.passes import Latents, conditioned, given_at, join_given, nearest_timesteps, open_latents
from diffmech.errors import StoreError
from diffmech.models.denoiser import Conditioning


@dataclass(frozen=True)
class Passes:
    """Some samples at one timestep: x_t is as the denoiser takes it, `samples` their ids.

    `noise`, in the shape of x_t, is what should be predicted, None on a sampling trajectory. Of a guided pass this is
    the conditional one.
    """

    timestep: int
    samples: tuple[int, ...]
    x_t: Float[Tensor, "sample *shape"]
    noise: Float[Tensor, "sample *shape"] | None
    condition: Conditioning

    def __len__(self) -> int:
        return len(self.samples)

    def rows(self, chosen: Int[Tensor, "row"]) -> "Passes":
        """Return the passes at positions `chosen`, which may repeat."""
        ids = tuple(self.samples[row] for row in chosen.tolist())
        noise = None if self.noise is None else self.noise[chosen]
        return Passes(self.timestep, ids, self.x_t[chosen], noise, self.condition.rows(chosen))


@dataclass(frozen=True)
class LatentFiles:
    """Latents stores of one data set, any blocks of timesteps and any shards of samples, as one."""

    files: tuple[Latents, ...]

    @property
    def timesteps(self) -> list[int]:
        """All timesteps, ascending."""
        return sorted({int(t) for file in self.files for t in file.timesteps})

    @property
    def samples(self) -> list[int]:
        """All sample ids, ascending."""
        return sorted({int(i) for file in self.files for i in file.samples})

    @property
    def domain(self) -> str:
        """The domain of the images. Raises StoreError where the stores do not say, or are of two."""
        found = {str(file.attrs.get("domain", "")): file.path for file in self.files}
        if len(found) != 1 or "" in found:
            what = " and ".join(f"{name or 'no domain'} ({path})" for name, path in sorted(found.items()))
            raise StoreError(f"the latents are of {what}; give stores of one domain, made anew where they name none")
        return next(iter(found))

    @property
    def on_trajectory(self) -> bool:
        """Whether these are steps of a sampling trajectory, for which no noise is known."""
        return any(file.noise is None for file in self.files)

    def nearest(self, timesteps: Sequence[int]) -> list[int]:
        """Return the stored timesteps meant by `timesteps`: on a trajectory, the nearest sampling steps."""
        return nearest_timesteps(timesteps, np.array(self.timesteps)) if self.on_trajectory else list(timesteps)

    def read(self, timestep: int, samples: Sequence[int], device: torch.device | str = "cpu") -> Passes:
        """Return `samples` at `timestep`, in that order. Raises StoreError naming what no file holds."""
        position: dict[int, int] = {}
        x_t, noise, given = list[np.ndarray](), list[np.ndarray](), list[xr.Dataset]()
        for file in self.files:
            if timestep not in file.timesteps:
                continue
            rows = np.flatnonzero(np.isin(file.samples, list(samples)))
            if not len(rows):
                continue
            column = int(np.flatnonzero(file.timesteps == timestep)[0])
            x_t.append(file.x_t[rows, column].values)
            if file.noise is not None:
                noise.append(file.noise[rows, column].values)
            given.append(given_at(file.given, timestep).isel(sample=rows))
            position |= {int(file.samples[row]): len(position) + index for index, row in enumerate(rows)}
        missing = [sample for sample in samples if sample not in position]
        if missing:
            raise StoreError(
                f"sample {missing[0]} at timestep {timestep} is in none of the {len(self.files)} latents stores "
                f"({', '.join(str(file.path) for file in self.files[:2])} ...); give all blocks and shards"
            )
        order = torch.tensor([position[sample] for sample in samples])
        joined = join_given(given, "sample")
        return Passes(
            timestep,
            tuple(samples),
            _joined(x_t, order, device),
            _joined(noise, order, device) if noise else None,
            conditioned(joined, self.files[0].attrs, "cpu").rows(order).to(device),
        )


def open_latent_files(paths: Sequence[Path | str]) -> LatentFiles:
    """Open latents stores. Raises StoreError where one is missing or broken, or where none is given."""
    if not paths:
        raise StoreError("no latents store is given; at least one is needed")
    return LatentFiles(tuple(open_latents(path) for path in paths))


def _joined(parts: Sequence[np.ndarray], order: Tensor, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)[order.to(device)]
