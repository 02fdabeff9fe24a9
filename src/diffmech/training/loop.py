"""The loop of a training, the same for every network: AdamW (Loshchilov & Hutter 2019), a one-cycle learning rate
(Smith & Topin 2019), averaged weights with warm-up (as in Karras et al. 2022), checkpoints.

What is drawn in a step is a function of (seed, step) alone, and so are learning rate and average: a training that was
killed goes on from its last checkpoint to the very same weights, on a device that itself repeats its results.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffmech.config.analysis import RuntimeConfig
from diffmech.errors import ModelError
from diffmech.tables import Table
from diffmech.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from diffmech.training.precision import default_precision, mixed_precision
from diffmech.training.schedule import Settings, averaging_decay, learning_rate
from diffmech.training.seeds import seeded

HISTORY_ROWS = 200
GRADIENT_NORM = 1.0  # longer gradients are shortened: the first steps of a high learning rate are rough

log = logging.getLogger(__name__)


class Run(ABC):
    """A training under way: the weights of its networks, their optimiser, and how far it is.

    A derived class says in `losses` what is minimised, and `section` is how config.yaml calls `settings`. Weights that
    need no gradient are left as they are. Buffers (running means of a normalisation) are kept with the weights, and
    are those of the last step, not averaged.
    """

    section = "training"

    def __init__(self, modules: Sequence[nn.Module], settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        for module in modules:
            # past the method of diffusers, which warns of layers to keep in float32 even where there are none
            nn.Module.to(module, device).train()
            # Channels last is the layout in which the convolutions of CPUs and of tensor cores are fastest.
            for parameter in module.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.weights: list[Tensor] = [
            weight for module in modules for weight in module.parameters() if weight.requires_grad
        ]
        self.averaged = [weight.detach().clone() for weight in self.weights]
        self.buffers = [buffer for module in modules for buffer in module.buffers()]
        fused = device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.AdamW(self.weights, lr=settings.learning_rate, fused=fused)
        precision = settings.precision if settings.precision != "auto" else default_precision(device)
        self.progress = Progress(precision=precision)

    @abstractmethod
    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Return what is minimised, `loss`, over the batch of `step`, and the parts of it that the history tells.

        The batch depends on (seed, step) alone (`diffmech.training.seeds.draws_of`); what the networks themselves draw
        from torch's own generators does so, too.
        """

    def mixed_precision(self) -> AbstractContextManager[None]:
        """Within this context networks compute in the precision of the training."""
        return mixed_precision(self.device, self.progress.precision)

    def finish(self, directory: Path, key: str, runtime: RuntimeConfig) -> None:
        """Train until the last step, from the checkpoint in `directory` on where there is one of `key`.

        A checkpoint is written every `runtime.checkpoint_seconds`. Raises ModelError, in one line, as soon as the loss
        or its gradient is no longer finite; the last checkpoint is from before.
        """
        self._resume(directory, key)
        steps, progress = self.settings.steps, self.progress
        interval = max(1, steps // HISTORY_ROWS)
        saved = last = time.monotonic()
        with tqdm(total=steps, initial=progress.step, desc="train", disable=not runtime.progress) as bar:
            while progress.step < steps:
                rate = learning_rate(progress.step, self.settings)
                for name, value in self.step(rate).items():
                    progress.sums[name] = progress.sums.get(name, 0.0) + value
                progress.step += 1
                now = time.monotonic()
                progress.seconds, last = progress.seconds + now - last, now
                if progress.step % interval == 0 or progress.step == steps:
                    self._note(rate, progress.step % interval or interval)
                    bar.set_postfix(loss=f"{progress.history[-1]['loss']:.4f}", refresh=False)
                bar.update()
                if now - saved >= runtime.checkpoint_seconds and progress.step < steps:
                    save_checkpoint(directory, key, progress, self._state(), self.optimiser)
                    saved = now

    def step(self, rate: float) -> dict[str, float]:
        """Take one step of the optimiser and return the losses before it."""
        step = self.progress.step
        with seeded(self.settings.seed, "inside a training step", step, device=self.device):
            losses = self.losses(step)
            losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, GRADIENT_NORM, foreach=True)
        found = {name: loss.item() for name, loss in losses.items()}
        for what, value in (("loss", found["loss"]), ("gradient", norm.item())):
            # before the step is taken, so that no checkpoint holds what came of it
            if not math.isfinite(value):
                raise ModelError(
                    f"training diverged: the {what} is {value} at step {step + 1}; "
                    f"lower {self.section}.learning_rate (now {self.settings.learning_rate:g})"
                )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.weights, 1 - averaging_decay(step, self.settings))
        return found

    def take_averaged_weights(self) -> None:
        """Put the averaged weights into the networks."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.averaged)

    def record(self) -> dict[str, object]:
        """Return how the training went, as is kept beside the weights."""
        history, device = self.progress.history, self.device
        last = max(1, len(history) // 10)
        return {
            "steps": self.progress.step,
            "seconds": round(self.progress.seconds, 1),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "precision": self.progress.precision,
            "final_loss": sum(row["loss"] for row in history[-last:]) / last,
        }

    def write_history(self, table: Table, path: Path) -> None:
        """Write the history as `table`, which `diffmech.training.tables.history_table` declared."""
        table.write(path, table.frame(self.progress.history).astype({"step": int}))

    def _state(self) -> dict[str, list[Tensor]]:
        return {"weights": self.weights, "averaged": self.averaged, "buffers": self.buffers}

    def _resume(self, directory: Path, key: str) -> None:
        progress, message = load_checkpoint(directory, key, self._state(), self.optimiser, self.device)
        if message:
            log.warning(message)
        if progress is not None:
            self.progress = progress

    def _note(self, rate: float, steps: int) -> None:
        """Note in the history the means over the last `steps` steps."""
        progress = self.progress
        means = {name: total / steps for name, total in progress.sums.items()}
        row = {"step": progress.step, **means, "learning_rate": rate, "seconds": round(progress.seconds, 2)}
        progress.history.append(row)
        progress.sums = {}
