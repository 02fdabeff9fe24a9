"""`anomaly`: a Bayesian VAE of brain MRI, what it finds unusual and how sure it is, beside what it has to beat."""

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from diffmech.config.anomaly import AnomalyEvaluationConfig, AnomalyModelConfig, ScoreConfig, UncertaintyConfig
from diffmech.config.anomaly_data import AnyBrains, Published, SplitConfig, SyntheticBrains, WithModalities
from diffmech.config.section import Count, StudySection

ENSEMBLE, ONE_MEMBER = "model", "one_member"
NO_ATTENTION, NO_UNCERTAINTY = "no_attention", "no_uncertainty"
UNTRAINED = "untrained"  # as many networks as the ensemble has, told the atlas as these are
AUTOENCODERS = ("autoencoder", "denoising_autoencoder")
WHOLE = "split"  # the one round of a study without folds


class AnomalyStudy(StudySection):
    """A Bayesian VAE of brain MRI: what it finds unusual, how sure it is, and what finds lesions without it."""

    title: ClassVar[str] = "Bayesian VAE for brain MRI"

    data: AnyBrains = Field(SyntheticBrains(), description="The brains; synthetic ones need no files.")
    splits: SplitConfig = Field(SplitConfig(), description="Which patients train, validate and test.")
    folds: Annotated[int, Field(ge=3)] | None = Field(
        None,
        description="Rounds of a cross-validation, in which each patient tests once: `splits` then gives the seed "
        "alone. Null = one split.",
    )
    model: AnomalyModelConfig = Field(AnomalyModelConfig(), description="The model: its networks and its training.")
    uncertainty: UncertaintyConfig = Field(UncertaintyConfig(), description="How weights and latents are sampled.")
    scores: ScoreConfig = Field(ScoreConfig(), description="What all maps have in common before they are judged.")
    evaluation: AnomalyEvaluationConfig = Field(AnomalyEvaluationConfig(), description="How scores are judged.")
    examples: Count = Field(3, description="Slices of a kind on the page: best, in the middle, worst, false alarms.")

    @model_validator(mode="after")
    def _fits_the_data(self) -> "AnomalyStudy":
        known = self.data.modalities if isinstance(self.data, WithModalities) else ["flair"]
        if self.scores.modality not in known:
            raise ValueError(
                f"scores.modality: {self.scores.modality!r} is the threshold's, but data has {', '.join(known)}; "
                "choose from these"
            )
        if self.folds is not None and isinstance(self.data, Published):
            raise ValueError(f"folds: {self.data.kind} has the splits that it was published with; take folds out")
        return self

    @property
    def rounds(self) -> list[str]:
        """The names of the rounds in which networks are trained: one, or one for each fold."""
        return [WHOLE] if self.folds is None else [f"fold{number}" for number in range(self.folds)]

    @property
    def members(self) -> list[str]:
        """The names of the networks of the ensemble."""
        return [f"member{number}" for number in range(self.uncertainty.members)]

    @property
    def networks(self) -> dict[str, AnomalyModelConfig]:
        """The settings of every network that is trained in a round, by its name."""
        own = {name: self.model.member(number) for number, name in enumerate(self.members)}
        if self.model.network.attention:
            own[NO_ATTENTION] = self.model.ablated("attention")
        if self.model.network.variance or self.model.network.dropout:
            own[NO_UNCERTAINTY] = self.model.ablated("uncertainty")
        own |= {f"{UNTRAINED}{number}": self.model.untrained(number) for number in range(len(self.members))}
        plain, denoising = AUTOENCODERS
        return own | {plain: self.model.plain_autoencoder(), denoising: self.model.denoising_autoencoder()}

    @property
    def predicting(self) -> dict[str, list[str]]:
        """The networks behind everything that predicts a variance, by its name: the ensemble, and one network of it
        beside those that lack something, so that these are compared with as many."""
        ablated = {name: [name] for name in (NO_ATTENTION, NO_UNCERTAINTY) if name in self.networks}
        untrained = [f"{UNTRAINED}{number}" for number in range(len(self.members))]
        return {ENSEMBLE: self.members, ONE_MEMBER: self.members[:1], **ablated, UNTRAINED: untrained}
