"""`study`, `latents`, `capture` and `untrained`: which question is asked, on which passes of the denoiser."""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from diffmech.config.section import Count, Section, Seed

LABELLED = "synthetic"  # the domain whose attributes are known; the last one where no domain has this name
DEFAULT_DOMAINS = {"real": "lfw_subset", "synthetic": "synthetic_faces"}  # those of config.yaml
NOTHING = "nothing"  # what an image is told that is not said to be of any domain
_FULL_OR_NULL = {"anyOf": [{"enum": ["full", "null"], "type": "string"}, {"type": "null"}]}
_NAMES_OR_NULL = {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "null"}]}}


class StudyConfig(Section):
    """What is compared."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] = Field(description="Name shown in the report.")
    model: str = Field(description="The entry of `models` that is studied.")
    domains: Annotated[dict[str, str], WithJsonSchema(_NAMES_OR_NULL)] = Field(
        description="The two domains and the data set behind each. The first is the one differences are counted from. "
        "In a file laid over config.yaml two other names replace those of the default study; null takes one out."
    )
    seed: Seed = Field(0, description="Seed of all statistics (bootstrap, permutations, controls).")

    @field_validator("domains", mode="before")
    @classmethod
    def _own(cls, domains: Any) -> Any:
        """Leave out what null takes out, and of more than two what is the default study's beside two of one's own."""
        if not isinstance(domains, dict):
            return domains
        named = {name: dataset for name, dataset in domains.items() if dataset is not None}
        own = {name: dataset for name, dataset in named.items() if DEFAULT_DOMAINS.get(name) != dataset}
        return own if len(named) > 2 and len(own) == 2 else named

    @field_validator("domains")
    @classmethod
    def _two_domains(cls, domains: dict[str, str]) -> dict[str, str]:
        if len(domains) != 2 or len(set(domains.values())) != 2:
            left = [name for name in DEFAULT_DOMAINS if name in domains]
            remedy = (
                "a file laid over config.yaml takes out the domains that stand there by null: "
                f"{{{', '.join(f'{name}: null' for name in left)}, ...}}"
                if len(domains) > 2 and left
                else "example: {real: lfw_subset, synthetic: synthetic_faces}"
            )
            raise ValueError(f"needs exactly two domains with two different data sets, found {dict(domains)}; {remedy}")
        if NOTHING in domains:
            raise ValueError(f"no domain can be named {NOTHING!r}, which is what an image is told of no domain")
        return domains


class LatentsConfig(Section):
    """The noised images x_t that capture and ablation share."""

    kind: Literal["noised", "trajectory"] = Field(
        "noised",
        description="`noised`: clean images plus noise, with a denoising loss; `trajectory` (of prompts): what the "
        "denoiser was given while it generated the images, at the sampling steps nearest to capture.timesteps.",
    )
    condition: Annotated[Literal["full", "null"], WithJsonSchema(_FULL_OR_NULL)] = Field(
        "full", description="Condition the denoiser on each image's own domain and attributes, or (null) on nothing."
    )
    seed: Seed = Field(0, description="Seed of the noise, drawn by (seed, sample, timestep).")

    @field_validator("condition", mode="before")
    @classmethod
    def _null_is_a_word(cls, condition: Any) -> Any:
        return "null" if condition is None else condition  # what YAML makes of it without quotes


class KeptPasses(Section):
    """Of which passes and sites something is kept: of all, unless narrowed."""

    sites: list[str] = Field(
        ["*"], min_length=1, description="Names of attention sites, or globs over them, e.g. `up*.self`, `*.cross`."
    )
    max_queries: Count | None = Field(
        None, description="Only sites of at most this many queries, e.g. 1024 for 32 x 32; null = of any size."
    )
    timesteps: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Only these of `capture.timesteps`; null = all."
    )

    @field_validator("timesteps")
    @classmethod
    def _sorted(cls, timesteps: list[int] | None) -> list[int] | None:
        if timesteps == []:
            raise ValueError("is empty; give some of capture.timesteps, or null for all")
        return timesteps and sorted(set(timesteps))


class CaptureConfig(Section):
    """Which passes are observed and what is kept of them, beside the statistics of all samples."""

    timesteps: list[Annotated[int, Field(ge=0)]] = Field(
        [20, 120, 220, 320, 420, 520, 620, 720, 820, 920],
        description="Timesteps of the scheduler, 0 = clean image.",
    )
    samples: Count = Field(
        100,
        description="Images per domain (fewer where the data set has fewer). Clusters of heads are found on those that "
        "nothing else studies: half of them, or what is left; at least 2.",
    )
    images: Literal["all", "unseen"] = Field(
        "all",
        description="`unseen`: only images that were kept out of the training of the denoiser, which must be on record "
        "(source train, bundled, or a directory that was trained here); too few of them are an error.",
    )
    shard_size: Count = Field(200, description="Images per job: sample ids 0..n-1, n..2n-1, ...")
    block_span: Count = Field(500, description="Timesteps t with the same t // block_span share a job.")
    keep_maps: Annotated[int, Field(ge=0)] = Field(
        8, description="Full float16 attention maps are kept for the first samples of each shard."
    )
    keep_factors: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Queries and keys in float16 are kept for the first samples of each shard: their maps are computed "
        "when they are read, from a fraction of the space.",
    )
    maps_of: KeptPasses = Field(KeptPasses(), description="Where maps are kept.")
    factors_of: KeptPasses = Field(KeptPasses(), description="Where factors are kept.")

    @field_validator("timesteps")
    @classmethod
    def _sorted_unique(cls, timesteps: list[int]) -> list[int]:
        if not timesteps:
            raise ValueError("needs at least one timestep, e.g. [100, 500, 900]")
        if len(set(timesteps)) != len(timesteps):
            raise ValueError(f"lists a timestep twice: {timesteps}")
        return sorted(timesteps)

    @model_validator(mode="after")
    def _maps_fit(self) -> "CaptureConfig":
        for name in ("keep_maps", "keep_factors"):
            if getattr(self, name) > self.shard_size:
                raise ValueError(f"{name} {getattr(self, name)} is above shard_size {self.shard_size}")
        return self


class UntrainedConfig(Section):
    """The null: the same architecture with random weights, several times."""

    seeds: Annotated[int, Field(ge=1)] = Field(
        19, description="Random initialisations; 19 allow p = 0.05 by rank, 99 allow p = 0.01."
    )
    samples: Count = Field(16, description="Images per domain on which they are observed.")


class ToldConfig(Section):
    """Passes in which every image is told that it is of the first domain, of the second, and nothing.

    They keep apart what the image causes and what it was told causes. Statistics only; none where the denoiser reads
    no condition, or `latents.condition` is null.
    """

    samples: Count = Field(40, description="Images per domain (fewer where capture.samples is less).")
    timesteps: Count | None = Field(
        None, description="How many of capture.timesteps, spread evenly; null = all of them."
    )
    untrained_samples: Count = Field(6, description="Images per domain on which untrained twins are told nothing.")
    untrained_told: Count = Field(2, description="Images per domain on which untrained twins are told a domain.")
