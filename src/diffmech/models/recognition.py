"""Do generated images show the attributes they were asked for? A classifier trained on drawn faces is the judge. Ours.

The judge sees freshly drawn faces, prepared like those the denoiser was trained on, and its own accuracy on faces it
never saw is stated beside its verdict: a share of samples recognised above that accuracy says nothing more.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import Tensor, nn

from diffmech.artifacts import progress, write_csv
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.config.models import RecognitionConfig, SamplingConfig
from diffmech.data.store import open_dataset, prepare_dataset
from diffmech.errors import ConfigError, ModelError
from diffmech.models.architecture import seeded
from diffmech.models.load import load_denoiser, resolve_device
from diffmech.models.sampling import drawn_condition, sample_images
from diffmech.models.storage import pointed_directory, read_pointer
from diffmech.randomness import generator

HELD_OUT = 5  # every fifth drawn face tests the judge
BATCH = 64
LEARNING_RATE = 3e-3
GRAIN = 0.05  # standard deviation of noise on the training images: samples are less clean than drawings
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Judge:
    """A classifier of attributes, and its accuracy `(attribute,)` on drawn faces it was not trained on."""

    network: nn.Module
    attributes: tuple[str, ...]
    accuracy: np.ndarray

    def recognises(self, images: Tensor) -> np.ndarray:
        """Return which attributes are seen in `images` `(sample, channel, y, x)`, `(sample, attribute)` booleans."""
        device = next(self.network.parameters()).device
        with torch.no_grad():
            return np.concatenate([(self.network(part.to(device)) > 0).cpu().numpy() for part in images.split(512)])


def check_recognition(
    model_json: Path,
    output_csv: Path,
    *,
    recognition: RecognitionConfig,
    sampling: SamplingConfig,
    images: ImagesConfig,
    runtime: RuntimeConfig,
    faces: SyntheticFaces | None = None,
) -> None:
    """Write attribute, heldout_accuracy, recognised_share, low, high, n.

    A row `glasses` holds the share of samples asked for with glasses = 1 in which glasses are seen, a row `no glasses`
    the share of samples asked for with glasses = 0 in which none are; all other attributes are drawn. The interval is
    Wilson's (1927). `faces` is how the judge's faces are drawn; by default as those the denoiser was trained on. Raises
    ModelError when the denoiser knows none of the attributes.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    attributes = tuple(name for name in recognition.attributes if name in denoiser.attributes)
    if not attributes:
        raise ModelError(
            f"{model_json}: knows none of recognition.attributes {recognition.attributes}, only "
            f"{list(denoiser.attributes)}; name some of those, or leave the recognition check out"
        )
    faces = faces or trained_faces(Path(model_json)) or SyntheticFaces(kind="synthetic_faces")
    judge = train_judge(attributes, faces, images, recognition, runtime)
    rows = []
    for column, attribute in enumerate(attributes):
        for value, label in ((1.0, attribute), (0.0, f"no {attribute}")):
            condition = drawn_condition(denoiser, recognition.samples, recognition.seed, fixed={attribute: value})
            samples = sample_images(
                denoiser,
                condition,
                steps=sampling.steps,
                guidance=sampling.guidance,
                seed=recognition.seed,
                runtime=runtime,
            )
            seen = judge.recognises(samples)[:, column]
            right = int((seen == bool(value)).sum())
            low, high = wilson_interval(right, len(seen), CONFIDENCE)
            rows.append((label, judge.accuracy[column], right / len(seen), low, high, len(seen)))
    columns = ["attribute", "heldout_accuracy", "recognised_share", "low", "high", "n"]
    write_csv(Path(output_csv), pd.DataFrame(rows, columns=columns))


def train_judge(
    attributes: tuple[str, ...],
    faces: SyntheticFaces,
    images: ImagesConfig,
    recognition: RecognitionConfig,
    runtime: RuntimeConfig,
) -> Judge:
    """Return a classifier trained on `recognition.faces` freshly drawn faces, four fifths of them.

    Raises ConfigError where drawn faces lack one of the attributes or there are too few of them.
    """
    if recognition.faces < 2 * HELD_OUT:
        raise ConfigError(f"recognition.faces: {recognition.faces} is too few to train on; give some thousand")
    # Faces that no data set of the study holds: their seed is drawn far from those that people write.
    seed = int(generator(recognition.seed, "faces of the judge").integers(2**31, 2**32))
    fresh = faces.model_copy(update={"count": recognition.faces, "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "faces.zarr.zip"
        prepare_dataset(fresh, images, store, name="faces of the judge", runtime=runtime)
        drawn = open_dataset(store)
        missing = [name for name in attributes if name not in drawn.attributes]
        if missing:
            raise ConfigError(
                f"recognition.attributes: drawn faces have no {missing[0]!r}, only {', '.join(drawn.attributes)}"
            )
        columns = [drawn.attributes.index(name) for name in attributes]
        pixels = torch.from_numpy(drawn.images(drawn.ids))
        labels = torch.from_numpy(drawn.attribute_values(drawn.ids)[:, columns] > 0.5).float()
    held_out = torch.from_numpy(drawn.ids % HELD_OUT == HELD_OUT - 1)
    device = resolve_device(runtime.device)
    with seeded(recognition.seed):
        network = _network(images.channels, len(attributes)).to(device)
    _fit(network, pixels[~held_out], labels[~held_out], recognition, show=runtime.progress)
    judge = Judge(network.eval(), attributes, np.empty(0))
    right = judge.recognises(pixels[held_out]) == (labels[held_out] > 0.5).numpy()
    return Judge(network, attributes, right.mean(axis=0))


def trained_faces(model_json: Path) -> SyntheticFaces | None:
    """Return how the drawn faces that the denoiser was trained on were made, None where that is not recorded."""
    record = pointed_directory(read_pointer(model_json), model_json) / "provenance.json"
    if not record.is_file():
        return None
    for dataset in json.loads(record.read_text(encoding="utf-8")).get("datasets", {}).values():
        if dataset.get("config", {}).get("kind") == "synthetic_faces":
            return SyntheticFaces.restore(dataset["config"])
    return None


def wilson_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927), which is sensible at 0 and 1 too."""
    z = float(norm.ppf((1 + confidence) / 2))
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _network(channels: int, attributes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inward, outward in ((channels, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(inward, outward, 3, padding=1, bias=False), nn.BatchNorm2d(outward), nn.ReLU()]
        layers += [nn.Conv2d(outward, outward, 3, padding=1, bias=False), nn.BatchNorm2d(outward), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    # A coarse grid is kept: where a dark bar lies tells glasses from brows.
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(96 * 16, attributes)
    )


def _fit(network: nn.Module, images: Tensor, labels: Tensor, recognition: RecognitionConfig, *, show: bool) -> None:
    device = next(network.parameters()).device
    source = torch.Generator().manual_seed(int(generator(recognition.seed, "judge").integers(2**63)))
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    batches = -(-len(images) // BATCH)
    total = recognition.epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=total)
    order = torch.cat([torch.randperm(len(images), generator=source) for _ in range(recognition.epochs)])
    parts = [part for epoch in order.chunk(recognition.epochs) for part in epoch.chunk(batches)]
    network.train()
    with seeded(recognition.seed):  # dropout draws from torch's own generator
        for part in progress(parts, "train judge", total=len(parts), show=show):
            noisy = images[part] + GRAIN * torch.randn(images[part].shape, generator=source)
            loss = F.binary_cross_entropy_with_logits(network(noisy.to(device)), labels[part].to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
