"""What a run needs before its first rule: a library that its jobs can import, and no locks of the dead."""

import fcntl
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import IO, Any


def share_with_jobs(source: Path) -> None:
    """Put `source` at the head of PYTHONPATH, which every job started from this process inherits."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(source)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *others])


def forget_dead_run(state: Path) -> IO[str] | None:
    """Remove the locks of a run that was killed, so that the next one need not be told to.

    Snakemake's own locks in `state` (the folder .snakemake) outlive the process. Beside them we hold an advisory lock,
    which the system drops with the process: whoever gets it knows that any other lock is stale. The returned handle
    must be kept for as long as the run lasts. Returns None, and touches nothing, while another run is alive or where
    the file system knows no such locks.
    """
    state.mkdir(exist_ok=True)
    handle = (state / "alive").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        return None
    for lock in (state / "locks").glob("*"):
        lock.unlink(missing_ok=True)
    return handle


def grow(resources: MutableMapping[str, Any]) -> None:
    """Let a job that is submitted again ask for the memory of its rule times the number of its attempt."""
    declared = getattr(resources.get("mem_mb"), "raw", None)
    if isinstance(declared, int):
        resources["mem_mb"] = lambda wildcards, attempt: declared * attempt
