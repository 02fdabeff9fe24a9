"""Which kind of concept is asked for how: the one place that knows the kinds."""

from pathlib import Path
from typing import Any

from diffmech.concepts.attributes import AttributeAsking
from diffmech.concepts.classes import ClassAsking
from diffmech.concepts.prompts import PromptAsking
from diffmech.concepts.ways import Asking
from diffmech.config.studies.concepts import ClassConcept, NamedConcept, PromptConcept
from diffmech.errors import ConfigError
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.pipelines import load_pipeline
from diffmech.models.prompted import PromptedDenoiser


def asking_for(denoiser: Denoiser, named: NamedConcept, pipeline: Any = None) -> Asking:
    """Return how a denoiser is asked for a concept.

    `pipeline` samples by the network of `denoiser`, where that is one of a pipeline. Raises ConfigError, with what is
    known, for a concept that it cannot be asked for; ModelError where there is none.
    """
    concept, name = named.concept, named.name
    if isinstance(concept, PromptConcept):
        if not isinstance(denoiser, PromptedDenoiser):
            raise ConfigError(
                f"concepts.concepts.{name}: is of kind prompt, but the denoiser is of no pipeline and reads no "
                "prompts; give a concept of kind attribute or class"
            )
        return PromptAsking(denoiser, pipeline, concept, name)
    if isinstance(denoiser, PromptedDenoiser):
        raise ConfigError(
            f"concepts.concepts.{name}: is of kind {concept.kind}, but the denoiser is that of a pipeline, which is "
            "asked by prompts or names of classes; give a concept of kind prompt"
        )
    if isinstance(concept, ClassConcept):
        return ClassAsking(denoiser, concept, name)
    return AttributeAsking(denoiser, concept, name)


def open_asking(model_json: Path | str, named: NamedConcept, *, device: str) -> Asking:
    """Return how the denoiser behind `model_json` is asked for a concept. Raises as `load_denoiser` and
    `asking_for` do."""
    denoiser, pipeline = load_denoiser(Path(model_json), device=device), None
    if isinstance(denoiser, PromptedDenoiser):
        pipeline = load_pipeline(Path(model_json), scheduler=named.scheduler, device=device, denoiser=denoiser)
    return asking_for(denoiser, named, pipeline)
