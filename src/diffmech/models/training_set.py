"""The batches that a denoiser is trained on.

Every batch is a function of (seed, step) alone: which images, mirrored or not, at which timesteps, with which noise,
and what of the condition is dropped. So a training that was interrupted goes on exactly as if it had not been.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffmech.config.models import Training
from diffmech.errors import DataError
from diffmech.models.denoiser import Condition
from diffmech.training.images import IN_MEMORY_BYTES, TrainingImages
from diffmech.training.seeds import draws_of


@dataclass(frozen=True)
class Batch:
    """One step's clean images and noise `(sample, channel, y, x)`, timesteps `(sample,)` and condition."""

    images: Tensor
    noise: Tensor
    timesteps: Tensor
    condition: Condition


class TrainingSet(TrainingImages):
    """The images of all domains, with noise, timesteps and conditions."""

    def __init__(
        self, datasets: Mapping[str, Path], training: Training, *, in_memory_bytes: int = IN_MEMORY_BYTES
    ) -> None:
        super().__init__(
            datasets,
            batch_size=training.batch_size,
            holdout=training.holdout,
            shares=training.domain_shares,
            flip=training.flip,
            in_memory_bytes=in_memory_bytes,
        )
        self.training = training

    def check_classes(self) -> None:
        """Raise DataError where an image is not of one class: 1 in one attribute, 0 in all others."""
        for domain, values in zip(self.domains, self._values, strict=True):
            one = (values.eq(0) | values.eq(1)).all(1) & values.sum(1).eq(1)
            if not one.all() or not values.shape[1]:
                raise DataError(
                    f"{int((~one).sum())} of {len(values)} images of domain {domain!r} are not of one class, by the "
                    f"attributes {', '.join(self.attributes) or 'none'}; architecture.conditioning classes needs "
                    "labels with a 1 in one column of each row and 0 in all others, the same columns in both domains"
                )

    def draw(self, step: int, timesteps: int) -> Batch:
        """Return the batch of `step`, with timesteps below `timesteps`."""
        training, n = self.training, self.training.batch_size
        source = draws_of(training.seed, step)
        drawn = self.draw_images(source)
        # One timestep from each n-th part of the diffusion: uniform like independent draws, with less variance.
        t = ((torch.arange(n) + torch.rand(n, generator=source)) * (timesteps / n)).long().clamp(max=timesteps - 1)
        noise = torch.randn(drawn.images.shape, generator=source)
        dropped = torch.rand(n, generator=source) < training.condition_dropout
        unknown = torch.rand(drawn.values.shape, generator=source) < training.attribute_dropout
        values = drawn.values.masked_fill(unknown | dropped[:, None], torch.nan)
        return Batch(drawn.images, noise, t, Condition(drawn.domain.masked_fill(dropped, -1), values))
