"""`circuit`: which heads carry the computation."""

from typing import Annotated, Literal

from pydantic import Field

from diffmech.config.section import Count, Probability, Section


class CircuitConfig(Section):
    """Attribution patching: the effect of ablating each head, estimated from gradients, beside the exact one."""

    method: Literal["zero", "mean", "resample", "uniform"] | None = Field(
        None, description="What replaces a head's output, one of ablation.methods; null = the first of them."
    )
    samples: Count | None = Field(None, description="Images per domain; null = ablation.samples.")
    steps: Annotated[int, Field(ge=0)] = Field(
        1, description="Steps of integrated gradients beside the plain gradient; 0 = the plain gradient alone."
    )
    path: Literal["site", "joint"] = Field(
        "site",
        description="What moves together along the steps: the heads of one site (a run per site), or all heads.",
    )
    draws: Count = Field(2000, description="Bootstrap draws over images behind every interval.")
    confidence: Probability = Field(0.95, description="Coverage of the intervals.")
