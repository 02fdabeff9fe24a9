"""Training one denoiser on all domains: DDPM with epsilon prediction (Ho et al. 2020), uniform timesteps and the plain
mean squared error, AdamW (Loshchilov & Hutter 2019), a one-cycle learning rate (Smith & Topin 2019), averaged weights
with warm-up (as in Karras et al. 2022), and dropped conditions for classifier-free guidance (Ho & Salimans 2022).
"""

import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from tqdm import tqdm

from diffmech.artifacts import provenance
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig
from diffmech.config.models import DenoiserConfig, Training
from diffmech.data.store import ImageSet, open_dataset
from diffmech.errors import DataError, ModelError
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.checkpoint import Progress, fingerprint, load_checkpoint, save_checkpoint
from diffmech.models.load import resolve_device
from diffmech.models.precision import default_precision, mixed_precision
from diffmech.models.storage import find_layout, publishing, save_denoiser, write_pointer
from diffmech.models.tables import HISTORY
from diffmech.models.tokens import AttributeTokens
from diffmech.models.training_record import store_sha256
from diffmech.models.training_set import Batch, TrainingSet

WARM_UP = 0.1  # share of the steps in which the learning rate rises
HISTORY_ROWS = 200
GRADIENT_NORM = 1.0  # longer gradients are shortened: the first steps of a high learning rate are rough

log = logging.getLogger(__name__)


def train_denoiser(
    config: DenoiserConfig,
    datasets: Mapping[str, Path],
    output_dir: Path,
    checkpoint_dir: Path,
    *,
    images: ImagesConfig,
    runtime: RuntimeConfig,
) -> None:
    """Train the denoiser of `config` on the stores of `datasets` (domain -> store) and write it to `output_dir`.

    Written are `unet/`, `tokens/`, `scheduler/` (averaged weights), `history.csv` (step, loss, learning_rate, seconds),
    `provenance.json` and, last, the pointer `model.json`. A training that was interrupted goes on from its last
    checkpoint in `checkpoint_dir`, to the same weights. Raises DataError for images of another shape than `images`,
    ModelError when the loss is no longer finite.
    """
    output_dir, checkpoint_dir = Path(output_dir), Path(checkpoint_dir)
    device = resolve_device(runtime.device)
    training_set = TrainingSet(datasets, config.training)
    expected = (images.channels, images.size, images.size)
    if training_set.sample_shape != expected:
        raise DataError(
            f"the data sets {sorted(map(str, datasets.values()))} hold images of {training_set.sample_shape}, "
            f"but `images` gives {expected} (channels, height, width); prepare them anew"
        )
    stores = {domain: store_sha256(path) for domain, path in datasets.items()}
    key = fingerprint(
        {
            "architecture": config.architecture.canonical(),
            "training": config.training.canonical(),
            "stores": list(stores.items()),
        }
    )
    run = Run.start(config, training_set, device)
    run.resume(checkpoint_dir, key)
    run.finish(checkpoint_dir, key, runtime)
    last = max(1, len(run.progress.history) // 10)
    record = {
        "source": "train",
        "config": config.canonical(),
        "images": images.canonical(),
        "datasets": {d: {"sha256": stores[d], **_record_of(open_dataset(Path(p)))} for d, p in datasets.items()},
        "steps": run.progress.step,
        "seconds": round(run.progress.seconds, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": run.progress.precision,
        "final_loss": sum(row[1] for row in run.progress.history[-last:]) / last,
    }
    with publishing(output_dir) as temporary:
        run.take_averaged_weights()
        save_denoiser(temporary, run.unet, run.tokens, run.scheduler)
        history = HISTORY.frame(run.progress.history)
        HISTORY.write(temporary / "history.csv", history.astype({"step": int}))
        (temporary / "provenance.json").write_text(provenance(**record) + "\n", encoding="utf-8")
    write_pointer(
        output_dir / "model.json",
        find_layout(output_dir),
        parameters=sum(map(Tensor.numel, run.weights)),
        source="train",
    )
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


def learning_rate(step: int, training: Training) -> float:
    """Return the learning rate of `step`: half a cosine up from 1/25 of the peak, half a cosine down to nothing."""
    rise = max(1, round(WARM_UP * training.steps))
    if step < rise:
        share = (1 - math.cos(math.pi * step / rise)) / 2
        return training.learning_rate * (1 + 24 * share) / 25
    share = (1 + math.cos(math.pi * (step - rise) / max(1, training.steps - rise))) / 2
    return training.learning_rate * share


def averaging_decay(step: int, training: Training) -> float:
    """Return the decay of the averaged weights at `step` (from 0): it grows towards `ema_decay`, so the start is
    forgotten."""
    return min(training.ema_decay, (1 + step) / (10 + step))


@dataclass
class Run:
    """A training under way: the networks, their optimiser, and how far it is."""

    training: Training
    training_set: TrainingSet
    unet: UNet2DConditionModel
    tokens: AttributeTokens
    scheduler: DDPMScheduler
    device: torch.device
    weights: list[Tensor] = field(init=False)
    averaged: list[Tensor] = field(init=False)
    optimiser: torch.optim.AdamW = field(init=False)
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def start(cls, config: DenoiserConfig, training_set: TrainingSet, device: torch.device) -> "Run":
        """Return a training at step 0."""
        training = config.training
        unet, tokens = build_model(
            config.architecture, training_set.sample_shape, training_set.attributes, training_set.domains, training.seed
        )
        run = cls(training, training_set, unet, tokens, build_scheduler(config.architecture), device)
        run.progress.precision = training.precision if training.precision != "auto" else default_precision(device)
        return run

    def __post_init__(self) -> None:
        # Channels last is the layout in which the convolutions of CPUs and of tensor cores are fastest.
        for module in (self.unet, self.tokens):
            nn.Module.to(module, self.device).train()
        for parameter in self.unet.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.weights = [*self.unet.parameters(), *self.tokens.parameters()]
        self.averaged = [weight.detach().clone() for weight in self.weights]
        self.optimiser = torch.optim.AdamW(
            self.weights, lr=self.training.learning_rate, fused=self.device.type in ("cpu", "cuda")
        )
        self._abar = self.scheduler.alphas_cumprod.to(self.device)

    def resume(self, directory: Path, key: str) -> None:
        """Go to the checkpoint in `directory`, where there is one of this training."""
        progress, message = load_checkpoint(directory, key, self.weights, self.averaged, self.optimiser)
        if message:
            log.warning(message)
        if progress is not None:
            self.progress = progress

    def finish(self, directory: Path, key: str, runtime: RuntimeConfig) -> None:
        """Train until the last step, with a checkpoint in `directory` every `runtime.checkpoint_seconds`."""
        steps = self.training.steps
        interval = max(1, steps // HISTORY_ROWS)
        saved = last = time.monotonic()
        with tqdm(total=steps, initial=self.progress.step, desc="train", disable=not runtime.progress) as bar:
            while self.progress.step < steps:
                rate = learning_rate(self.progress.step, self.training)
                self.progress.loss_sum += self.step(rate)
                self.progress.step += 1
                now = time.monotonic()
                self.progress.seconds, last = self.progress.seconds + now - last, now
                if self.progress.step % interval == 0 or self.progress.step == steps:
                    self._note(rate, interval, bar)
                bar.update()
                if now - saved >= runtime.checkpoint_seconds and self.progress.step < steps:
                    save_checkpoint(directory, key, self.progress, self.weights, self.averaged, self.optimiser)
                    saved = now

    def step(self, rate: float) -> float:
        """Take one step of the optimiser and return the loss before it."""
        step = self.progress.step
        loss = self.loss(self.training_set.draw(step, len(self._abar)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, GRADIENT_NORM, foreach=True)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, self.weights, 1 - averaging_decay(step, self.training))
        return loss.item()

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the predicted noise over a batch."""
        layout = torch.channels_last
        images, noise = (x.to(self.device, memory_format=layout) for x in (batch.images, batch.noise))
        timesteps, condition = batch.timesteps.to(self.device), batch.condition.to(self.device)
        share = self._abar[timesteps][:, None, None, None]
        x_t = share.sqrt() * images + (1 - share).sqrt() * noise
        with mixed_precision(self.device, self.progress.precision):
            tokens = self.tokens(condition.domain, condition.values)
            predicted = self.unet(x_t, timesteps, tokens, return_dict=False)[0]
        return torch.nn.functional.mse_loss(predicted.float(), noise)

    def take_averaged_weights(self) -> None:
        """Put the averaged weights into the networks."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.averaged)

    def _note(self, rate: float, interval: int, bar: tqdm) -> None:
        progress = self.progress
        loss = progress.loss_sum / (progress.step % interval or interval)
        if not math.isfinite(loss):
            raise ModelError(
                f"training diverged: the loss is {loss} at step {progress.step}; "
                f"lower training.learning_rate (now {self.training.learning_rate:g})"
            )
        progress.history.append([progress.step, loss, rate, round(progress.seconds, 2)])
        progress.loss_sum = 0.0
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)


def _record_of(dataset: ImageSet) -> dict[str, object]:
    """Return what made a data set, by which its images can be made again."""
    attributes = dataset.attrs
    made = attributes["provenance"]
    return {"config": made["dataset"], "images": made["images"]} | {k: attributes[k] for k in ("gain", "offset")}
