"""`resampling`: what becomes of whole images when heads are removed while they are sampled."""

from typing import Annotated, Literal

from pydantic import Field

from diffmech.config.judging import JudgesConfig
from diffmech.config.patching import ABOUT_WINDOWS, Windows
from diffmech.config.section import Count, Probability, Seed


class ResamplingConfig(JudgesConfig):
    """Global effects: the same seeds sampled again with heads removed, against the clean images and other controls."""

    domains: list[str] | None = Field(
        None, description="Domains that are sampled; null = the one with known attributes, of a pipeline both."
    )
    images: Annotated[int, Field(ge=2)] = Field(16, description="Images (seeds) per domain.")
    reference: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Clean images of other seeds that Frechet and kernel distance refer to; null = as many."
    )
    steps: Count | None = Field(None, description="Sampling steps; null = sampling.steps.")
    guidance: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Classifier-free guidance, 1 = none, which halves the time; null = sampling.guidance."
    )
    method: Literal["mean", "zero"] = Field(
        "mean",
        description="What replaces a head's output: its mean over clean images of other seeds at the same sampling "
        "step and pass of guidance, or zero.",
    )
    mean_images: Annotated[int, Field(ge=2)] = Field(
        8, description="Clean images of further seeds whose head outputs give the mean; they serve for nothing else."
    )
    controls: Annotated[int, Field(ge=0)] = Field(
        6,
        description="Matched random sets of heads per mechanism, run on the same images; below 19 none can be "
        "beaten at level 0.05.",
    )
    windows: Windows | None = Field(
        None, description=f"Parts of sampling in which mechanisms are also removed alone: {ABOUT_WINDOWS} Null = none."
    )
    heads: list[str] = Field(
        [], description="Single heads that are removed too, by name or glob, e.g. `mid.0.self.h03`, `up1.*.cross.*`."
    )
    parts: Count = Field(2, description="Jobs that share the work on one domain.")
    examples: Annotated[int, Field(ge=1, le=16)] = Field(6, description="Images of each mechanism in the report.")
    draws: Count = Field(2000, description="Bootstrap draws over seeds behind the intervals of likeness and error.")
    distance_draws: Count = Field(
        500, description="Swaps of clean and ablated images behind the p-values of Frechet and kernel distance."
    )
    confidence: Probability = Field(
        0.95, description="Coverage of the intervals. The level of the tests is ablation.alpha."
    )
    seed: Seed = Field(0, description="Seed of the initial noise.")
