"""A detector of the user's own: a Python function that says how sure it is that images show attributes. Ours.

It is run without gradients, in batches, and what it returns is checked each time; when it is first called, it is also
asked again for one image alone, since a verdict that chance or other images change is no verdict on an image.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.config.judging import DetectorConfig
from diffmech.errors import ModelError
from diffmech.models.own_module import blaming, locate, run

BATCH = 64
# Networks round differently in batches of different sizes; a verdict is a share of images above one half.
MOST_ROUNDING = 1e-3


def open_detector(config: DetectorConfig, *, root: Path, section: str) -> Callable[[Tensor], np.ndarray]:
    """Return what gives probabilities `(image, attribute)` of images `(image, channel, y, x)` in [-1, 1].

    `root` is the project, from which its path may count; `section` is how config.yaml calls its judges. Raises
    ModelError, in one line, for a file that is not there or fails, and for a name in it that is no function; what is
    returned raises it for an answer of another shape, for probabilities that are none, for what the function raises,
    and for answers that depend on chance or on the other images.
    """
    code = locate(config.function, root, key=f"{section}.detector.function:", kind="function")
    with blaming(code):
        content = run(code)
    where = f"{code.file}: {code.name}"
    if not hasattr(content, code.name):
        names = [name for name, value in vars(content).items() if callable(value) and not name.startswith("_")]
        near = ", ".join(get_close_matches(code.name, names, n=3, cutoff=0.0)) or "none, it has no function"
        raise ModelError(f"{code.file}: has no function {code.name}; nearest: {near}")
    function: Any = getattr(content, code.name)
    if not callable(function):
        raise ModelError(f"{where} is a {type(function).__name__}, which cannot be called; name a function of images")

    def asked(images: Tensor) -> np.ndarray:
        with torch.no_grad(), blaming(code):
            found = function(images.clone())
        return _checked(found, len(images), config.attributes, where)

    untried = True

    def probabilities(images: Tensor) -> np.ndarray:
        nonlocal untried
        given = images.detach().float().cpu()
        found = [asked(part) for part in given.split(BATCH)]
        if untried and len(given):
            _check_alone(found[0][:1], asked(given[:1]), where)
            untried = False
        return np.concatenate(found)

    return probabilities


def _checked(found: Any, images: int, attributes: Sequence[str], where: str) -> np.ndarray:
    """Return what a detector answered, float64 `(image, attribute)`, once it is what was asked for."""
    expected = f"expected probabilities of shape ({images}, {len(attributes)}), of {', '.join(attributes)}"
    try:
        values = found.detach().cpu().numpy() if isinstance(found, Tensor) else np.asarray(found)
        values = values.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{where} returned a {type(found).__name__} that holds no numbers; {expected}") from error
    if values.shape != (images, len(attributes)):
        raise ModelError(f"{where} returned shape {values.shape} for {images} images; {expected}")
    for name, column in zip(attributes, values.T, strict=True):
        if not np.isfinite(column).all():
            raise ModelError(
                f"{where} returned NaN or infinity for {name}; {expected}; check how it treats an image of one grey"
            )
        if column.min() < 0 or column.max() > 1:
            raise ModelError(
                f"{where} returned {column[np.argmax(abs(column - 0.5))]:.3g} for {name}, which is no probability; "
                "return numbers from 0 to 1 (of logits the sigmoid)"
            )
    return values


def _check_alone(among: np.ndarray, alone: np.ndarray, where: str) -> None:
    if abs(among - alone).max() > MOST_ROUNDING:
        raise ModelError(
            f"{where} answered {alone.ravel().round(3).tolist()} for an image alone and "
            f"{among.ravel().round(3).tolist()} for the same image among others; let it draw no random numbers, and "
            "judge every image by itself (a network of torch: in evaluation mode)"
        )
