"""Parts of `concepts`: whether a concept is destroyed or avoided, and what it has to do with attention heads."""

from typing import Annotated

from pydantic import Field

from diffmech.config.section import Count, Section

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class InversionConfig(Section):
    """A token that brings the concept back is looked for; for denoisers with tokens of attributes."""

    images: Count = Field(8, description="Images of the unedited denoiser, of the seed of `attribution`.")
    steps: Count = Field(25, description="Steps of the optimiser (Adam).")
    batch: Count = Field(8, description="Images in each step.")
    rate: Positive = Field(0.15, description="Learning rate; tokens have components of about 1.")


class ProbesConfig(Section):
    """Is a concept that was erased destroyed, or only avoided? At the doses in `compared` of `edits.erase`."""

    completion: list[Share] = Field(
        [0.17, 0.5],
        description="Shares of the sampling steps that the unedited denoiser does before the edited one finishes, "
        "rounded to whole steps, at least one; [] = none.",
    )
    eta: list[Positive] = Field(
        [1.85],
        description="Fresh noise in every sampling step: 1 is that of DDPM; more is cut off where it would be more "
        "than the noise of the next timestep. [] = none.",
    )
    inversion: InversionConfig | None = Field(
        InversionConfig.model_validate({}),
        description="Search for a token that brings the concept back; null = none.",
    )


class InsideConfig(Section):
    """What an edit does to the entropy of attention, on the same noisy images, at the doses in `compared`."""

    samples: Annotated[int, Field(ge=2)] = Field(12, description="Images, the first seeds of `evaluation`.")
    timesteps: Count = Field(
        2, description="Sampling steps of `evaluation` at which attention is seen, evenly spread; at most all of them."
    )
    draws: Count = Field(2, description="Random edits of as many weights in each matrix behind the null.")


class HeadsConfig(Section):
    """In which attention heads the weights lie that carry a concept."""

    components: Count = Field(800, description="Weights of attention of the highest, and of the lowest, scores.")
    overlap: bool = Field(
        False,
        description="Whether they lie in heads that the main study finds to matter, which it then has to find first: "
        "true makes `snakemake concepts` run its ablations too, unless `make everything` has.",
    )
