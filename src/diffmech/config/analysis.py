"""`entropy`, `mechanisms`, `ablation`, `complexity` and `report`: what is computed from the captured passes."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from diffmech.config.patching import ABOUT_WINDOWS, Windows
from diffmech.config.section import ABOUT_METHODS, Count, Inference, Method, Section, Seed


class EntropyConfig(Inference):
    """Attention entropy per head, timestep and domain, and its divergence between the domains."""


class PhasesConfig(Section):
    """Segmentation of the timesteps into phases."""

    maximum: Count = Field(4, description="Most phases allowed.")
    penalty: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Penalty per further phase, in units of features x ln(timesteps)."
    )


class MechanismsConfig(Inference):
    """Head features, probes, clusters, their stability, and labels."""

    clusters: Annotated[int, Field(ge=2)] = Field(8, description="Clusters of self-attention heads (head x phase).")
    cross_clusters: Annotated[int, Field(ge=2)] = Field(4, description="Clusters of cross-attention heads.")
    cluster_range: tuple[int, int] = Field((2, 12), description="Cluster counts whose silhouette and BIC are shown.")
    probes: list[Literal["edges", "texture", "intensity", "parts"]] = Field(
        ["edges", "texture", "intensity", "parts"], description="Reference maps that attention is compared with."
    )
    rolls: Count = Field(
        500, description="Draws behind each null of reference maps: rolled in space, and dealt out among the images."
    )
    stability_draws: Count = Field(50, description="Bootstraps behind the adjusted Rand index.")
    phases: PhasesConfig = Field(PhasesConfig(), description="Segmentation of the timesteps.")
    seed: Seed = Field(0, description="Seed of the clustering.")

    @field_validator("cluster_range")
    @classmethod
    def _range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 2 <= value[0] <= value[1]:
            raise ValueError(f"must rise from at least 2, found {list(value)}; example: [2, 12]")
        return value


class AblationConfig(Inference):
    """Local ablation: one denoising pass with heads replaced, against the clean pass on the same latents."""

    groups: list[Literal["heads", "layers", "mechanisms"]] = Field(
        ["heads", "layers", "mechanisms"], description="What is ablated together."
    )
    methods: list[Method] = Field(
        ["mean", "zero", "resample", "uniform"],
        description=f"What replaces a head's output: {ABOUT_METHODS} The first is the one that rankings, tests and "
        "controls use.",
    )
    timesteps: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Subset of capture.timesteps; null = all of them."
    )
    window: tuple[int, int] | None = Field(
        None, description="Ablate only at timesteps first <= t <= last; null = at all."
    )
    windows: Windows = Field(
        "phases", description=f"Windows of timesteps in which effects are also told apart: {ABOUT_WINDOWS}"
    )
    samples: Count = Field(32, description="Images per domain.")
    method_samples: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Images per domain on which methods beyond the first are run, which decide nothing; null = all.",
    )
    shard_size: Count = Field(64, description="Images per job.")
    reference_samples: Annotated[int, Field(ge=2)] = Field(
        16,
        description="Reference images per domain: their clean head outputs give the mean and the resampled replacement "
        "of the images of that domain. They come after all images that are studied, and nothing else uses them.",
    )
    first_reference: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Number of the first reference image, counted from 0; null = right after the studied ones. A fixed "
        "one lets a study grow without new reference images.",
    )
    controls: Count = Field(
        20,
        description="Matched random sets of other heads per mechanism, run on the same images; at least 1 / alpha - 1, "
        "or none could be told from them.",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> "AblationConfig":
        for key in ("groups", "methods"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{key} must name at least one entry, each once, found {values}")
        if "heads" not in self.groups:
            raise ValueError("groups must contain heads: controls and complexity are made of their effects")
        if self.window is not None and self.window[0] > self.window[1]:
            raise ValueError(f"window must be [first, last] with first <= last, found {list(self.window)}")
        return self

    @property
    def pair_samples(self) -> int:
        """Images per domain on which pairs of planted heads are ablated together: pairs are many, and large."""
        return min(self.samples, 48)


class ComplexityConfig(Inference):
    """Circuit complexity of each domain and the ratio of the two."""


class ReportConfig(Section):
    """The page at the end."""

    title: str = Field("What each attention head does", description="Title of the page.")
    examples: Annotated[int, Field(ge=1, le=16)] = Field(4, description="Example images per domain and mechanism.")
    gallery: Annotated[int, Field(ge=1, le=64)] = Field(24, description="Images of each domain shown side by side.")


class RuntimeConfig(Section):
    """How fast, not what: an edit here reruns nothing."""

    device: str = Field("auto", description="`auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`, `mps`.")
    batch_size: Count = Field(64, description="Images per forward pass; halved where memory runs out.")
    threads: Count = Field(
        1, description="Threads of a job that runs the denoiser; jobs side by side use more cores better than threads."
    )
    training_threads: Count = Field(8, description="Threads of a training, at most those given by --cores.")
    shards_per_job: Count = Field(
        8, description="Shards of one block that share a job on a cluster, and the denoiser that is loaded there."
    )
    checkpoint_seconds: Annotated[float, Field(gt=0)] = Field(30.0, description="Seconds between training checkpoints.")
    progress: bool = Field(True, description="Show progress bars.")
