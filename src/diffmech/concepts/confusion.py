"""What the judge of this study is worth: on drawn faces that it never saw, and on its unedited images. Ours.

In generated images nobody knows what is there, only what was told: a verdict that differs is an error of the judge or
of the denoiser. Each seed counts once where an image was told, and once where it was not.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from diffmech.artifacts import open_store
from diffmech.concepts.edits import ORIGINAL
from diffmech.concepts.tables import JUDGED
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig
from diffmech.config.judging import JudgesConfig
from diffmech.config.models import RecognitionConfig
from diffmech.judging.confusion import confusion, held_out_images
from diffmech.judging.panel import open_panel

# Asked weakly an image is neither told to have the concept nor not to.
CLEAR = ("asked", "base")


def judge_confusion(
    model_json: Path | str,
    judge: Path | str | None,
    originals: Mapping[str, Path | str],
    output: Path | str,
    *,
    images: ImagesConfig,
    recognition: RecognitionConfig,
    judges: JudgesConfig,
    confidence: float,
    runtime: RuntimeConfig,
    root: Path | str = ".",
) -> None:
    """Write the table of verdicts; `originals` are the stores of unedited images by concept.

    Raises what opening the judge raises.
    """
    panel = open_panel(judges, judge, device=runtime.device, section="concepts.judges", root=root)
    attributes = panel.attributes
    pixels, drawn = held_out_images(model_json, attributes, images=images, recognition=recognition, runtime=runtime)
    sees = panel.probabilities(pixels) > 0.5 if drawn else np.empty((0, 0))
    stores = [open_store(path).to_dataset() for path in originals.values()]
    rows = []
    for name in attributes:
        if name in drawn:
            verdicts = confusion(drawn[name], sees[:, attributes.index(name)], confidence=confidence)
            rows += [{"source": "held_out", "attribute": name, **verdict} for verdict in verdicts]
    for name in attributes:
        told, seen = generated(stores, name)
        verdicts = confusion(told, seen, confidence=confidence)
        rows += [{"source": "generated", "attribute": name, **verdict} for verdict in verdicts]
    JUDGED.write(output, JUDGED.frame(rows))


def generated(stores: Sequence[xr.Dataset], attribute: str) -> tuple[np.ndarray, np.ndarray]:
    """Return whether unedited images were told to have an attribute, and whether it is seen, booleans `(image,)`.

    Of an attribute that is a concept, its own images, asked for it and without it; of any other one those without the
    first concept, where attributes are drawn.
    """
    own = [store for store in stores if store.attrs["attribute"] == attribute]
    found = list(_verdicts(own[0], CLEAR, attribute) if own else _verdicts(stores[0], CLEAR[1:], attribute))
    return np.concatenate([told for told, _ in found]), np.concatenate([seen for _, seen in found])


def _verdicts(store: xr.Dataset, ways: Sequence[str], attribute: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    column = [str(name) for name in store["attribute"].values].index(attribute)
    for row, (edit, way) in enumerate(zip(store["edit"].values, store["way"].values, strict=True)):
        if str(edit) == ORIGINAL and str(way) in ways:
            told, seen = (store[name][row, :, column].values for name in ("told", "seen"))
            yield told.astype(bool), seen > 0.5
