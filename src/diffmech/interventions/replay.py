"""The denoising passes that interventions replay: stored noised images, read by timestep and sample id."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffmech.attention.passes import Latents, open_latents
from diffmech.errors import StoreError
from diffmech.models.denoiser import Condition


@dataclass(frozen=True)
class Passes:
    """Some images at one timestep: x_t and noise are (sample, channel, y, x), `samples` their ids."""

    timestep: int
    samples: tuple[int, ...]
    x_t: Tensor
    noise: Tensor
    condition: Condition

    def __len__(self) -> int:
        return len(self.samples)

    def rows(self, chosen: Tensor) -> "Passes":
        """Return the passes at positions `chosen`, which may repeat."""
        ids = tuple(self.samples[row] for row in chosen.tolist())
        condition = Condition(self.condition.domain[chosen], self.condition.values[chosen])
        return Passes(self.timestep, ids, self.x_t[chosen], self.noise[chosen], condition)


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

    def read(self, timestep: int, samples: Sequence[int], device: torch.device | str = "cpu") -> Passes:
        """Return `samples` at `timestep`, in that order. Raises StoreError naming what no file holds."""
        found: dict[int, tuple[np.ndarray, np.ndarray, int, np.ndarray]] = {}
        for file in self.files:
            if timestep not in file.timesteps:
                continue
            column = int(np.flatnonzero(file.timesteps == timestep)[0])
            rows = np.flatnonzero(np.isin(file.samples, list(samples)))
            if not len(rows):
                continue
            x_t, noise = file.x_t[rows, column].values, file.noise[rows, column].values
            for position, row in enumerate(rows):
                sample = int(file.samples[row])
                found[sample] = (x_t[position], noise[position], int(file.domain[row]), file.condition[row])
        missing = [sample for sample in samples if sample not in found]
        if missing:
            raise StoreError(
                f"sample {missing[0]} at timestep {timestep} is in none of the {len(self.files)} latents stores "
                f"({', '.join(str(file.path) for file in self.files[:2])} ...); give all blocks and shards"
            )
        chosen = [found[sample] for sample in samples]
        x_t, noise, domain, values = (np.stack([np.asarray(item[k]) for item in chosen]) for k in range(4))
        condition = Condition(torch.from_numpy(domain), torch.from_numpy(values)).to(device)
        return Passes(
            timestep, tuple(samples), torch.from_numpy(x_t).to(device), torch.from_numpy(noise).to(device), condition
        )


def open_latent_files(paths: Sequence[Path | str]) -> LatentFiles:
    """Open latents stores. Raises StoreError where one is missing or broken, or where none is given."""
    if not paths:
        raise StoreError("no latents store is given; at least one is needed")
    return LatentFiles(tuple(open_latents(path) for path in paths))
