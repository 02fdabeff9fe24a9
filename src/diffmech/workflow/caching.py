"""Results that several workflows share (`snakemake --cache`): of which rules, and for whom a result is the same. Ours.

Snakemake keys a result by scripts, parameters and given files of its job and of all jobs behind it; the fingerprints
of our code and the settings are parameters. The key does not say with which packages a result was made, nor on which
kind of device, and of a denoiser that is imported not which weights it has. So each environment has a folder of its own
below the cache, and captures are shared only of denoisers whose weights follow from the parameters, or are ours.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffmech.artifacts import versions
from diffmech.errors import ConfigError
from diffmech.workflow.study import Study

LOCATION = "SNAKEMAKE_OUTPUT_CACHE"
FOLLOWING = ("train", "untrained", "planted")  # sources of denoisers whose weights follow from the parameters


def shared_rules(study: Study) -> list[str]:
    """Return the rules whose results are shared: the training, and the captures where it is known of which weights."""
    training = ["train_denoiser"] if study.trained else []
    known = study.config.model.source in (*FOLLOWING, "bundled")
    return [*training, *(["capture_attention"] if known else [])]


def environment_folder(study: Study) -> str:
    """Return the name of the folder for results of this environment: versions, kind of device, bundled weights."""
    told: dict[str, Any] = {"versions": versions(), "gpus": study.gpus}
    if study.config.model.source == "bundled":
        listed = study.root / "resources" / "models" / str(study.config.model.location) / "SHA256SUMS"
        told["weights"] = listed.read_text(encoding="utf-8") if listed.is_file() else ""
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    return f"diffmech-{told['versions']['torch']}-{digest}"


def share_results(settings: Any, study: Study, rule: Callable[[str], Any], environment: Mapping[str, str]) -> None:
    """Have the rules that `--cache` names, by default all that can be, share their results.

    They are declared here and not by `cache:`, with which Snakemake refuses a benchmark and warns in every call without
    --cache. `settings` are Snakemake's of the workflow, `rule` gives a rule by its name, `environment` is that of the
    process, which gets the folder of this environment. Raises ConfigError for rules that cannot share.
    """
    known = {rule(name).name: rule(name) for name in shared_rules(study)}
    if odd := [name for name in settings.cache if name not in known]:
        raise ConfigError(
            f"--cache {odd[0]}: its results are not shared between workflows, those of {', '.join(known) or 'none'} are"
        )
    settings.cache = list(settings.cache) or list(known)
    for name in settings.cache:
        known[name]._benchmark = None
    if location := environment.get(LOCATION):
        os.environ[LOCATION] = f"{location}/{environment_folder(study)}"
        if "://" not in location:
            Path(os.environ[LOCATION]).mkdir(parents=True, exist_ok=True)
