"""Which kind of concept is asked for how: the one place that knows the kinds."""

from pathlib import Path

from diffmech.concepts.attributes import AttributeAsking
from diffmech.concepts.classes import ClassAsking
from diffmech.concepts.ways import Asking
from diffmech.config.studies.concepts import ClassConcept, NamedConcept
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser


def asking_for(denoiser: Denoiser, named: NamedConcept) -> Asking:
    """Return how a denoiser is asked for a concept.

    Raises ConfigError, with what is known, for one that it cannot be asked for; ModelError where there is none.
    """
    if isinstance(named.concept, ClassConcept):
        return ClassAsking(denoiser, named.concept, named.name)
    return AttributeAsking(denoiser, named.concept, named.name)


def open_asking(model_json: Path | str, named: NamedConcept, *, device: str) -> Asking:
    """Return how the denoiser behind `model_json` is asked for a concept. Raises as `load_denoiser` and
    `asking_for` do."""
    return asking_for(load_denoiser(Path(model_json), device=device), named)
