"""How a denoiser is asked for a concept, for the same images without it, and weakly.

The images of number i are one person: noise and all other attributes depend on (seed, number) alone, as in galleries,
so that what differs between ways of asking is the concept (the dual prompts of Six-CD, arXiv 2406.14855). Ours.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal

from diffmech.config.studies.concepts import AttributeConcept
from diffmech.errors import ConfigError, ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.sampling import drawn_condition

# asked: for the concept. base: without it. weak: for a little of it.
Way = Literal["asked", "base", "weak"]


def check_concepts(denoiser: Denoiser, concepts: Mapping[str, AttributeConcept]) -> None:
    """Raise ConfigError for a concept that the denoiser is told nothing of, ModelError where it is told nothing."""
    for name in concepts:
        attribute_of(denoiser, concepts, name)


def attribute_of(denoiser: Denoiser, concepts: Mapping[str, AttributeConcept], name: str) -> str:
    """Return the attribute of the concept `name`. Raises ConfigError, with the known ones, or ModelError."""
    if name not in concepts:
        near = get_close_matches(name, list(concepts), n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"concepts.concepts: there is no {name!r}, only {', '.join(concepts)}{meant}")
    if not denoiser.attributes:
        raise ModelError(
            f"concepts.concepts.{name}: the denoiser is told no attributes of an image, so it cannot be asked for a "
            "concept; study a conditional one"
        )
    attribute = concepts[name].attribute or name
    if attribute not in denoiser.attributes:
        near = get_close_matches(attribute, denoiser.attributes, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"concepts.concepts.{name}: the denoiser knows no attribute {attribute!r}, only "
            f"{', '.join(denoiser.attributes)}{meant}"
        )
    return attribute


def condition(denoiser: Denoiser, concept: AttributeConcept, attribute: str, way: Way, n: int, seed: int) -> Condition:
    """Return the condition of `n` images that are asked for the concept in this `way`."""
    value = {"asked": concept.value, "base": concept.base, "weak": concept.weak}[way]
    told = float("nan") if value is None else value
    return drawn_condition(denoiser, n, seed, fixed={attribute: told})
