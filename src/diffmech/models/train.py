"""Training one denoiser on all domains: DDPM with epsilon prediction (Ho et al. 2020), uniform timesteps, the plain
mean squared error, and dropped conditions for classifier-free guidance (Ho & Salimans 2022).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffmech.artifacts import provenance
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig
from diffmech.config.models import DenoiserConfig
from diffmech.errors import DataError
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.classes import class_labels
from diffmech.models.storage import find_layout, publishing, save_denoiser, write_pointer
from diffmech.models.tables import HISTORY
from diffmech.models.training_set import TrainingSet
from diffmech.training.checkpoint import fingerprint
from diffmech.training.device import resolve_device
from diffmech.training.loop import Run
from diffmech.training.record import datasets_on_record


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

    Written are `unet/`, `tokens/`, `classes.json`, `scheduler/` (averaged weights), `history.csv` (step, loss,
    learning_rate, seconds), `provenance.json` and, last, the pointer `model.json`. A training that was interrupted goes
    on from its last checkpoint in `checkpoint_dir`, to the same weights. Raises DataError for images of another shape
    than `images`, or not of one class each where the network is told classes; ModelError when the loss is no longer
    finite.
    """
    output_dir, checkpoint_dir = Path(output_dir), Path(checkpoint_dir)
    training_set = TrainingSet(datasets, config.training)
    expected = (images.channels, images.size, images.size)
    if training_set.sample_shape != expected:
        raise DataError(
            f"the data sets {sorted(map(str, datasets.values()))} hold images of {training_set.sample_shape}, "
            f"but `images` gives {expected} (channels, height, width); prepare them anew"
        )
    if config.architecture.conditioning == "classes":
        training_set.check_classes()
    used = datasets_on_record(datasets)
    key = fingerprint(
        {
            "architecture": config.architecture.canonical(),
            "training": config.training.canonical(),
            "stores": [(domain, each["sha256"]) for domain, each in used.items()],
        }
    )
    run = DenoiserRun(config, training_set, resolve_device(runtime.device))
    run.finish(checkpoint_dir, key, runtime)
    record = {"source": "train", "config": config.canonical(), "images": images.canonical(), "datasets": used}
    with publishing(output_dir) as temporary:
        run.take_averaged_weights()
        classes = run.training_set.attributes if run.tokens is None else ()
        save_denoiser(temporary, run.unet, run.tokens, run.scheduler, classes=classes)
        run.write_history(HISTORY, temporary / "history.csv")
        (temporary / "provenance.json").write_text(provenance(**record, **run.record()) + "\n", encoding="utf-8")
    write_pointer(
        output_dir / "model.json",
        find_layout(output_dir),
        parameters=sum(map(Tensor.numel, run.weights)),
        source="train",
    )
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


class DenoiserRun(Run):
    """The training of a denoiser under way."""

    def __init__(self, config: DenoiserConfig, training_set: TrainingSet, device: torch.device) -> None:
        self.training_set = training_set
        self.unet, self.tokens = build_model(
            config.architecture,
            training_set.sample_shape,
            training_set.attributes,
            training_set.domains,
            config.training.seed,
        )
        self.scheduler = build_scheduler(config.architecture)
        self._abar = self.scheduler.alphas_cumprod.to(device)
        modules = (self.unet,) if self.tokens is None else (self.unet, self.tokens)
        super().__init__(modules, config.training, device)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the mean squared error of the predicted noise over the batch of `step`."""
        batch = self.training_set.draw(step, len(self._abar))
        layout = torch.channels_last
        images, noise = (x.to(self.device, memory_format=layout) for x in (batch.images, batch.noise))
        timesteps, condition = batch.timesteps.to(self.device), batch.condition.to(self.device)
        share = self._abar[timesteps][:, None, None, None]
        x_t = share.sqrt() * images + (1 - share).sqrt() * noise
        with self.mixed_precision():
            if self.tokens is None:
                told = {"class_labels": class_labels(condition.values)}
            else:
                told = {"encoder_hidden_states": self.tokens(condition.domain, condition.values)}
            predicted = self.unet(x_t, timesteps, **told, return_dict=False)[0]
        return {"loss": torch.nn.functional.mse_loss(predicted.float(), noise)}
