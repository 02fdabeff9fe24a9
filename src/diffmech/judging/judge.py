"""A classifier of the attributes of images, the judge of what a denoiser draws. Ours.

It is trained on freshly drawn faces, or on the digits of a denoiser of digits, prepared like those the denoiser was
trained on, and its accuracy on images it never saw is kept with it. What its verdict is worth on other images is not
known.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmech.artifacts import progress
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import Digits, ImagesConfig, SyntheticFaces
from diffmech.config.models import RecognitionConfig
from diffmech.data.digits import CLASSES
from diffmech.data.synthetic_faces import NAMES
from diffmech.errors import ConfigError, ModelError
from diffmech.judging.labelled import labelled_images
from diffmech.models.storage import pointed_directory, read_pointer
from diffmech.randomness import generator
from diffmech.tensors import read_tensors, write_tensors
from diffmech.training.device import resolve_device
from diffmech.training.seeds import seeded

logger = logging.getLogger(__name__)

HELD_OUT = 5  # every fifth image tests the judge
BATCH = 64
LEARNING_RATE = 3e-3
GRAIN = 0.05  # standard deviation of noise on the training images: samples are less clean than drawings
JUDGE = "judge.safetensors"


@dataclass(frozen=True)
class Judge:
    """A classifier of attributes, and its accuracy `(attribute,)` on images it was not trained on."""

    network: nn.Sequential
    attributes: tuple[str, ...]
    accuracy: np.ndarray

    def recognises(self, images: Tensor) -> np.ndarray:
        """Return which attributes are seen in `images` `(sample, channel, y, x)`, `(sample, attribute)` booleans."""
        return self.sees(images)[1] > 0

    def sees(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return what the last layer reads, `(sample, feature)`, and its logits, `(sample, attribute)`."""
        device = next(self.network.parameters()).device
        read, last = self.network[:-1], self.network[-1]
        with torch.no_grad():
            features = [read(part.to(device)) for part in images.split(512)]
            logits = [last(part).cpu() for part in features]
        return torch.cat([part.cpu() for part in features]).numpy(), torch.cat(logits).numpy()


def make_judge(
    model_json: Path,
    output: Path,
    *,
    recognition: RecognitionConfig,
    images: ImagesConfig,
    runtime: RuntimeConfig,
    faces: SyntheticFaces | None = None,
) -> None:
    """Write the judge of what a denoiser draws, with its attributes, accuracy and settings; `read_judge` reads it.

    It is trained on faces drawn like those of the denoiser, unless `faces` says how, or on its digits. Weights that
    come with a judge of the very same settings (`judge.safetensors` beside them) need no training. Where the denoiser
    knows no attribute that these have, the file says so and holds nothing else. Raises ConfigError for too few faces.
    """
    pointer = read_pointer(Path(model_json))
    known = tuple(name for name in recognition.attributes if name in pointer["attributes"])
    faces_or_digits = faces or trained_images(Path(model_json)) or SyntheticFaces(kind="synthetic_faces")
    labels = CLASSES if isinstance(faces_or_digits, Digits) else NAMES
    attributes = tuple(name for name in known if name in labels)
    if len(attributes) < len(known):
        logger.warning("not judged, since drawn faces lack them: %s", ", ".join(sorted({*known} - {*labels})))
    if not attributes:
        absent = _why_absent(recognition.attributes, pointer["attributes"], known)
        write_tensors(output, {}, {"absent": absent}, kind="judge")
        return
    settings = {
        "recognition": {key: getattr(recognition, key) for key in ("faces", "epochs", "seed")},
        "attributes": list(attributes),
        "faces": faces_or_digits.canonical(),
        "images": images.canonical(),
    }
    bundled = pointed_directory(pointer, Path(model_json)) / JUDGE
    if bundled.is_file():
        weights, about = read_tensors(bundled, kind="judge")
        if about.get("settings") == json.loads(json.dumps(settings)):
            write_tensors(output, weights, about, kind="judge")
            return
    judge = train_judge(attributes, faces_or_digits, images, recognition, runtime)
    about = {"attributes": list(attributes), "accuracy": judge.accuracy.tolist(), "channels": images.channels}
    write_tensors(output, judge.network.state_dict(), {**about, "settings": settings}, kind="judge")


def _why_absent(asked: Sequence[str], told: Sequence[str], known: Sequence[str]) -> str:
    """Return why there is no judge and what would give one, true of any denoiser and any images."""
    clip = "a CLIP model can judge some (resampling.clip and resampling.text_attributes)"
    if not told:
        return f"the denoiser is told no attributes of an image; {clip}"
    if known:
        return f"no judge is trained for {', '.join(known)}; {clip}"
    usable = [name for name in told if name in NAMES]
    why = f"recognition.attributes names {', '.join(asked) or 'nothing'}, of which the denoiser knows none"
    return f"{why}; name some of {', '.join(usable)}" if usable else f"{why}; {clip}"


def read_judge(judge_file: Path, *, device: str = "auto") -> Judge:
    """Return the judge that `make_judge` wrote. Raises ModelError where it says that there is none."""
    weights, about = read_tensors(judge_file, kind="judge")
    if "absent" in about:
        raise ModelError(about["absent"])
    network = _network(about["channels"], len(about["attributes"]))
    network.load_state_dict(weights)
    network.to(resolve_device(device)).eval().requires_grad_(False)
    return Judge(network, tuple(about["attributes"]), np.array(about["accuracy"]))


def train_judge(
    attributes: tuple[str, ...],
    source: SyntheticFaces | Digits,
    images: ImagesConfig,
    recognition: RecognitionConfig,
    runtime: RuntimeConfig,
) -> Judge:
    """Return a classifier trained on `recognition.faces` freshly drawn faces, or on all digits: four fifths of them.

    Raises ConfigError where there are too few faces.
    """
    if isinstance(source, SyntheticFaces) and recognition.faces < 2 * HELD_OUT:
        raise ConfigError(f"recognition.faces: {recognition.faces} is too few to train on; give some thousand")
    ids, pixels, there = labelled_images(
        source,
        images,
        attributes,
        count=recognition.faces,
        seed=recognition.seed,
        purpose="faces of the judge",
        runtime=runtime,
    )
    labels = there.float()
    held_out = torch.from_numpy(ids % HELD_OUT == HELD_OUT - 1)
    device = resolve_device(runtime.device)
    with seeded(recognition.seed):
        network = _network(images.channels, len(attributes)).to(device)
    _fit(network, pixels[~held_out], labels[~held_out], recognition, show=runtime.progress)
    judge = Judge(network.eval(), attributes, np.empty(0))
    right = judge.recognises(pixels[held_out]) == (labels[held_out] > 0.5).numpy()
    return Judge(network, attributes, right.mean(axis=0))


def trained_images(model_json: Path) -> SyntheticFaces | Digits | None:
    """Return how the drawn faces or the digits that the denoiser was trained on were made, None if unrecorded."""
    record = pointed_directory(read_pointer(model_json), model_json) / "provenance.json"
    if not record.is_file():
        return None
    for dataset in json.loads(record.read_text(encoding="utf-8")).get("datasets", {}).values():
        if dataset.get("config", {}).get("kind") == "synthetic_faces":
            # from 0 on: which of these faces were trained on is nothing to a judge, who gets others
            return SyntheticFaces.restore(dataset["config"]).model_copy(update={"first": 0})
        if dataset.get("config", {}).get("kind") == "digits":
            return Digits.restore(dataset["config"])
    return None


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
