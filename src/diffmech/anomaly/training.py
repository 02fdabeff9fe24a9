"""Training one model on slices without a lesion through the loop of all trainings, and reading it back.

Minimised is the negative evidence lower bound of the pixels of the brain (Kingma & Welling 2014), its divergence
weighted by a beta that warms up (Bowman et al. 2016; Sonderby et al. 2016), in nats per pixel. The weights that are
kept are those, of a few steps spread over the training, under which slices without a lesion of the validation patients
are likeliest. So of all labels one alone is used: that a slice has no lesion, of training and validation patients.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.anomaly.atlas import healthy_atlas
from diffmech.anomaly.corruption import coarse_noise
from diffmech.anomaly.network import POSITIONS, AnomalyVae
from diffmech.anomaly.slices import Slices
from diffmech.artifacts import provenance, read_json, write_json
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.anomaly import AnomalyModelConfig
from diffmech.errors import DataError, StoreError
from diffmech.tensors import read_tensors, write_tensors
from diffmech.training.checkpoint import fingerprint
from diffmech.training.device import resolve_device
from diffmech.training.loop import Run
from diffmech.training.seeds import draws_of, seeded

WEIGHTS, RECORD = "anomaly.safetensors", "anomaly.json"
JUDGED = 128  # validation slices in one pass


def train_anomaly_vae(
    training: Slices,
    validation: Slices,
    config: AnomalyModelConfig,
    output_dir: Path,
    checkpoint_dir: Path,
    *,
    runtime: RuntimeConfig,
    dataset: dict[str, Any],
) -> None:
    """Train the model of `config` and write `anomaly.safetensors` and, last, `anomaly.json` into `output_dir`.

    Of either set of patients those slices are used that have no lesion. `dataset` is the data set in words of JSON: a
    checkpoint of another one is not gone on from; a training that was interrupted goes on to the same weights. Raises
    DataError where a patient is in both sets, or either has no slice without a lesion; ModelError for slices that the
    network cannot halve, and as soon as the loss is no longer finite.
    """
    output_dir, checkpoint_dir = Path(output_dir), Path(checkpoint_dir)
    if both := sorted(set(training.patient) & set(validation.patient)):
        raise DataError(
            f"patient {both[0]} trains the model and also chooses its weights; put each patient into one split alone"
        )
    run = AnomalyRun(healthy(training, "training"), healthy(validation, "validation"), config, runtime.device)
    key = fingerprint({"config": config.canonical(), "dataset": dataset, "slices": [len(run.images), len(run.judged)]})
    run.finish(checkpoint_dir, key, runtime)
    if not config.training.steps:
        run.found[0] = run.validation_nats()
    run.take_best_weights()
    (output_dir / RECORD).unlink(missing_ok=True)  # so that a record always means whole weights
    write_tensors(output_dir / WEIGHTS, run.vae.state_dict(), {}, kind="anomaly")
    record = {
        "config": config.canonical(),
        "image_shape": list(run.vae.image_shape),
        "dataset": dataset,
        "slices": {"training": len(run.images), "validation": len(run.judged)},
        "history": run.progress.history,
        "validation": run.validation_history(),
        "training": run.record(),
        "parameters": sum(map(Tensor.numel, run.weights)),
        "provenance": provenance(),
    }
    write_json(output_dir / RECORD, record)
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


def healthy(slices: Slices, what: str) -> Slices:
    """Return the slices without a lesion. Raises DataError where there is none among those of the `what` patients."""
    normal = ~slices.abnormal
    if not normal.any():
        raise DataError(
            f"all {len(slices)} slices of the {what} patients hold a lesion; a model of healthy brains needs some "
            "without: add patients, or split them by another seed"
        )
    return slices.take(normal)


class AnomalyRun(Run):
    """The training of a model under way; `training` and `validation` are slices without a lesion."""

    section = "anomaly.training"

    def __init__(self, training: Slices, validation: Slices, config: AnomalyModelConfig, device: str = "cpu") -> None:
        chosen = resolve_device(device)
        self.config = config
        height, width = training.images.shape[2:]
        shape = (len(training.modalities), height, width)
        with seeded(config.training.seed):
            self.vae = AnomalyVae(shape, config.network)
        super().__init__((self.vae,), config.training, chosen)
        self.images, self.brains, self.positions = _tensors(training)
        self.judged, self.judged_brains, self.judged_positions = _tensors(validation)
        if self.vae.atlas is not None:
            places = np.append(np.linspace(0, 1, POSITIONS), np.nan)
            mean, variance = healthy_atlas(training, places)
            self.vae.atlas.copy_(torch.from_numpy(np.stack([mean, np.log(variance)])))
        self.best = [weight.detach().clone() for weight in self.weights]
        steps, candidates = config.training.steps, min(config.training.candidates, config.training.steps)
        self.candidates = [steps * (place + 1) // candidates for place in range(candidates)] or [0]
        self.found = torch.full((len(self.candidates),), torch.nan, dtype=torch.float64)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the loss of the batch of `step` and its parts, in nats per pixel of the brain and modality."""
        settings, source = self.config.training, draws_of(self.config.training.seed, step)
        rows = torch.randint(len(self.images), (settings.batch_size,), generator=source)
        images, brains, positions = self.images[rows], self.brains[rows], self.positions[rows]
        mirrored = settings.mirror & (torch.rand(len(rows), generator=source) < 0.5)
        images, brains = (_mirrored(x, mirrored) for x in (images, brains))
        given = images
        if settings.corruption:
            noise = coarse_noise(images.shape, settings.corruption, settings.coarseness, source)
            given = images + noise * brains
        given, images, brains = (
            x.to(self.device, memory_format=torch.channels_last) for x in (given, images, brains.float())
        )
        warm_up = settings.warm_up * settings.steps
        beta = settings.beta * (min(1.0, step / warm_up) if warm_up else 1.0)
        guide = self.vae.guide(positions.to(self.device))
        if self.vae.atlas is not None:  # the brain is not quite symmetric
            guide = _mirrored(guide[0], mirrored.to(self.device)), _mirrored(guide[1], mirrored.to(self.device))
        latent, log_variance, grids = self.vae.encode(given, guide)
        divergence = torch.zeros((), device=self.device)
        if self.config.network.gaussian:
            divergence = 0.5 * (latent.square() + log_variance.exp() - 1 - log_variance).sum()
            latent = latent + (0.5 * log_variance).exp() * torch.randn_like(latent)
        pixels = brains.sum() * images.shape[1]
        nats = (pixel_nats(images, *self.vae.decode(latent, grids, guide)) * brains).sum() / pixels
        divergence = divergence / pixels
        return {"loss": nats + beta * divergence, "nats": nats.detach(), "divergence": divergence.detach()}

    def step(self, rate: float) -> dict[str, float]:
        """Take one step, and judge the averaged weights where it is one of the candidates."""
        found = super().step(rate)
        if (number := self.progress.step + 1) in self.candidates:
            place = self.candidates.index(number)
            self.found[place] = value = self.validation_nats()
            if value <= np.nanmin(self.found.numpy()):
                torch._foreach_copy_(self.best, self.averaged)
        return found

    @torch.no_grad()
    def validation_nats(self) -> float:
        """Return -log p per pixel of the brain of intact validation slices, at the mean of the posterior, averaged
        weights, nothing dropped."""
        own = [weight.detach().clone() for weight in self.weights]
        self.take_averaged_weights()
        self.vae.eval()
        total = 0.0
        for rows in torch.arange(len(self.judged)).split(JUDGED):
            images, brains, positions = (
                x[rows].to(self.device) for x in (self.judged, self.judged_brains, self.judged_positions)
            )
            total += float((pixel_nats(images, *self.vae(images, positions)) * brains).double().sum())
        self.vae.train()
        torch._foreach_copy_(self.weights, own)
        return total / (float(self.judged_brains.sum()) * self.judged.shape[1])

    def take_best_weights(self) -> None:
        """Put the weights into the network that validation slices without a lesion are likeliest under."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.best)
        self.vae.eval()

    def validation_history(self) -> list[dict[str, float]]:
        """Return what each candidate gave: its step and the nats per pixel, and whether it was chosen."""
        values = self.found.tolist()
        least = min(values)
        return [
            {"step": step, "nats": value, "chosen": value == least}
            for step, value in zip(self.candidates, values, strict=True)
        ]

    def _state(self) -> dict[str, list[Tensor]]:
        return {**super()._state(), "best": self.best, "found": [self.found]}


def pixel_nats(images: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return -log of the Gaussian density of each pixel, without the constant ln(2 pi) / 2, of the same shape."""
    return 0.5 * (log_variance + (images - mean).square() * (-log_variance).exp())


def read_anomaly_vae(directory: Path, *, device: str = "auto") -> AnomalyVae:
    """Return the model that `train_anomaly_vae` wrote. Raises StoreError where it is missing or not whole."""
    directory = Path(directory)
    record = read_json(directory / RECORD)
    try:
        modalities, height, width = record["image_shape"]
        config = AnomalyModelConfig.restore(record["config"])
        vae = AnomalyVae((modalities, height, width), config.network)
        vae.load_state_dict(read_tensors(directory / WEIGHTS, kind="anomaly")[0])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StoreError(
            f"{directory}: no model of healthy brains can be read there ({reason}); delete the folder to train it anew"
        ) from error
    return vae.to(resolve_device(device)).eval().requires_grad_(False)


def _mirrored(grids: Tensor, rows: Tensor) -> Tensor:
    """Return grids `(sample, channel, y, x)`, those of `rows` `(sample,)` mirrored left to right."""
    return torch.where(rows[:, None, None, None], grids.flip(-1), grids)


def _tensors(slices: Slices) -> tuple[Tensor, Tensor, Tensor]:
    """Return images `(slice, modality, y, x)`, brains `(slice, 1, y, x)` and positions `(slice,)`."""
    positions = torch.from_numpy(slices.position).float()
    return torch.from_numpy(slices.images), torch.from_numpy(slices.brain)[:, None], positions
