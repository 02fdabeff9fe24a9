"""Run snakemake with the given arguments and append each job it names, `rule wildcard ...`, to the file $JOBS.

Scripts of jobs run in forks of one Python that has imported the large packages already: they are the same for each of
some sixty jobs of the tiny study and take four fifths of its time. A Python of its own for every job, as in a study of
one's own, have the runs that are killed (test_killed.py).
"""

import contextlib
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

# Of other projects only: this one's code is that of the copy that is run.
LARGE = (
    *("torch", "pandas", "xarray", "zarr", "dask.array", "scipy.stats", "scipy.optimize", "sklearn.cluster", "skimage"),
    *("diffusers.models.unets.unet_2d", "diffusers.models.unets.unet_2d_condition", "altair"),
    *("diffusers.schedulers.scheduling_ddpm", "diffusers.schedulers.scheduling_ddim", "torch.utils.data"),
)
ONE_AT_A_TIME = threading.Lock()


def note_job(record: logging.LogRecord) -> bool:
    """Append the job of a JOB_INFO event; let every record pass."""
    from snakemake_interface_logger_plugins.common import LogEvent

    if getattr(record, "event", None) == LogEvent.JOB_INFO:
        with Path(os.environ["JOBS"]).open("a") as file:
            print(record.rule_name, *dict(record.wildcards or {}).values(), file=file)
    return True


def execute_script(self: Any, path: str, edit: bool = False) -> None:
    """Take the place of snakemake's method of that name, which starts a Python for the script at `path`."""
    from snakemake.benchmark import benchmarked

    process = multiprocessing.get_context("forkserver").Process(
        target=runpy.run_path, args=(path,), kwargs={"run_name": "__main__"}
    )
    # Starting one job polls all others: unless it is kept out, it takes the exit code that another thread waits for.
    with ONE_AT_A_TIME:
        process.start()
    with benchmarked(process.pid, self.bench_record) if self.bench_record else contextlib.nullcontext():
        wait([process.sentinel])
    with ONE_AT_A_TIME:
        process.join()
    if process.exitcode:
        raise subprocess.CalledProcessError(process.exitcode, [sys.executable, path])


if __name__ == "__main__":
    from snakemake.cli import main
    from snakemake.script import PythonScript

    multiprocessing.set_forkserver_preload(list(LARGE))
    PythonScript.execute_script = execute_script
    # As a filter: snakemake removes all handlers but its own.
    logging.getLogger("snakemake.logging").addFilter(note_job)
    main(sys.argv[1:])
