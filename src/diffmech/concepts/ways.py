"""The ways in which images are asked for a concept, and what every kind of concept can be asked.

The images of number i are one person: noise and all else that is told depend on (seed, number) alone, as in galleries,
so that what differs between ways of asking is the concept (the dual prompts of Six-CD, arXiv 2406.14855). Ours.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from diffmech.concepts.edits import Way
from diffmech.concepts.trajectories import Trajectories, sample_trajectories
from diffmech.config.analysis import RuntimeConfig
from diffmech.errors import ConfigError
from diffmech.models.denoiser import Condition, Conditioning, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.models.sampling import sample_images


@dataclass(frozen=True)
class CrossTokens:
    """What cross-attention reads where a concept is asked for, the same without it, and what is to stay as it is: each
    `(token, channel)`."""

    asked: Tensor
    base: Tensor
    kept: Tensor


class Asking(Protocol):
    """One concept of one denoiser, whatever its kind: `n` images of a seed, asked for it in some way."""

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser that is asked."""
        ...

    @property
    def attribute(self) -> str:
        """What a judge looks for."""
        ...

    @property
    def others(self) -> tuple[str, ...]:
        """What else images are told by this concept to have; a judge has to know it, too."""
        ...

    def conditions(self, way: Way, n: int, seed: int, timesteps: Sequence[int]) -> tuple[Conditioning, ...]:
        """Return the condition of `n` passes at each timestep, for objectives."""
        ...

    def trajectories(self, n: int, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig) -> Trajectories:
        """Sample `n` images that are asked for the concept, and keep all points on the way."""
        ...

    def noised(self, images: Tensor, eps: Tensor, timesteps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the ends of trajectories with noise of some timesteps, and what the denoiser should make of them.

        `images` `(image, ...)`; `eps` and both that are returned `(step, image, ...)`.
        """
        ...

    def images(self, way: Way, n: int, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig) -> Tensor:
        """Sample `n` images `(image, channel, y, x)`, from -1 black to 1 white, on the CPU."""
        ...

    def told(self, way: Way, n: int, seed: int, attributes: Sequence[str]) -> np.ndarray:
        """Return whether each of those images is told to have each attribute, `(image, attribute)` booleans."""
        ...

    def cross_tokens(self) -> CrossTokens | None:
        """Return what cross-attention reads, None where it reads nothing that tells the concept."""
        ...


def check_known(label: str, known: Sequence[str], what: str) -> None:
    """Raise ConfigError, with those `known`, for a label that is none of them; `what` says whose it is."""
    if label not in known:
        near = get_close_matches(label, known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{what} {label!r}, only {', '.join(known)}{meant}")


class Conditioned(ABC):
    """What concepts have in common that a denoiser of pixels is told by one condition at all timesteps."""

    denoiser: Denoiser
    attribute: str
    others: tuple[str, ...] = ()

    @abstractmethod
    def condition(self, way: Way, n: int, seed: int) -> Condition:
        """Return the condition of `n` passes of the objectives."""

    def shown(self, way: Way, n: int, seed: int) -> Condition:
        """Return the condition of `n` images that are looked at: by default the same."""
        return self.condition(way, n, seed)

    def conditions(self, way: Way, n: int, seed: int, timesteps: Sequence[int]) -> tuple[Conditioning, ...]:
        """Return the condition of `n` passes at each timestep, for objectives."""
        return (self.condition(way, n, seed),) * len(timesteps)

    def trajectories(self, n: int, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig) -> Trajectories:
        """Sample `n` images that are asked for the concept, and keep all points on the way."""
        told = self.condition("asked", n, seed)
        return sample_trajectories(self.denoiser, told, steps=steps, guidance=guidance, seed=seed, runtime=runtime)

    def noised(self, images: Tensor, eps: Tensor, timesteps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the ends of trajectories with noise of some timesteps, and the noise, which is to be predicted."""
        clean = images.clamp(-1, 1)
        share = torch.from_numpy(self.denoiser.alphas_cumprod[list(timesteps)]).to(clean.dtype)
        share = share[:, None, None, None, None]
        return share.sqrt() * clean + (1 - share).sqrt() * eps, eps

    def images(self, way: Way, n: int, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig) -> Tensor:
        """Sample `n` images `(image, channel, y, x)`, from -1 black to 1 white, on the CPU."""
        told = self.shown(way, n, seed)
        with channels_last(self.denoiser.module):
            found = sample_images(self.denoiser, told, steps=steps, guidance=guidance, seed=seed, runtime=runtime)
        return found.clamp(-1, 1)

    def told(self, way: Way, n: int, seed: int, attributes: Sequence[str]) -> np.ndarray:
        """Return whether each of those images is told to have each attribute, `(image, attribute)` booleans."""
        values, known = self.shown(way, n, seed).values.numpy() > 0.5, self.denoiser.attributes
        nothing = np.zeros(n, dtype=bool)  # a detector may look for what no denoiser is told
        columns = [values[:, known.index(name)] if name in known else nothing for name in attributes]
        return np.stack(columns, axis=1) if columns else np.empty((n, 0), dtype=bool)
