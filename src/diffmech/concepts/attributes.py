"""Concepts that are values of an attribute which a denoiser is told. Ours."""

import torch

from diffmech.concepts.edits import Way
from diffmech.concepts.ways import Conditioned, CrossTokens, check_known
from diffmech.config.studies.concepts import AttributeConcept
from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.sampling import drawn_condition


class AttributeAsking(Conditioned):
    """An attribute at the value that asks for it, at its base value, and at its weak one."""

    def __init__(self, denoiser: Denoiser, concept: AttributeConcept, name: str) -> None:
        """Raises ConfigError, with what is known, for an attribute that is not told; ModelError where none is."""
        self.denoiser, self.concept, self.attribute = denoiser, concept, concept.seen(name)
        if not denoiser.attributes:
            raise ModelError(
                f"concepts.concepts.{name}: the denoiser is told no attributes of an image, so it cannot be asked "
                "for a concept; study a conditional one"
            )
        what = f"concepts.concepts.{name}: the denoiser knows no attribute"
        check_known(self.attribute, denoiser.attributes, what)

    def condition(self, way: Way, n: int, seed: int) -> Condition:
        """Return the condition of `n` images that are asked for the concept in this `way`."""
        value = {"asked": self.concept.value, "base": self.concept.base, "weak": self.concept.weak}[way]
        told = float("nan") if value is None else value
        return drawn_condition(self.denoiser, n, seed, fixed={self.attribute: told})

    def cross_tokens(self) -> CrossTokens | None:
        """Return the token of the attribute with and without the concept; the other ones and the base are kept."""
        tokens = self.denoiser.tokens
        if tokens is None:
            return None
        number = self.denoiser.attributes.index(self.attribute)
        others = [index for index in range(len(self.denoiser.attributes)) if index != number]

        def token(value: float | None) -> torch.Tensor:
            own = tokens.null[number] if value is None else tokens.base[number] + value * tokens.slope[number]
            return own[None]

        with torch.no_grad():
            kept = [tokens.base[others], (tokens.base + tokens.slope)[others], tokens.null[others], tokens.domain]
            kept += [tokens.domain_null[None], token(self.concept.base)]
            return CrossTokens(token(self.concept.value), token(self.concept.base), torch.cat(kept))
