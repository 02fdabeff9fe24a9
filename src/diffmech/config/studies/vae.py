"""`vae`: what single latents and units of variational autoencoders do, and how well factors are told apart in them."""

from difflib import get_close_matches
from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from diffmech.config.factor_data import AnyFactorData, DSpritesLikeConfig
from diffmech.config.section import Count, Inference, Seed, StudySection
from diffmech.config.vae import AnyFamily, BetaTcVae, BetaVae, PlainVae, VaeConfig, VaeNetworkConfig, VaeTrainingConfig

Share = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class VaeMeasures(Inference):
    """What is measured in each VAE, and the statistics of it."""

    images: Annotated[int, Field(ge=100)] = Field(1500, description="Images whose codes are kept and scored.")
    pairs: Annotated[int, Field(ge=20)] = Field(
        256, description="Images of which one factor is changed, for each factor; units are chosen on half of them."
    )
    twins: Annotated[int, Field(ge=1)] = Field(
        10, description="Untrained networks of the same form, the null of what units of trained ones respond to."
    )
    share: Share = Field(0.1, description="Share of the units of a layer that are patched together.")
    votes: Count = Field(200, description="Votes of the FactorVAE score, to learn from and to score each.")
    floors: Count = Field(10, description="Codes that know nothing, behind the floor of each score.")
    scenes: Annotated[int, Field(ge=10)] = Field(
        128, description="Scenes in which each factor is set, for each pair of cause and effect in a causal graph."
    )
    steps: Annotated[int, Field(ge=2)] = Field(7, description="Images in a traversal of one latent.")
    span: Annotated[float, Field(gt=0)] = Field(
        2.0, description="Ends of a traversal, in standard deviations of the aggregate posterior either side."
    )
    seed: Seed = Field(0, description="Seed of the images and pairs, the same for all VAEs of a data set.")


class VaeStudy(StudySection):
    """What single latents and units of VAEs do, and how well factors are told apart in them."""

    title: ClassVar[str] = "Causal interventions in VAEs"

    data: Annotated[dict[Name, AnyFactorData], Field(min_length=1)] = Field(
        {"sprites": DSpritesLikeConfig(kind="dsprites_like", size=32)}, description="Data sets of factors by name."
    )
    factors: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        {}, description="By the name of a data set, which of its factors are studied; all where it is not named."
    )
    families: Annotated[dict[Name, AnyFamily], Field(min_length=1)] = Field(
        # images of 32 pixels have a quarter of the nats of those of 64, for which weights of 4 and 6 are usual
        {"vae": PlainVae(), "beta_vae": BetaVae(beta=2), "beta_tc_vae": BetaTcVae(beta=2)},
        description="Families by name.",
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(
        [0, 1, 2], description="Seeds of the trainings, the unit of all intervals between families."
    )
    network: VaeNetworkConfig = Field(VaeNetworkConfig(), description="The encoder and the decoder.")
    training: VaeTrainingConfig = Field(VaeTrainingConfig(), description="The training; its seed is one of `seeds`.")
    measures: VaeMeasures = Field(VaeMeasures(), description="What is measured, and the statistics of it.")

    @field_validator("seeds")
    @classmethod
    def _differ(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError(f"seeds of VAEs must differ, found {value}")
        return value

    @model_validator(mode="after")
    def _factors_exist(self) -> "VaeStudy":
        for name, factors in self.factors.items():
            if name not in self.data:
                raise ValueError(f"factors: {name!r} is no data set of `data`, which has {', '.join(self.data)}")
            known = self.data[name].names()
            for factor in factors:
                if known and factor not in known:
                    near = get_close_matches(factor, known, n=1, cutoff=0.0)[0]
                    raise ValueError(
                        f"factors.{name}: {factor!r} is no factor of it, did you mean {near!r}? "
                        f"It has {', '.join(known)}"
                    )
        return self

    def vae(self, family: str, seed: int) -> VaeConfig:
        """Return the settings of one VAE of the study."""
        training = self.training.model_copy(update={"seed": seed})
        return VaeConfig(family=self.families[family], network=self.network, training=training)

    def studied(self, data: str) -> list[str]:
        """Return the names of the factors of a data set that are studied, in its own order."""
        known = self.data[data].names()
        return [name for name in known if name in self.factors[data]] if data in self.factors else known
