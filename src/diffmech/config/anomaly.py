"""Settings of the anomaly study: a Bayesian VAE of brain MRI, its uncertainty, and how its scores are judged."""

from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from diffmech.config.section import Count, Intervals, Probability, Section, Seed

Weight: TypeAlias = Annotated[float, Field(ge=0)]
Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class AnomalyNetworkConfig(Section):
    """The encoder and the decoder."""

    channels: Annotated[list[Count], Field(min_length=1)] = Field(
        [16, 32, 64], description="Channels of the grids of the encoder, each half as wide as the last; mirrored."
    )
    attention: bool = Field(True, description="Whether places of the smallest grid attend to each other.")
    heads: Count = Field(4, description="Heads of that attention.")
    latents: Count = Field(8, description="Latents of each place of the smallest grid.")
    gaussian: bool = Field(True, description="Whether the latents are Gaussian; else it is a plain autoencoder.")
    variance: bool = Field(
        True, description="Whether the variance of each pixel is predicted; else it is one constant."
    )
    dropout: Share = Field(0.1, description="Share of channels that are dropped, in training and in every mask.")
    skips: bool = Field(True, description="Whether the decoder sees the grids of the encoder; needs corrupted slices.")
    atlas: bool = Field(
        True, description="Whether the network is told mean and deviation of healthy slices at the position of a slice."
    )


class AnomalyTrainingConfig(Section):
    """How each model is trained, on slices without a lesion alone."""

    steps: Annotated[int, Field(ge=0)] = Field(600, description="Steps of the optimiser; 0 = left as it begins.")
    batch_size: Count = Field(16, description="Slices per step.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(2e-3, description="Peak of the one-cycle schedule.")
    ema_decay: Share = Field(0.99, description="Decay of the averaged weights; 0 = those of the last step are kept.")
    beta: Weight = Field(0.1, description="Weight of the divergence from the prior after its warm-up.")
    warm_up: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="Share of the steps in which that weight rises from 0, in a straight line."
    )
    corruption: Weight = Field(
        0.2, description="Standard deviation of the coarse noise that is to be taken away again; 0 = none."
    )
    coarseness: Count = Field(4, description="Side of a cell of the coarse noise in pixels.")
    mirror: bool = Field(True, description="Whether half of the slices are mirrored, left to right.")
    candidates: Count = Field(
        10, description="Evenly spaced steps whose weights are judged on validation slices without a lesion."
    )
    seed: Seed = Field(0, description="Seed of the weights, the batches and what is sampled.")

    @property
    def precision(self) -> str:
        """That of every step: log-variances need it."""
        return "float32"


APART = 10_000  # between the seeds of members and of untrained networks
ROUNDS_APART = 100_000


class AnomalyModelConfig(Section):
    """One model: its networks and its training, as jobs get it."""

    network: AnomalyNetworkConfig = Field(AnomalyNetworkConfig(), description="The encoder and the decoder.")
    training: AnomalyTrainingConfig = Field(AnomalyTrainingConfig(), description="The training.")

    @model_validator(mode="after")
    def _nothing_to_copy(self) -> "AnomalyModelConfig":
        if self.network.skips and not self.training.corruption:
            raise ValueError(
                "network.skips lets the decoder copy intact slices, lesions and all; give training.corruption, or no "
                "skips"
            )
        return self

    def member(self, number: int) -> "AnomalyModelConfig":
        """Return the settings of one member of the ensemble: another seed, all else alike."""
        training = self.training.model_copy(update={"seed": self.training.seed + number})
        return self.model_copy(update={"training": training})

    def untrained(self, number: int) -> "AnomalyModelConfig":
        """Return the settings of a network that is left as it begins, with a seed far from those of members."""
        training = self.training.model_copy(update={"seed": self.training.seed + APART + number, "steps": 0})
        return self.model_copy(update={"training": training})

    def of_round(self, number: int) -> "AnomalyModelConfig":
        """Return the settings in a round of a cross-validation: seeds of its own, so that rounds tell of seeds too."""
        training = self.training.model_copy(update={"seed": self.training.seed + ROUNDS_APART * number})
        return self.model_copy(update={"training": training})

    def ablated(self, what: str) -> "AnomalyModelConfig":
        """Return the settings without `attention`, or without `uncertainty`: no variance predicted, nothing dropped."""
        changes: dict[str, dict[str, Any]] = {
            "attention": {"attention": False},
            "uncertainty": {"variance": False, "dropout": 0.0},
        }
        return self.model_copy(update={"network": self.network.model_copy(update=changes[what])})

    def plain_autoencoder(self) -> "AnomalyModelConfig":
        """Return a plain autoencoder of the same size: neither Gaussian nor Bayesian, nor corrupted, no attention."""
        return self._deterministic(skips=False, corruption=0.0)

    def denoising_autoencoder(self) -> "AnomalyModelConfig":
        """Return a denoising autoencoder of the same size (Kascenas et al. 2022): coarse noise and skips."""
        return self._deterministic(skips=True, corruption=self.training.corruption or 0.2)

    def _deterministic(self, *, skips: bool, corruption: float) -> "AnomalyModelConfig":
        plain: dict[str, Any] = {
            "attention": False,
            "gaussian": False,
            "variance": False,
            "dropout": 0.0,
            "skips": skips,
        }
        plain["atlas"] = False
        return AnomalyModelConfig(
            network=self.network.model_copy(update=plain),
            training=self.training.model_copy(update={"corruption": corruption}),
        )


class UncertaintyConfig(Section):
    """How weights and latents are sampled."""

    members: Count = Field(3, description="Models of the ensemble, which differ in their seed alone.")
    masks: Count = Field(4, description="Dropout masks of each member; one where nothing is dropped.")
    latent_draws: Count = Field(2, description="Draws of the latents for each mask; one where they are not Gaussian.")
    seed: Seed = Field(0, description="Seed of the masks and the draws.")


class ScoreConfig(Section):
    """What maps have in common before they are judged, the same for the model and every competitor."""

    model: Literal["reconstruction", "uncertainty", "combined", "standardised", "standardised_bright"] = Field(
        "standardised", description="The score of the model that competitors are compared with, fixed beforehand."
    )
    modality: str = Field("flair", description="Modality whose intensity the threshold is of.")
    smoothing: Weight = Field(1.5, description="Standard deviation in pixels of the Gaussian that smooths every map.")
    top_share: Probability = Field(
        0.05, description="Share of the brain's pixels, the highest of a map, whose mean is the score of a slice."
    )


class AnomalyEvaluationConfig(Intervals):
    """How scores are judged."""

    draws: Count = Field(2000, description="Bootstrap draws over patients behind every interval.")
    position_bins: Annotated[int, Field(ge=2)] = Field(
        10, description="Equally wide bins of slice position, within which slices are compared."
    )
    false_positives: Probability = Field(
        0.02, description="Share of brain pixels of healthy validation slices that lie above the threshold."
    )
    false_alarms: Probability = Field(
        0.1, description="Share of healthy validation slices that lie above the threshold of slices."
    )
    sizes: Annotated[list[Count], Field(min_length=1)] = Field(
        [30, 100], description="Edges in pixels between sizes of lesions in a slice."
    )
    calibration_bins: Annotated[int, Field(ge=2)] = Field(10, description="Bins of the reliability of variances.")
    seed: Seed = Field(0, description="Seed of the bootstrap and of the random score.")

    @field_validator("sizes")
    @classmethod
    def _rise(cls, value: list[int]) -> list[int]:
        if any(later <= earlier for earlier, later in pairwise(value)):
            raise ValueError(f"edges between sizes of lesions must rise, found {value}")
        return value
