"""Training one VAE through the loop of all trainings, and reading it back. Ours.

Steps are those of `diffmech.training.loop`: AdamW of one learning rate for all networks, gradients shortened to length
1, and so independent of how many pixels the nats of an image are summed over.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.artifacts import provenance, read_json, write_json
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.vae import VaeConfig
from diffmech.errors import DataError, StoreError
from diffmech.randomness import generator
from diffmech.tensors import read_tensors, write_tensors
from diffmech.training.checkpoint import fingerprint
from diffmech.training.device import resolve_device
from diffmech.training.loop import Run
from diffmech.vae.families import Vae, build_vae
from diffmech.vae.quality import quality
from diffmech.vae.sampler import ImageSampler
from diffmech.vae.stores import RECORD

WEIGHTS = "vae.safetensors"
EVALUATED = 1000  # images that the record's quality is of


def train_vae(
    images: ImageSampler,
    config: VaeConfig,
    output_dir: Path,
    checkpoint_dir: Path,
    *,
    runtime: RuntimeConfig,
    dataset: dict[str, Any],
    held_out: ImageSampler | None = None,
) -> None:
    """Train the VAE of `config` on `images` and write `vae.safetensors` and, last, `vae.json` into `output_dir`.

    `dataset` is the data set in words of JSON: a checkpoint of another one is not gone on from. The record holds the
    configuration, the history of the losses and the quality on images of `held_out`, or on others drawn from `images`
    where it is None. A training that was interrupted goes on from its last checkpoint in `checkpoint_dir`, to the same
    weights. Raises ModelError for images that the networks cannot halve, and when the loss is no longer finite (the
    last checkpoint is from before, and is kept); DataError for images that are not as the sampler says.
    """
    output_dir, checkpoint_dir = Path(output_dir), Path(checkpoint_dir)
    run = VaeRun(images, config, resolve_device(runtime.device))
    key = fingerprint({"config": config.canonical(), "dataset": dataset, "image_shape": list(images.image_shape)})
    run.finish(checkpoint_dir, key, runtime)
    run.take_averaged_weights()
    run.vae.eval()
    seed = config.training.seed
    others, _ = (held_out or images).sample(EVALUATED, generator(seed, "images to evaluate on"))
    (output_dir / RECORD).unlink(missing_ok=True)  # so that a record always means whole weights
    write_tensors(output_dir / WEIGHTS, run.vae.state_dict(), {}, kind="vae")
    record = {
        "config": config.canonical(),
        "image_shape": list(images.image_shape),
        "dataset": dataset,
        "images": len(images),
        "history": run.progress.history,
        "training": run.record(),
        "quality": {**quality(run.vae, others, seed=seed).record(), "held_out": held_out is not None},
        "parameters": sum(map(Tensor.numel, run.weights)),
        "provenance": provenance(),
    }
    write_json(output_dir / RECORD, record)
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


class VaeRun(Run):
    """The training of a VAE under way."""

    section = "vae.training"

    def __init__(self, images: ImageSampler, config: VaeConfig, device: torch.device) -> None:
        self.images = images
        self.vae = build_vae(images.image_shape, config)
        super().__init__((self.vae,), config.training, device)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the loss of the family and its parts over the batch of `step`."""
        count = self.vae.config.training.batch_size * self.vae.batches
        drawn, _ = self.images.sample(count, generator(self.settings.seed, "training step", step))
        expected = (count, *self.images.image_shape)
        if drawn.shape != expected:
            raise DataError(f"the data set drew images of shape {drawn.shape}; expected {expected}, as it says itself")
        pixels = torch.from_numpy(np.ascontiguousarray(drawn, dtype=np.float32))
        return self.vae.losses(pixels.to(self.device, memory_format=torch.channels_last), size=len(self.images))


def read_vae(directory: Path, *, device: str = "auto") -> Vae:
    """Return the trained VAE that `train_vae` wrote. Raises StoreError where it is missing or not whole."""
    directory = Path(directory)
    record = read_json(directory / RECORD)
    try:
        channels, height, width = record["image_shape"]
        vae = build_vae((channels, height, width), VaeConfig.restore(record["config"]))
        vae.load_state_dict(read_tensors(directory / WEIGHTS, kind="vae")[0])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StoreError(
            f"{directory}: holds no whole VAE ({reason}); delete it and let the workflow train it anew"
        ) from error
    return vae.to(resolve_device(device)).eval().requires_grad_(False)
