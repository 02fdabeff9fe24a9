"""Which jobs sample images again, and what they depend on, as pure functions of the study."""

from typing import Any

from diffmech.config.study import LABELLED
from diffmech.workflow.study import Study

RESAMPLED = "results/resampling/{model}/{domain}/{part}.zarr.zip"
JUDGE = "results/judges/{model}.safetensors"

# What the images depend on, and what is asked of them once they are there.
_SAMPLED = ["images", "reference", "method", "mean_images", "controls", "windows", "heads", "parts", "seed"]
JUDGED = [
    *("images", "features", "clip", "inception", "attributes", "text_attributes", "examples"),
    *("draws", "confidence", "distance_draws"),
]
PLANTED = (
    "a planted denoiser reads the image from its noisy input by heads that were built for little noise, so it makes no "
    "images from pure noise"
)


def why_not_resampled(study: Study) -> str:
    """Return why the studied denoiser is not sampled from, empty where it is."""
    return PLANTED if study.config.model.source == "planted" else ""


def resampled_domains(study: Study) -> list[str]:
    """Return the domains that are sampled: those asked for, else the labelled one, of a pipeline both."""
    if why_not_resampled(study):
        return []
    names = list(study.domains)
    if study.config.resampling.domains is not None:
        return study.config.resampling.domains
    return names if study.config.model.source == "pipeline" else [LABELLED if LABELLED in names else names[-1]]


def resampled_names(study: Study) -> dict[str, str]:
    """Return, per domain, the name under which `resampling_effects` gets its images."""
    return {domain: f"images_{domain}" for domain in resampled_domains(study)}


def named_resampled(study: Study) -> dict[str, list[str]]:
    """Return the stores of images by the names of `resampled_names`."""
    parts = range(study.config.resampling.parts)
    return {
        name: [RESAMPLED.format(model=study.model, domain=domain, part=part) for part in parts]
        for domain, name in resampled_names(study).items()
    }


def resampling_settings(study: Study, domain: str) -> dict[str, Any]:
    """Return the settings that the images of one domain depend on."""
    config, keys = study.config, list(_SAMPLED)
    sampling: list[str] = []
    for key in ("steps", "guidance"):
        given = getattr(config.resampling, key) is not None
        (keys if given else sampling).append(key)
    if config.model.source != "pipeline":
        return study.settings(resampling=keys, sampling=sampling)
    prompts = config.datasets[study.domains[domain]]
    sections = study.settings(resampling=keys, sampling=["scheduler", *sampling], prompts=prompts)
    return {**sections, "size": config.images.size}


def needed_judge(study: Study) -> list[str]:
    """Return the trained judge where it is asked and can be: pipelines and planted denoisers know no attributes."""
    asked = study.config.resampling.trained_judge and study.config.model.source not in ("pipeline", "planted")
    return [JUDGE.format(model=study.model)] if asked else []
