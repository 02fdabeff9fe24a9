"""`study`, `latents`, `capture` and `untrained`: which question is asked, on which passes of the denoiser."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from diffmech.config.section import Count, Section, Seed


class StudyConfig(Section):
    """What is compared."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] = Field(description="Name shown in the report.")
    model: str = Field(description="The entry of `models` that is studied.")
    domains: dict[str, str] = Field(
        description="The two domains and the data set behind each. The first is the one differences are counted from."
    )
    seed: Seed = Field(0, description="Seed of all statistics (bootstrap, permutations, controls).")

    @field_validator("domains")
    @classmethod
    def _two_domains(cls, domains: dict[str, str]) -> dict[str, str]:
        if len(domains) != 2 or len(set(domains.values())) != 2:
            raise ValueError(
                f"needs exactly two domains with two different data sets, found {dict(domains)}; "
                "example: {real: lfw_subset, synthetic: synthetic_faces}"
            )
        return domains


class LatentsConfig(Section):
    """The noised images x_t that capture and ablation share."""

    condition: Literal["full", "null"] = Field(
        "full", description="Condition the denoiser on each image's own domain and attributes, or on nothing."
    )
    seed: Seed = Field(0, description="Seed of the noise, drawn by (seed, sample, timestep).")


class CaptureConfig(Section):
    """Which passes are observed and what is kept of them."""

    timesteps: list[Annotated[int, Field(ge=0)]] = Field(
        [20, 120, 220, 320, 420, 520, 620, 720, 820, 920],
        description="Timesteps of the scheduler, 0 = clean image.",
    )
    samples: Count = Field(100, description="Images per domain (fewer where the data set has fewer).")
    shard_size: Count = Field(200, description="Images per job: sample ids 0..n-1, n..2n-1, ...")
    block_span: Count = Field(500, description="Timesteps t with the same t // block_span share a job.")
    keep_maps: Annotated[int, Field(ge=0)] = Field(
        8, description="Full float16 attention maps are kept for the first samples of each shard."
    )

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
        if self.keep_maps > self.shard_size:
            raise ValueError(f"keep_maps {self.keep_maps} is above shard_size {self.shard_size}")
        return self


class UntrainedConfig(Section):
    """The null: the same architecture with random weights, several times."""

    seeds: Annotated[int, Field(ge=1)] = Field(
        19, description="Random initialisations; 19 allow p = 0.05 by rank, 99 allow p = 0.01."
    )
    samples: Count = Field(16, description="Images per domain on which they are observed.")
