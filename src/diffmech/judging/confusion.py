"""What a judge is worth: what it sees in images that were told to have an attribute, and in images that were not.

Shares have score intervals (Wilson 1927). Balanced accuracy is the mean of the share that is seen where it was told and
the share that is not where it was not, so that guessing has 0.5 whatever is rare; its interval is made of those of the
two shares (MOVER; Newcombe 1998, Zou and Donner 2008).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.config.models import RecognitionConfig
from diffmech.data.digits import CLASSES
from diffmech.data.synthetic_faces import NAMES
from diffmech.judging.judge import HELD_OUT, trained_images
from diffmech.judging.labelled import labelled_images
from diffmech.judging.recognition import wilson_interval
from diffmech.models.storage import read_pointer


def confusion(told: np.ndarray, seen: np.ndarray, *, confidence: float) -> Iterator[dict[str, object]]:
    """Yield count, share and interval of each told and seen, of one attribute, with the balanced accuracy of all.

    `told` and `seen` are booleans `(image,)`. Where no image was told, or all were, there is no balanced accuracy and
    no row of the other ones.
    """
    given = [value for value in (True, False) if (told == value).any()]
    right = {value: _share(seen[told == value] == value, confidence) for value in given}
    balanced = _mean(*right.values()) if len(right) == 2 else (None, None, None)
    for value in given:
        for verdict in (True, False):
            found = seen[told == value] == verdict
            share, low, high = _share(found, confidence)
            yield {
                "told": value,
                "seen": verdict,
                "count": int(found.sum()),
                "n": len(found),
                "rate": share,
                "low": low,
                "high": high,
                **dict(zip(("balanced", "balanced_low", "balanced_high"), balanced, strict=True)),
            }


def held_out_images(
    model_json: Path | str,
    attributes: Sequence[str],
    *,
    images: ImagesConfig,
    recognition: RecognitionConfig,
    runtime: RuntimeConfig,
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Return images `(image, channel, y, x)` that no judge was trained on, and which show each attribute, `(image,)`.

    Faces are drawn like those of the denoiser, as many as one judge was tested on; of digits it is the very ones that
    it was tested on. Of `attributes` it is those that such images can have and the denoiser is told: what others draw
    is not what these test; there may be none.
    """
    told = read_pointer(Path(model_json))["attributes"]
    source = trained_images(Path(model_json)) or SyntheticFaces(kind="synthetic_faces")
    labels = NAMES if isinstance(source, SyntheticFaces) else CLASSES
    names = [name for name in attributes if name in labels and name in told]
    if not names:
        return torch.empty(0), {}
    ids, pixels, there = labelled_images(
        source,
        images,
        names,
        count=max(1, recognition.faces // HELD_OUT),
        seed=recognition.seed,
        purpose="faces that no judge has seen",
        runtime=runtime,
    )
    if not isinstance(source, SyntheticFaces):
        held_out = torch.from_numpy(ids % HELD_OUT == HELD_OUT - 1)
        pixels, there = pixels[held_out], there[held_out]
    return pixels, dict(zip(names, there.numpy().T, strict=True))


def _share(found: np.ndarray, confidence: float) -> tuple[float, float, float]:
    return (float(found.mean()), *wilson_interval(int(found.sum()), len(found), confidence))


def _mean(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the mean of two independent shares, each with its interval, and the interval of it."""
    (one, one_low, one_high), (two, two_low, two_high) = first, second
    mean = (one + two) / 2
    down, up = np.hypot(one - one_low, two - two_low) / 2, np.hypot(one_high - one, two_high - two) / 2
    return mean, float(mean - down), float(mean + up)
