"""That a job on another machine runs the code and the libraries that its run was started with. Ours.

What a run is recorded to have used is what its controller saw. A node with another environment would compute other
numbers under the same record, so its jobs stop before they begin.
"""

import hashlib
import json
import os
import platform
from pathlib import Path

from diffmech.artifacts import versions
from diffmech.errors import ConfigError
from diffmech.workflow.fingerprints import fingerprint

RUN = "DIFFMECH_RUN"  # the variable of the environment in which jobs are told


def in_use(root: Path) -> dict[str, str]:
    """Return the versions in use here, and a digest of all scripts below `root` with the code that they reach."""
    python = ".".join(platform.python_version_tuple()[:2])
    scripts = sorted((root / "workflow_scripts").glob("*.py"))
    codes = "".join(fingerprint(script) for script in scripts)
    return {**versions(), "python": python, "diffmech's code": hashlib.sha256(codes.encode()).hexdigest()[:12]}


def tell_jobs(root: Path) -> None:
    """Note what is in use here in the environment, which jobs of this run inherit wherever they run."""
    os.environ[RUN] = json.dumps(in_use(root), sort_keys=True)


def check_same(root: Path) -> None:
    """Raise ConfigError where this job has other versions or other code than the run that it belongs to."""
    told = json.loads(os.environ.get(RUN) or "{}")
    here = in_use(root) if told else {}
    others = [f"{name} {here.get(name)} in place of {told[name]}" for name in told if here.get(name) != told[name]]
    if others:
        raise ConfigError(
            f"node {platform.node()}: has {', '.join(others)}, with which this run was started; give all nodes one "
            "environment and one clone, or leave the node out (--slurm-exclude-failed-nodes)"
        )
