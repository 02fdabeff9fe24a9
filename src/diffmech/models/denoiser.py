"""One interface to every denoiser that can be studied: images and a condition in, the predicted noise out.

Networks that predict v (Salimans & Ho 2022) or the clean image are brought to the noise by the identities
eps = sqrt(abar) v + sqrt(1 - abar) x_t and eps = (x_t - sqrt(abar) x_0) / sqrt(1 - abar).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from diffmech.errors import ModelError
from diffmech.models.classes import class_labels
from diffmech.models.tokens import AttributeTokens

# So many tokens more than a grid has are taken for a class token or registers in the error about them.
MOST_EXTRA_TOKENS = 16


@runtime_checkable
class Conditioning(Protocol):
    """What some passes are conditioned on, one row per sample."""

    def __len__(self) -> int: ...

    def rows(self, chosen: slice | Tensor) -> Self:
        """Return the condition of some of the samples."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Return the condition on another device."""
        ...


@dataclass(frozen=True)
class Condition:
    """What images are conditioned on: `domain` `(sample,)`, -1 unknown; `values` `(sample, attribute)`, NaN unknown."""

    domain: Tensor
    values: Tensor

    @classmethod
    def null(cls, n: int, attributes: int) -> "Condition":
        """Return the condition that says nothing, for `n` images."""
        return cls(torch.full((n,), -1, dtype=torch.long), torch.full((n, attributes), torch.nan))

    def __len__(self) -> int:
        return len(self.domain)

    def null_like(self, n: int | None = None) -> "Condition":
        """Return the condition that says nothing, for as many images as this one or for `n`."""
        return Condition.null(len(self) if n is None else n, self.values.shape[1]).to(self.domain.device)

    def rows(self, chosen: slice | Tensor) -> Self:
        """Return the condition of some of the images."""
        return type(self)(self.domain[chosen], self.values[chosen])

    def joined(self, other: "Condition") -> "Condition":
        """Return the condition of these images followed by the other ones."""
        return Condition(torch.cat([self.domain, other.domain]), torch.cat([self.values, other.values]))

    def to(self, device: torch.device | str) -> Self:
        """Return the condition on another device."""
        return type(self)(self.domain.to(device), self.values.to(device))


# Calls a network: x_t (sample, channel, y, x), timesteps (sample,), condition -> output, shaped like x_t.
Forward = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class Denoiser:
    """A denoiser in evaluation mode: `module` is the network that attention is observed in.

    `classes` says that its attributes are classes, of which an image has one. `forward` calls it where it is not called
    as the U-Nets of diffusers are.
    """

    module: nn.Module
    scheduler: DDPMScheduler
    sample_shape: tuple[int, int, int]
    tokens: AttributeTokens | None = None
    attributes: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    forward: Forward | None = None
    classes: bool = False

    @property
    def conditional(self) -> bool:
        """Whether the network reads the condition."""
        return self.tokens is not None or bool(self.attributes or self.domains)

    @property
    def token_names(self) -> tuple[str, ...]:
        """The names of the conditioning tokens, in order; empty for an unconditional network."""
        return () if self.tokens is None else ("domain", *self.attributes)

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """abar `(timestep,)`: the share of the image's variance that is left in x_t."""
        return np.asarray(self.scheduler.alphas_cumprod.cpu().numpy(), dtype=np.float64)

    @property
    def timesteps(self) -> int:
        """The number of timesteps of the diffusion."""
        return int(self.scheduler.config["num_train_timesteps"])

    @property
    def prediction_type(self) -> str:
        """What the network itself predicts: `epsilon`, `v_prediction` or `sample`."""
        return str(self.scheduler.config["prediction_type"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def predict_noise(self, x_t: Tensor, timestep: int | Tensor, condition: Conditioning | None = None) -> Tensor:
        """Return the predicted noise `(sample, channel, y, x)` in `x_t`, which has that shape too.

        `timestep` is one integer for all images, or `(sample,)`. `condition` None says nothing about the images.
        Gradients flow where the caller allows them.
        """
        steps = self._steps(timestep, x_t)
        return self._as_noise(self.predict(x_t, steps, condition), x_t, steps)

    def predict(self, x_t: Tensor, timestep: int | Tensor, condition: Conditioning | None = None) -> Tensor:
        """Return what the network itself predicts (`prediction_type`), given and shaped as in `predict_noise`.

        Where x_t is noise alone, only this tells what the network makes of it.
        """
        if tuple(x_t.shape[1:]) != self.sample_shape:
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)}; expected (n, {', '.join(map(str, self.sample_shape))})"
            )
        output = (self.forward or self._unet)(x_t, self._steps(timestep, x_t), self._known(condition, x_t))
        return output[:, : self.sample_shape[0]]

    def site_grid(self, site: object, n_tokens: int) -> tuple[int, int]:
        """Return rows and columns of the grid whose `n_tokens` pixels or patches are the queries of `site`.

        That is a halving of the image, rounded up as by a convolution of stride 2, or the image in square patches.
        Raises ModelError when no such grid has that many places.
        """
        grids = self._by_tokens()
        if n_tokens in grids:
            return grids[n_tokens]
        rows, columns = self.sample_shape[1:]
        extras = (more for more in range(1, MOST_EXTRA_TOKENS + 1) if n_tokens - more in grids)
        extra = next((more for more in extras if more < n_tokens - more), None)
        if extra is None:
            hint = "its attention cannot be laid out in space"
        else:
            y, x = grids[n_tokens - extra]
            hint = (
                f"they would be a grid of {y} x {x} and {extra} more, but nothing tells which have no place: "
                "let tokens without a place (class token, registers) stand before or after the image's, and let them "
                "not depend on it before the first attention over so many tokens"
            )
        raise ModelError(
            f"the {n_tokens} queries of {getattr(site, 'name', site)} are no halving of an image of {rows} x "
            f"{columns} pixels and no grid of square patches of it; {hint}"
        )

    def has_grid(self, n_tokens: int) -> bool:
        """Return whether `n_tokens` queries can be pixels or patches of the image, as `site_grid` lays them out."""
        return n_tokens in self._by_tokens()

    def _by_tokens(self) -> dict[int, tuple[int, int]]:
        return {rows * columns: (rows, columns) for rows, columns in self._grids()}

    def _grids(self) -> Iterator[tuple[int, int]]:
        height, width = self.sample_shape[1:]
        for patch in range(2, min(height, width) + 1):
            if height % patch == 0 and width % patch == 0:
                yield height // patch, width // patch
        rows, columns = height, width
        while rows * columns > 1:
            yield rows, columns
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        yield 1, 1

    def _known(self, condition: Conditioning | None, x_t: Tensor) -> Condition:
        if condition is not None and not isinstance(condition, Condition):
            raise ValueError(f"the condition is a {type(condition).__name__}; expected domains and attributes")
        known = condition or Condition.null(len(x_t), len(self.attributes))
        if not self.conditional:
            return known
        if len(known) != len(x_t):
            raise ValueError(f"the condition is for {len(known)} images, but x_t has {len(x_t)}")
        known = known.to(x_t.device)
        return Condition(known.domain, known.values.to(x_t.dtype))

    def _unet(self, x_t: Tensor, steps: Tensor, condition: Condition) -> Tensor:
        if self.tokens is not None:
            return self.module(x_t, steps, self.tokens(condition.domain, condition.values)).sample
        if self.classes:
            return self.module(x_t, steps, class_labels=class_labels(condition.values)).sample
        if hasattr(self.module, "encoder_hid_proj"):  # UNet2DConditionModel wants its second argument even when unused
            return self.module(x_t, steps, None).sample
        return self.module(x_t, steps).sample

    @staticmethod
    def _steps(timestep: int | Tensor, x_t: Tensor) -> Tensor:
        if isinstance(timestep, Tensor):
            return timestep.to(x_t.device)
        return torch.full((len(x_t),), int(timestep), device=x_t.device)

    def _as_noise(self, output: Tensor, x_t: Tensor, steps: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return output
        share = self.scheduler.alphas_cumprod.to(x_t.device, x_t.dtype)[steps][:, None, None, None]
        if self.prediction_type == "v_prediction":
            return share.sqrt() * output + (1 - share).sqrt() * x_t
        return (x_t - share.sqrt() * output) / (1 - share).sqrt()
