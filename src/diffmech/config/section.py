"""What every section of config.yaml shares: unknown keys are errors, values are frozen, every field is described."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Method = Literal["zero", "mean", "mean_pooled", "resample", "uniform"]
ABOUT_METHODS = (
    "`mean` over the reference images of its domain, `zero`, `resample` = that of a reference image of its domain, "
    "`uniform` attention, or `mean_pooled` over the reference images of both domains, without the domain's mark."
)


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, defaults validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def canonical(self) -> dict[str, Any]:
        """Return the section as one plain dict with defaults filled in and a fixed order, as rules track it."""
        return self.model_dump(mode="json")

    @classmethod
    def restore(cls, canonical: dict[str, Any]) -> Self:
        """Return the section that `canonical()` was taken from."""
        return cls.model_validate(canonical)


class StudySection(Section):
    """Base of the section of a further study, whose file is `diffmech/config/studies/<name>.py`.

    Every field has a default: rules are read whether or not config.yaml asks for the study.
    """

    title: ClassVar[str]  # what the front page calls the study


class Intervals(Section):
    """Settings of the intervals that a section reports."""

    draws: Count = Field(2000, description="Bootstrap draws over samples (images) behind every interval.")
    confidence: Probability = Field(0.95, description="Coverage of the intervals.")


class Inference(Intervals):
    """Settings of the intervals and tests that a section reports."""

    permutations: Count = Field(2000, description="Permutations of the domain labels behind every p-value.")
    alpha: Probability = Field(0.05, description="Family-wise error rate after correction.")
