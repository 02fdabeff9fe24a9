"""A Python that has imported the large packages and snakemake, and runs snakemake in forks of itself, one per call.

These imports are the same for each of some hundred calls and for each of some sixty jobs of the tiny study, and take
most of their time. Scripts of jobs run in forks as well, of a process that was forked before snakemake began. The
training that is killed (test_killed.py) has a Python of its own for every job, as in a study of one's own.

Each run appends the jobs it names, `rule wildcard ...`, to the file $JOBS.
"""

import contextlib
import importlib
import json
import logging
import multiprocessing
import os
import runpy
import select
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Of other projects only: this one's code is that of the copy that is run.
LARGE = (
    *("torch", "pandas", "xarray", "zarr", "dask.array", "scipy.stats", "scipy.optimize", "sklearn.cluster", "skimage"),
    *("diffusers.models.unets.unet_2d", "diffusers.models.unets.unet_2d_condition", "altair"),
    *("diffusers.schedulers.scheduling_ddpm", "diffusers.schedulers.scheduling_ddim", "torch.utils.data"),
    *("snakemake.cli", "snakemake.workflow", "snakemake.dag", "snakemake.scheduling.job_scheduler", "snakemake.script"),
)
REQUEST = 1 << 18


class Forks:
    """Starts forks of a process that listens at the other end of `control`."""

    def __init__(self, control: socket.socket) -> None:
        """Send requests through `control`, from any thread."""
        self.control = control
        self.turn = threading.Lock()

    def start(self, files: tuple[int, ...] = (), **request: Any) -> "Fork":
        """Start a fork that serves `request`, with `files` as its standard output and error."""
        ours, theirs = socket.socketpair()
        with theirs, self.turn:
            socket.send_fds(self.control, [json.dumps(request).encode()], [theirs.fileno(), *files])
        return Fork(ours)


class Fork:
    """A process that was started: `pid`, and after `wait` its exit code."""

    def __init__(self, answers: socket.socket) -> None:
        """Wait until it runs."""
        self.answers = answers.makefile()
        answers.close()
        self.pid = int(self.answers.readline())

    def ended(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return bool(select.select([self.answers], [], [], 0)[0])

    def wait(self) -> int:
        """Return its exit code, -9 where it was killed before it could tell one."""
        with self.answers:
            return int(self.answers.readline() or -9)


def serve(control: socket.socket, work: Callable[..., int | str | None]) -> None:
    """Answer each request in `control` by a fork that does `work`, until nobody asks any more."""
    context = multiprocessing.get_context("fork")
    while True:
        message, files, _, _ = socket.recv_fds(control, REQUEST, 3)
        if not message:
            break
        context.Process(target=_answer, args=(control, json.loads(message), files, work)).start()
        for file in files:
            os.close(file)
    for process in multiprocessing.active_children():
        process.join()


def _answer(control: socket.socket, request: dict[str, Any], files: list[int], work: Callable[..., Any]) -> None:
    control.close()
    answers, *outputs = files
    for number, file in enumerate(outputs, start=1):
        os.dup2(file, number)
    os.write(answers, f"{os.getpid()}\n".encode())
    try:
        code = work(**request)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(answers, f"{code or 0}\n".encode())


def run_script(path: str, folder: str, environment: dict[str, str], modules: list[str]) -> None:
    """Run a script as snakemake starts it: in `folder`, where modules are looked for in `modules`."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = modules
    runpy.run_path(path, run_name="__main__")


def run_snakemake(
    arguments: list[str], folder: str, environment: dict[str, str], session: bool = False
) -> int | str | None:
    """Run snakemake with `arguments` in `folder`; in a `session` of its own if it is to be killed with its jobs."""
    from snakemake.cli import main
    from snakemake.script import PythonScript

    if session:
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # before snakemake starts its threads
    scripts = multiprocessing.get_context("fork").Process(target=_serve_scripts, args=(ours, theirs))
    scripts.start()
    theirs.close()
    PythonScript.execute_script = _by(Forks(ours))
    # As a filter: snakemake removes all handlers but its own.
    logging.getLogger("snakemake.logging").addFilter(note_job)
    sys.argv = [__file__, *arguments]
    try:
        main(arguments)
    except SystemExit as stop:
        return stop.code
    finally:
        ours.close()
        scripts.join()
    return 0


def _serve_scripts(ours: socket.socket, theirs: socket.socket) -> None:
    ours.close()
    serve(theirs, run_script)


def note_job(record: logging.LogRecord) -> bool:
    """Append the job of a JOB_INFO event; let every record pass."""
    from snakemake_interface_logger_plugins.common import LogEvent

    if getattr(record, "event", None) == LogEvent.JOB_INFO:
        with Path(os.environ["JOBS"]).open("a") as file:
            print(record.rule_name, *dict(record.wildcards or {}).values(), file=file)
    return True


def _by(forks: Forks) -> Callable[..., None]:
    """Return what takes the place of snakemake's method, which starts a Python for the script at `path`."""

    def execute_script(self: Any, path: str, edit: bool = False) -> None:
        from snakemake.benchmark import benchmarked

        paths = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
        modules = [*paths, *(folder for folder in sys.path if folder not in paths)]
        fork = forks.start(path=path, folder=str(Path.cwd()), environment=dict(os.environ), modules=modules)
        with benchmarked(fork.pid, self.bench_record) if self.bench_record else contextlib.nullcontext():
            code = fork.wait()
        if code:
            raise subprocess.CalledProcessError(code, [sys.executable, path])

    return execute_script


if __name__ == "__main__":
    for name in LARGE:
        importlib.import_module(name)
    from snakemake.cli import get_argument_parser

    get_argument_parser()  # loads the plugins
    serve(socket.socket(fileno=int(sys.argv[1])), run_snakemake)
