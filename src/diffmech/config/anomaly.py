"""Settings of the anomaly study: a Bayesian VAE of brain MRI, its uncertainty, and how its scores are judged."""

from typing import Annotated, TypeAlias

from pydantic import Field

from diffmech.config.section import Count, Inference, Probability, Section, Seed

Weight: TypeAlias = Annotated[float, Field(ge=0)]
Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class AnomalyNetworkConfig(Section):
    """The encoder and the decoder."""

    channels: Annotated[list[Count], Field(min_length=1)] = Field(
        [16, 32, 64], description="Channels of each convolution of the encoder, which halves the slice; mirrored."
    )
    attention: bool = Field(True, description="Whether places of the smallest grid attend to each other.")
    heads: Count = Field(4, description="Heads of that attention.")
    latents: Count = Field(8, description="Latents of each place of the smallest grid.")
    variance: bool = Field(True, description="Whether the variance of each pixel is predicted; else it is one constant.")
    dropout: Share = Field(0.1, description="Share of channels that are dropped, in training and for every mask.")
    skips: bool = Field(False, description="Whether the decoder sees the grids of the encoder; needs corruption.")
