"""Settings of VAEs: families, networks and trainings."""

from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field

from diffmech.config.section import Count, Section, Seed

Weight: TypeAlias = Annotated[float, Field(ge=0)]
Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class PlainVae(Section):
    """Kingma & Welling 2014."""

    kind: Literal["vae"] = Field("vae", description="Kingma & Welling 2014.")


class BetaVae(Section):
    """Higgins et al. 2017."""

    kind: Literal["beta_vae"] = Field("beta_vae", description="Higgins et al. 2017.")
    beta: Weight = Field(4.0, description="Weight of the divergence from the prior; 1 = the plain VAE.")


class FactorVae(Section):
    """Kim & Mnih 2018."""

    kind: Literal["factor_vae"] = Field("factor_vae", description="Kim & Mnih 2018.")
    gamma: Weight = Field(10.0, description="Weight of the total correlation that a discriminator estimates.")
    layers: Count = Field(4, description="Hidden layers of the discriminator; 6 in the paper.")
    width: Count = Field(256, description="Units of each; 1,000 in the paper.")


class BetaTcVae(Section):
    """Chen et al. 2018."""

    kind: Literal["beta_tc_vae"] = Field("beta_tc_vae", description="Chen et al. 2018.")
    beta: Weight = Field(6.0, description="Weight of the total correlation; 1 = the plain VAE.")
    sampling: Literal["weighted", "stratified"] = Field(
        "weighted",
        description="How a batch estimates the aggregate posterior: minibatch weighted sampling, which the paper "
        "trains with, or stratified sampling, which is unbiased for the density and knows the size of the data set.",
    )


class DipVaeII(Section):
    """Kumar et al. 2018."""

    kind: Literal["dip_vae_ii"] = Field("dip_vae_ii", description="Kumar et al. 2018.")
    off_diagonal: Weight = Field(10.0, description="Weight of the squared covariances of different latents.")
    diagonal: Weight = Field(10.0, description="Weight of the squared distances of their variances from 1.")


class VqVae(Section):
    """van den Oord et al. 2017."""

    kind: Literal["vq_vae"] = Field("vq_vae", description="van den Oord et al. 2017.")
    codes: Annotated[int, Field(ge=2)] = Field(64, description="Codes in the codebook.")
    code_size: Count = Field(16, description="Numbers in a code.")
    commitment: Weight = Field(0.25, description="Weight of the distance of what is encoded from its code.")
    decay: Decay = Field(0.99, description="Decay of the moving averages that codes follow.")
    restart_below: Weight = Field(
        0.1, description="A code that is used less often than this per batch, on average, starts anew; 0 = never."
    )


AnyFamily: TypeAlias = Annotated[
    PlainVae | BetaVae | FactorVae | BetaTcVae | DipVaeII | VqVae, Field(discriminator="kind")
]
FAMILIES: tuple[type[Section], ...] = get_args(get_args(AnyFamily)[0])
# With a Gaussian posterior of single latents: all but the VQ-VAE, whose latent is a grid of numbers of codes.
CONTINUOUS: TypeAlias = PlainVae | BetaVae | FactorVae | BetaTcVae | DipVaeII


class VaeNetworkConfig(Section):
    """The encoder and the decoder, the same for every family."""

    channels: Annotated[list[Count], Field(min_length=1)] = Field(
        [16, 32, 32], description="Channels of each convolution of the encoder, which halves the image; mirrored."
    )
    hidden: Count = Field(128, description="Units between the convolutions and the latents, on either side.")
    latents: Count = Field(10, description="Latents; a VQ-VAE has its grid of codes instead.")
    likelihood: Literal["bernoulli", "gaussian"] = Field(
        "bernoulli",
        description="Of a pixel in [0, 1]: Bernoulli with the decoded mean, a likelihood only where pixels are 0 or 1, "
        "or Gaussian around it.",
    )
    sigma: Annotated[float, Field(gt=0)] = Field(0.1, description="Standard deviation of the Gaussian likelihood.")


class VaeTrainingConfig(Section):
    """How each VAE is trained."""

    steps: Count = Field(1200, description="Steps of the optimiser.")
    batch_size: Annotated[int, Field(ge=2)] = Field(64, description="Images per step.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(2e-3, description="Peak of the one-cycle schedule.")
    ema_decay: Decay = Field(0.0, description="Decay of the averaged weights; 0 = those of the last step are kept.")
    seed: Seed = Field(0, description="Seed of the weights, the batches and what is sampled.")

    @property
    def precision(self) -> str:
        """That of every step: densities need it, and networks as small as these gain little by less."""
        return "float32"


class VaeConfig(Section):
    """One VAE: its family, its networks and its training, as jobs get it."""

    family: AnyFamily = Field(PlainVae(), description="The family, with its weights.")
    network: VaeNetworkConfig = Field(VaeNetworkConfig(), description="The encoder and the decoder.")
    training: VaeTrainingConfig = Field(VaeTrainingConfig(), description="The training.")
