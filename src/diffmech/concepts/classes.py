"""Concepts that are a class of a class-conditioned denoiser. Ours."""

from diffmech.concepts.edits import Way
from diffmech.concepts.ways import Conditioned, CrossTokens, check_known
from diffmech.config.studies.concepts import ClassConcept
from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.sampling import drawn_condition


class ClassAsking(Conditioned):
    """A class, no class (or another one), and again no class.

    Images without the concept are of the other classes in turn, so that they show what else an edit takes away.
    """

    def __init__(self, denoiser: Denoiser, concept: ClassConcept, name: str) -> None:
        """Raises ConfigError, with those known, for an unknown class; ModelError where images have no class."""
        self.denoiser, self.concept, self.attribute = denoiser, concept, concept.seen(name)
        if not denoiser.classes:
            raise ModelError(
                f"concepts.concepts.{name}: the denoiser is not conditioned on classes, so it cannot be asked for one; "
                "give the concept another kind"
            )
        for label in (self.attribute, concept.base):
            if label is not None:
                what = f"concepts.concepts.{name}: the denoiser knows no class"
                check_known(label, denoiser.attributes, what)

    def condition(self, way: Way, n: int, seed: int) -> Condition:
        """Return the condition of `n` passes of the objectives: of the class, of its base, or of none."""
        label = {"asked": self.attribute, "base": self.concept.base, "weak": None}[way]
        nothing = Condition.null(n, len(self.denoiser.attributes))
        return nothing if label is None else drawn_condition(self.denoiser, n, seed, fixed={label: 1.0})

    def shown(self, way: Way, n: int, seed: int) -> Condition:
        """Return the condition of `n` images that are looked at; without the concept, the other classes in turn."""
        if way == "base":
            return drawn_condition(self.denoiser, n, seed, fixed={self.attribute: 0.0})
        return self.condition(way, n, seed)

    def cross_tokens(self) -> CrossTokens | None:
        """Return None: a class is told by an embedding that is added to that of the timestep."""
        return None
