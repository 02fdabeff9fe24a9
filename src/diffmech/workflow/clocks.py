"""Times of files where the clocks of machines disagree. Ours.

Snakemake runs a job again when an input is newer than an output. It gives what a job has made the present time, and
stops where that is older than an input: a file from the future, of a machine whose clock was ahead, ends the run.
"""

import os
from contextlib import suppress
from pathlib import Path


def bring_back(folder: Path, now: int) -> int:
    """Give the files below `folder` that are younger than `now` times shortly before it; return how many there were.

    `now` is in nanoseconds, by the clock of the file system. Their order stays, among each other and with all other
    files, so that nothing runs again for it and nothing that has to is passed over.
    """
    ahead = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]  # checkpoints, and what is being written
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):  # removed meanwhile
                if (time := path.stat(follow_symlinks=False).st_mtime_ns) > now:
                    ahead[path] = time
    places = {time: place for place, time in enumerate(sorted(set(ahead.values()), reverse=True))}
    for path, time in ahead.items():
        brought = now - 1000 * places[time]
        with suppress(FileNotFoundError):
            os.utime(path, ns=(brought, brought), follow_symlinks=False)
    return len(ahead)
