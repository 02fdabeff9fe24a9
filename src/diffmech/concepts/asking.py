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
    if isinstance(named.concept, PromptConcept) != isinstance(denoiser, PromptedDenoiser):
        asked = "prompts" if isinstance(denoiser, PromptedDenoiser) else "no prompts, since it is no pipeline"
        fit = "prompt" if isinstance(denoiser, PromptedDenoiser) else "attribute or class"
        raise ConfigError(
            f"concepts.concepts.{named.name}: is of kind {named.concept.kind}, but the denoiser is asked for {asked}; "
            f"give a concept of kind {fit}"
        )
    if isinstance(named.concept, PromptConcept) and isinstance(denoiser, PromptedDenoiser):
        return PromptAsking(denoiser, pipeline, named.concept, named.name)
    if isinstance(named.concept, ClassConcept):
        return ClassAsking(denoiser, named.concept, named.name)
    return AttributeAsking(denoiser, named.concept, named.name)


def open_asking(model_json: Path | str, named: NamedConcept, *, device: str) -> Asking:
    """Return how the denoiser behind `model_json` is asked for a concept. Raises as `load_denoiser` and
    `asking_for` do."""
    denoiser, pipeline = load_denoiser(Path(model_json), device=device), None
    if isinstance(denoiser, PromptedDenoiser):
        pipeline = load_pipeline(Path(model_json), scheduler=named.scheduler, device=device, denoiser=denoiser)
    return asking_for(denoiser, named, pipeline)
