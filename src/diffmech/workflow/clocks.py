"""Times of files where the clocks of machines disagree. Ours.

Snakemake runs a job again when an input is newer than an output, and stops where a job that has just run leaves it so.
An input that was written by a node whose clock is ahead is newer than what a job makes of it elsewhere.
"""

import os
from collections.abc import Iterable
from pathlib import Path


def keep_order(inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Give every output that is older than the newest input the time of that input."""
    times = [Path(path).stat().st_mtime_ns for path in map(str, inputs) if Path(path).is_file()]
    newest = max(times, default=0)
    for path in map(str, outputs):
        if Path(path).is_file() and Path(path).stat().st_mtime_ns < newest:
            os.utime(path, ns=(newest, newest))
