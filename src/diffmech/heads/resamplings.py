"""Which jobs sample images again, and what they depend on, as pure functions of the study."""

from typing import Any

from diffmech.config.study import LABELLED
from diffmech.heads.paths import Heads

RESAMPLED = "results/resampling/{model}/{domain}/{part}.zarr.zip"
JUDGE = "results/judges/{model}.safetensors"

# What the images depend on, and what is asked of them once they are there.
_SAMPLED = ["images", "reference", "method", "mean_images", "controls", "windows", "heads", "parts", "seed"]
JUDGED = [
    *("images", "features", "clip", "inception", "attributes", "text_attributes", "detector", "examples"),
    *("draws", "confidence", "distance_draws"),
]
PLANTED = (
    "a planted denoiser reads the image from its noisy input by heads that were built for little noise, so it makes no "
    "images from pure noise"
)


def why_not_resampled(heads: Heads) -> str:
    """Return why the studied denoiser is not sampled from, empty where it is."""
    return PLANTED if heads.config.model.source == "planted" else ""


def resampled_domains(heads: Heads) -> list[str]:
    """Return the domains that are sampled: those asked for, else the labelled one, of a pipeline both."""
    if why_not_resampled(heads):
        return []
    names = list(heads.domains)
    if heads.config.resampling.domains is not None:
        return heads.config.resampling.domains
    return names if heads.config.model.source == "pipeline" else [LABELLED if LABELLED in names else names[-1]]


def resampled_names(heads: Heads) -> dict[str, str]:
    """Return, per domain, the name under which `resampling_effects` gets its images."""
    return {domain: f"images_{domain}" for domain in resampled_domains(heads)}


def named_resampled(heads: Heads) -> dict[str, list[str]]:
    """Return the stores of images by the names of `resampled_names`."""
    parts = range(heads.config.resampling.parts)
    return {
        name: [RESAMPLED.format(model=heads.model, domain=domain, part=part) for part in parts]
        for domain, name in resampled_names(heads).items()
    }


def resampling_settings(heads: Heads, domain: str) -> dict[str, Any]:
    """Return the settings that the images of one domain depend on."""
    config, keys = heads.config, list(_SAMPLED)
    sampling: list[str] = []
    for key in ("steps", "guidance"):
        given = getattr(config.resampling, key) is not None
        (keys if given else sampling).append(key)
    if config.model.source != "pipeline":
        return heads.study.settings(resampling=keys, sampling=sampling)
    prompts = config.datasets[heads.domains[domain]]
    sections = heads.study.settings(resampling=keys, sampling=["scheduler", *sampling], prompts=prompts)
    return {**sections, "size": config.images.size}


def needed_judge(heads: Heads) -> list[str]:
    """Return the trained judge where it is asked and can be: pipelines and planted denoisers know no attributes."""
    asked = heads.config.resampling.trained_judge and heads.config.model.source not in ("pipeline", "planted")
    return [JUDGE.format(model=heads.model)] if asked else []
