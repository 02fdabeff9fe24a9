"""What a run needs before its first rule: a library that its jobs can import, and a folder for itself."""

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import IO, Any

from diffmech.errors import ConfigError

ENDING = 3.0  # seconds in which a run that has answered may still be ending


def share_with_jobs(source: Path) -> None:
    """Put `source` at the head of PYTHONPATH, which every job started from this process inherits."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(source)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *others])


def claim(state: Path) -> IO[str] | None:
    """Take a folder for this run and remove the locks of one that was killed; ConfigError while another is alive.

    Snakemake's own locks in `state` (the folder .snakemake) outlive the process, and the run that ends first removes
    those of all others. Beside them we hold an advisory lock, which the system drops with the process: whoever gets it
    knows that the locks of runs of this workflow are stale, whose outputs all lie below `results`. Those of another
    workflow in this folder stay. The returned handle must be kept for as long as the run lasts; it is None, and no lock
    is removed, where the file system knows no such locks.
    """
    handle = _held(state, fcntl.LOCK_EX)
    if handle is not None:
        _remove_stale(state / "locks")
    return handle


def _remove_stale(locks: Path) -> None:
    """Remove the locks of runs of this workflow; which inputs are theirs is only sure where no other has locks."""
    others = False
    for lock in locks.glob("*.output.lock"):
        with contextlib.suppress(OSError):  # of another that ends just now
            if all(line.startswith("results/") for line in lock.read_text(errors="replace").splitlines()):
                lock.unlink()
            else:
                others = True
    for lock in [] if others else locks.glob("*.input.lock"):
        with contextlib.suppress(OSError):
            lock.unlink()


def attend(state: Path) -> IO[str] | None:
    """Hold the same lock as `claim` beside others who attend, for a run in which this workflow is a module.

    Snakemake's locks of such a run are not ours; while it is alive nobody claims the folder and removes them. Raises
    ConfigError as `claim` does.
    """
    return _held(state, fcntl.LOCK_SH)


def _held(state: Path, kind: int) -> IO[str] | None:
    """Return a handle that holds the lock, told whose it is; a run that is about to end is waited for."""
    handle, ends = _opened(state), time.monotonic() + ENDING
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < ends:
                time.sleep(0.1)
                continue
            handle.seek(0)
            with handle:
                raise ConfigError(
                    f"{state.absolute().parent}: a run is at work in this folder ({handle.read().strip()}), and has it "
                    "for itself; wait until it has ended, or end it"
                ) from None
        except OSError:
            handle.close()
            return None
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {platform.node()}\n")
    handle.flush()
    return handle


def _opened(state: Path) -> IO[str]:
    try:
        state.mkdir(exist_ok=True)
        (state / "alive").touch()  # its time is the present one, as the file system tells it
        return (state / "alive").open("a+")
    except OSError as error:
        raise ConfigError(
            f"{state.absolute()}: Snakemake keeps its records there, but nothing can be written ({error.strerror}); "
            "run in a folder of your own, with -d"
        ) from error


def grow(resources: MutableMapping[str, Any]) -> None:
    """Let a job that is submitted again ask for the memory of its rule times the number of its attempt."""
    declared = getattr(resources.get("mem_mb"), "raw", None)
    if isinstance(declared, int):
        resources["mem_mb"] = lambda wildcards, attempt: declared * attempt
