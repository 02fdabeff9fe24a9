"""Letting the jobs of a clone import the library without installing it."""

import os
from pathlib import Path


def share_with_jobs(source: Path) -> None:
    """Put `source` at the head of PYTHONPATH, which every job started from this process inherits."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(source)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *others])
