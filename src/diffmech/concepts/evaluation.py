"""Images of the same seeds before and after an edit, and what a judge sees in them.

Every set of images is of the same seeds and, but for the concept, of the same conditions: asked for the concept, or
weakly for amplification, and without it. What all sets share lies in the store of the originals, which edits and doses
leave alone: the unedited images in every way of asking, those of a closed-form edit, and images of further seeds that
distances are measured from. Ours; the dimensions are those of HUB (ICCV 2025).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diffmech.artifacts import open_store, provenance, read_json, write_store
from diffmech.batches import in_smaller_batches
from diffmech.concepts.asking import open_asking
from diffmech.concepts.baselines import RANDOM, baseline, replaced, uce_values
from diffmech.concepts.edits import ORIGINAL, OWN, REFERENCE, TARGET, TEXT, UCE, Way
from diffmech.concepts.gradients import added, read_gradients
from diffmech.concepts.groups import by_mechanism, weights
from diffmech.concepts.heads import mechanism_of_heads
from diffmech.concepts.masks import Mask, applied, write_mask
from diffmech.concepts.selection import select
from diffmech.concepts.ways import Asking
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.judging import JudgesConfig
from diffmech.config.studies.concepts import Baseline, EditConfig, EvaluationConfig, NamedConcept, Objective
from diffmech.errors import ConfigError
from diffmech.judging.likeness import structural_similarity
from diffmech.judging.panel import Panel, open_panel


@dataclass(frozen=True)
class ImageSet:
    """Images of all seeds `(image, channel, y, x)` under one edit, asked in one way; `draw` numbers random edits."""

    edit: str
    way: Way
    images: Tensor
    draw: int = 0


class Sampler:
    """Samples the images of one concept, under edits."""

    def __init__(
        self,
        asking: Asking,
        concept: NamedConcept,
        evaluation: EvaluationConfig,
        panel: Panel,
        runtime: RuntimeConfig,
    ) -> None:
        """Raises ConfigError for a concept that the judge does not know."""
        self.asking, self.concept, self.evaluation, self.runtime = asking, concept, evaluation, runtime
        self.denoiser, self.panel = asking.denoiser, panel
        for name in (asking.attribute, *asking.others):
            if panel.attributes and name not in panel.attributes:
                raise ConfigError(
                    f"concepts.concepts.{concept.name}: the judge does not know {name!r}, only "
                    f"{', '.join(panel.attributes)}; add it to recognition.attributes or to judges.text_attributes, or "
                    "name a detector that does (concepts.judges.detector)"
                )

    def images(self, edit: str, way: Way, change: AbstractContextManager[None], *, draw: int = 0) -> ImageSet:
        """Return the images of all seeds under an edit, which is applied meanwhile."""
        return ImageSet(edit, way, self._sampled(way, self.evaluation.seeds, change), draw)

    def without(self) -> tuple[ImageSet, ImageSet]:
        """Return unedited images without the concept: those of all seeds, and those of as many further ones."""
        count = self.evaluation.seeds
        found = self._sampled("base", 2 * count, nullcontext())
        return ImageSet(ORIGINAL, "base", found[:count]), ImageSet(REFERENCE, "base", found[count:])

    def told(self, images: ImageSet) -> np.ndarray:
        """Return whether each image is told to have each attribute that is judged, `(image, attribute)`."""
        first = self.evaluation.seeds if images.edit == REFERENCE else 0
        count = first + self.evaluation.seeds
        return self.asking.told(images.way, count, self.evaluation.seed, self.panel.attributes)[first:]

    def _sampled(self, way: Way, count: int, change: AbstractContextManager[None]) -> Tensor:
        settings = self.evaluation
        with change:
            return self.asking.images(
                way,
                count,
                steps=settings.steps,
                guidance=settings.guidance,
                seed=settings.seed,
                runtime=self.runtime,
            )


@in_smaller_batches
def original_images(
    model_json: Path | str,
    judge: Path | str | None,
    output: Path | str,
    *,
    concept: NamedConcept,
    evaluation: EvaluationConfig,
    judges: JudgesConfig,
    uce: bool,
    runtime: RuntimeConfig,
    root: Path | str = ".",
) -> None:
    """Write the store of all images of one concept that no edit of single weights changes.

    Sets: the originals in every way of asking, and further seeds without the concept; with `uce`, where the denoiser
    has cross-attention to tokens of the concept, those of the closed-form edit, asked for the concept and without it.
    """
    sampler = _sampler(model_json, judge, concept, evaluation, judges, runtime, root)
    own, further = sampler.without()
    ways: tuple[Way, ...] = ("asked", "weak")
    sets = [own, further, *(sampler.images(ORIGINAL, way, nullcontext()) for way in ways)]
    tokens = sampler.asking.cross_tokens() if uce else None
    if tokens is not None:
        values = uce_values(sampler.denoiser, tokens)
        changed = sum(matrix.numel() for matrix in values.values())
        sets += [sampler.images(UCE, way, replaced(sampler.denoiser, values)) for way in ("asked", "base")]
    else:
        changed = 0
    store = _stored(sampler, sets, {})
    store.attrs = {
        "concept": concept.name,
        "attribute": sampler.asking.attribute,
        "uce_weights": changed,
        "absent": list(sampler.panel.absent),
        "provenance": provenance(rule="original_images", evaluation=evaluation.canonical()),
    }
    write_store(output, store)


@in_smaller_batches
def edit_concept(
    model_json: Path | str,
    gradients: Sequence[Path | str],
    originals: Path | str,
    judge: Path | str | None,
    output_mask: Path | str,
    output: Path | str,
    *,
    concept: NamedConcept,
    objective: Objective,
    edit: EditConfig,
    dose: float,
    evaluation: EvaluationConfig,
    judges: JudgesConfig,
    runtime: RuntimeConfig,
    root: Path | str = ".",
    mechanisms: Path | str | None = None,
) -> None:
    """Write one edit as a mask, and the store of its images and of those of its baselines.

    `gradients` are those of all windows. The edit is sampled asked for the concept (weakly, for amplification) and
    without it, baselines the first way only. `mechanisms` is the table of the mechanisms of heads, for the granularity
    of that name. Raises ConfigError for a dose that comes to no weight, ModelError for a
    group that the denoiser lacks.
    """
    sampler = _sampler(model_json, judge, concept, evaluation, judges, runtime, root)
    denoiser, way = sampler.denoiser, TARGET[objective]
    among, units = weights(denoiser, edit.groups), {}
    if mechanisms is not None:
        units = {"mechanisms": mechanism_of_heads(mechanisms)}
        among = by_mechanism(among, units["mechanisms"])
    names = [weight.name for weight in among]
    found = added([read_gradients(file, names) for file in gradients])
    where = f"concepts.edits.{objective}.doses"
    chosen = select(found.scores(among, edit.order), among, granularity=edit.granularity, dose=dose, where=where)
    about = {
        "concept": concept.name,
        "attribute": sampler.asking.attribute,
        "objective": objective,
        "edit": {key: edit.canonical()[key] for key in ("groups", "granularity", "order", "factor")},
        "dose": dose,
        "count": chosen.count,
        "units": chosen.units,
        "rounded_to_zero": chosen.rounded_to_zero,
        "model": str(read_json(model_json)["sha256"]),
        **units,
    }
    own = Mask.of(chosen.indices, edit.factor, **about)
    sets = [sampler.images(OWN, each, applied(denoiser, own)) for each in (way, "base")]
    kinds: list[Baseline] = [kind for kind in edit.baselines or () if kind != "uce"]
    for kind in kinds:
        for draw in range(edit.random_draws if kind in RANDOM else 1):
            settings = {"granularity": edit.granularity, "seed": evaluation.seed, "draw": draw}
            mask = Mask.of(baseline(kind, chosen.indices, among, found, **settings), edit.factor)  # type: ignore[arg-type]
            sets.append(sampler.images(kind, way, applied(denoiser, mask), draw=draw))
    shared = open_store(originals).to_dataset()
    clean = {str(way): values for way, values in _images_of(shared, ORIGINAL).items()}
    store = _stored(sampler, sets, clean)
    store.attrs = about | {"provenance": provenance(rule="edit_concept", evaluation=evaluation.canonical())}
    write_mask(own, output_mask)
    write_store(output, store)


def _sampler(
    model_json: Path | str,
    judge: Path | str | None,
    concept: NamedConcept,
    evaluation: EvaluationConfig,
    judges: JudgesConfig,
    runtime: RuntimeConfig,
    root: Path | str,
) -> Sampler:
    asking = open_asking(model_json, concept, device=runtime.device)
    panel = open_panel(judges, judge, device=runtime.device, section="concepts.judges", root=root)
    return Sampler(asking, concept, evaluation, panel, runtime)


def _images_of(store: xr.Dataset, edit: str) -> dict[str, np.ndarray]:
    """Return the images `(image, channel, y, x)` of one edit by the way of asking."""
    pairs = zip(store["edit"].values, store["way"].values, strict=True)
    return {str(way): store["images"][row].values for row, (kind, way) in enumerate(pairs) if kind == edit}


def _stored(sampler: Sampler, sets: Sequence[ImageSet], clean: dict[str, np.ndarray]) -> xr.Dataset:
    """Return what is kept of sets of images; `clean` are the originals that each is compared with, by the way."""
    panel, count = sampler.panel, sampler.evaluation.seeds
    probabilities = np.stack([panel.probabilities(each.images) for each in sets])
    features = [] if panel.features is None else [panel.features(each.images) for each in sets]
    likeness = np.full((len(sets), count), np.nan)
    for row, each in enumerate(sets):
        if each.way in clean:
            pairs = zip(each.images.numpy(), clean[each.way], strict=True)
            likeness[row] = [structural_similarity(image, other) for image, other in pairs]
    return xr.Dataset(
        {
            "images": (
                ("set", "image", "channel", "y", "x"),
                torch.stack([each.images for each in sets]).numpy(),
                {"units": "1", "long_name": "generated image, -1 black to 1 white"},
            ),
            "seen": (
                ("set", "image", "attribute"),
                probabilities.astype(np.float32),
                {"units": "1", "long_name": "probability that the judge gives"},
            ),
            "features": (
                ("set", "image", "feature"),
                np.stack(features).astype(np.float32) if features else np.empty((len(sets), count, 0), np.float32),
                {"units": "1", "long_name": "features of the judge"},
            ),
            "likeness": (
                ("set", "image"),
                likeness,
                {"units": "1", "long_name": "structural similarity to the original of the seed"},
            ),
            "told": (
                ("set", "image", "attribute"),
                np.stack([sampler.told(each) for each in sets]),
                {"units": "", "long_name": "whether the image was told to have the attribute"},
            ),
        },
        coords={
            "edit": ("set", np.array([each.edit for each in sets], dtype=TEXT)),
            "way": ("set", np.array([each.way for each in sets], dtype=TEXT)),
            "draw": ("set", np.array([each.draw for each in sets])),
            "attribute": np.array(panel.attributes, dtype=TEXT),
            "image": np.arange(count),
        },
    )
