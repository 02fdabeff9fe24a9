"""What this machine has left for a job: free disk, and memory within the limits of its control groups (Linux).

And how to say how long something takes.
"""

import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

# Limits above this are none: cgroup v1 writes the largest number of pages.
NO_LIMIT = 2**60


def free_disk(folder: Path) -> int:
    """Return the bytes that can be written in `folder`, or in the nearest folder above it that exists."""
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(there).free


def free_memory(system: Path = Path("/")) -> int | None:
    """Return the bytes of memory that this process may still take, None where the system does not tell.

    That is what the kernel calls available, and no more than any control group around the process leaves of its limit;
    files that a group has cached are not counted as taken. `system` is where /proc and /sys are.
    """
    try:
        available = _fields((system / "proc/meminfo").read_text())["MemAvailable:"] * 1024
    except (OSError, KeyError):  # no Linux, or one before 2014
        return None
    return max(0, min([available, *_left_in_groups(system)]))


def _left_in_groups(system: Path) -> Iterator[int]:
    try:
        groups = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, cached = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        # Inside a container the path may be that of the host; its limit then stands at the root.
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            folder = system / root / group
            try:
                most = int((folder / limit).read_text())
                taken = int((folder / usage).read_text())
                reclaimable = _fields((folder / "memory.stat").read_text()).get(cached, 0)
            except (OSError, ValueError):  # "max", no such group, or no such controller
                continue
            if most < NO_LIMIT:
                yield most - taken + reclaimable


def _fields(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {words[0]: int(words[1]) for words in rows if len(words) > 1 and words[1].isdecimal()}


def resident_memory() -> int:
    """Return the bytes of memory that this process holds now."""
    status = Path("/proc/self/status")
    return _fields(status.read_text())["VmRSS:"] * 1024 if status.is_file() else _largest()


def peak_memory() -> int:
    """Return the most bytes of memory that this process held, since `forget_peak` where the system can forget."""
    # getrusage would count the parent's peak too, which a child inherits on Linux
    status = Path("/proc/self/status")
    return _fields(status.read_text())["VmHWM:"] * 1024 if status.is_file() else _largest()


def forget_peak() -> None:
    """Let `peak_memory` count from now on; elsewhere than on Linux it goes on counting from the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _largest() -> int:
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def duration(seconds: float) -> str:
    """Return a time in the largest unit that leaves at least one of it."""
    for unit, length in (("s", 60.0), ("min", 60.0), ("h", 48.0)):
        if seconds < length:
            return f"{seconds:.2g} {unit}" if seconds < 10 else f"{seconds:.0f} {unit}"
        seconds /= 24.0 if unit == "h" else length
    return f"{seconds:,.1f} days"
