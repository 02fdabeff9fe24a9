"""`patching`: what a head carries of the difference between two inputs; and windows of timesteps, for ablation too."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from diffmech.config.section import Count, Inference

ATTRIBUTE = "attribute:"


def _known_windows(windows: Any) -> Any:
    """Answer a mistake in windows with one line: each member of the union would have its own."""
    pairs = isinstance(windows, list | tuple) and all(
        isinstance(window, list | tuple) and [type(end) for end in window] == [int, int] and min(window) >= 0
        for window in windows
    )
    if windows in ("phases", "thirds") or (pairs and windows):
        return windows
    raise ValueError(
        f"{windows!r} is none of phases, thirds and a list of [first, last]; example: [[0, 300], [301, 999]]"
    )


def _known_source(source: Any) -> Any:
    if isinstance(source, str) and re.fullmatch(rf"sample|domain|{ATTRIBUTE}.+", source):
        return source
    raise ValueError(f"{source!r} is none of sample, domain and attribute:<name>, e.g. attribute:glasses")


# What the second pass is; all but `sample` need a denoiser that is told what they name.
Source = Annotated[str, BeforeValidator(_known_source)]
Window = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
Windows = Annotated[Literal["phases", "thirds"] | list[Window], BeforeValidator(_known_windows)]
ABOUT_WINDOWS = (
    "`phases` = those found in the heads' behaviour, `thirds` = those of the schedule, or a list of [first, last]."
)


class PatchingConfig(Inference):
    """Activation patching: each head's output is put from one pass into another, alone."""

    sources: list[Source] | None = Field(
        None,
        description="What the second pass is: `sample` = another image of the same domain, with its own noise and "
        "condition; `domain` = the same noised image, said to be of the other domain; `attribute:<name>` = the same "
        "noised image with that attribute flipped. Null = `domain` where the denoiser is known to be told the domain, "
        "else `sample`; denoisers without such a condition have `sample` only.",
    )
    groups: list[Literal["heads", "layers"]] = Field(["heads"], min_length=1, description="What is patched together.")
    heads: list[str] = Field(
        ["*"], min_length=1, description="Heads of the group heads: names, sites, or globs over both, e.g. `*.cross`."
    )
    samples: Count = Field(
        7, description="Images per domain (fewer where there are fewer; `sample` takes as many others beside them)."
    )
    timesteps: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Subset of capture.timesteps; null = those of ablation."
    )
    windows: Windows | None = Field(None, description=f"{ABOUT_WINDOWS} Null = those of ablation.")
    doses: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(
        [0.5, 1.0], description="Shares of the output that are replaced; 0 changes nothing, 1 replaces all of it."
    )
    dose_targets: Count | None = Field(
        6, description="Doses other than 1 are run for so many targets of the largest effect; null = for all."
    )
    directions: list[Literal["denoising", "noising"]] = Field(
        ["denoising", "noising"],
        min_length=1,
        description="`denoising`: from the second pass into the first (is the head sufficient?); `noising`: the other "
        "way round (is it necessary?).",
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _spelled(cls, sources: Any) -> Any:
        """Take `attribute: glasses` for `attribute:glasses`: YAML reads the first as a mapping."""
        if not isinstance(sources, list):
            return sources
        mapping = [isinstance(source, dict) and list(source) == ["attribute"] for source in sources]
        return [f"{ATTRIBUTE}{s['attribute']}" if spoken else s for s, spoken in zip(sources, mapping, strict=True)]

    @field_validator("timesteps", "sources")
    @classmethod
    def _not_empty(cls, values: Any) -> Any:
        if values == []:
            raise ValueError("is empty; give at least one entry, or null")
        return values

    @model_validator(mode="after")
    def _each_once(self) -> "PatchingConfig":
        for key in ("sources", "groups", "doses", "directions"):
            values = getattr(self, key) or []
            if len(set(values)) != len(values):
                raise ValueError(f"{key} must name each entry once, found {values}")
        if 1.0 not in self.doses:
            raise ValueError(f"doses must contain 1, the whole replacement, which the maps show; found {self.doses}")
        return self


def check_windows(windows: Windows | None, key: str, passes: Sequence[int], schedule: int | None) -> None:
    """Raise ValueError, naming `key`, for a window outside a schedule of so many timesteps, or that holds no pass."""
    for index, (first, last) in enumerate(windows if isinstance(windows, list) else []):
        if first > last or (schedule is not None and last >= schedule):
            end = "the end of the schedule" if schedule is None else schedule - 1
            raise ValueError(
                f"{key}[{index}]: {[first, last]} must be [first, last] with first <= last within 0 to {end}"
            )
        if not any(first <= timestep <= last for timestep in passes):
            raise ValueError(f"{key}[{index}]: {[first, last]} holds none of the timesteps {list(passes)}; widen it")


def attribute_of(source: str) -> str | None:
    """Return the attribute that `source` flips, None for other sources."""
    return source.removeprefix(ATTRIBUTE) if source.startswith(ATTRIBUTE) else None


def source_file(source: str) -> str:
    """Return `source` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", source)
