"""How a denoiser is asked for a concept, for the same images without it, and weakly.

The images of number i are one person: noise and all other attributes depend on (seed, number) alone, as in galleries,
so that what differs between ways of asking is the concept (the dual prompts of Six-CD, arXiv 2406.14855). Ours.
"""

from difflib import get_close_matches
from typing import Literal

from diffmech.config.studies.concepts import NamedConcept
from diffmech.errors import ConfigError, ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.sampling import drawn_condition

# asked: for the concept. base: without it. weak: for a little of it.
Way = Literal["asked", "base", "weak"]


def check_told(denoiser: Denoiser, concept: NamedConcept) -> None:
    """Raise ConfigError, with what is known, for a concept that the denoiser is not told; ModelError where none is."""
    if not denoiser.attributes:
        raise ModelError(
            f"concepts.concepts.{concept.name}: the denoiser is told no attributes of an image, so it cannot be asked "
            "for a concept; study a conditional one"
        )
    if concept.told not in denoiser.attributes:
        near = get_close_matches(concept.told, denoiser.attributes, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"concepts.concepts.{concept.name}: the denoiser knows no attribute {concept.told!r}, only "
            f"{', '.join(denoiser.attributes)}{meant}"
        )


def condition(denoiser: Denoiser, concept: NamedConcept, way: Way, n: int, seed: int) -> Condition:
    """Return the condition of `n` images that are asked for the concept in this `way`."""
    value = {"asked": concept.value, "base": concept.base, "weak": concept.weak}[way]
    told = float("nan") if value is None else value
    return drawn_condition(denoiser, n, seed, fixed={concept.told: told})
