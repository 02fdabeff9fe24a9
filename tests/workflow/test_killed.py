"""A run that is killed loses the job it was in, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CPU

from diffmech.artifacts import open_store

pytestmark = pytest.mark.workflow
MODEL = "results/models/tiny/model.json"


def run_until(project, edit: dict, target: str, reached: Callable[[], bool], *, forked: bool) -> None:
    """Start the study and kill it with all its jobs, by SIGKILL, as soon as `reached`, which holds when they are dead.

    `forked` are processes that are forked from one Python; if not, snakemake and each job have a Python of their own.
    """
    arguments = ["--cores", "2", target, "--configfile", *project.configs(edit)]
    with Path(os.devnull).open("w") as nowhere:
        if forked:
            fork = project.start(*arguments, files=(nowhere.fileno(), nowhere.fileno()), session=True)
            pid, ended, wait = fork.pid, fork.ended, fork.wait
        else:
            command = [sys.executable, "-m", "snakemake", *arguments]
            options = {"stdout": nowhere, "stderr": nowhere, "start_new_session": True}
            process = subprocess.Popen(command, cwd=project.folder, env=CPU, **options)
            pid, ended, wait = process.pid, lambda: process.poll() is not None, process.wait

    def held() -> bool:
        if not reached():
            return False
        os.killpg(pid, signal.SIGSTOP)  # on a busy machine the next job may end before the signal that kills arrives
        if reached():
            return True
        os.killpg(pid, signal.SIGCONT)
        return False

    try:
        deadline = time.monotonic() + 300
        while not held():
            assert not ended(), "the study ended before it could be killed"
            assert time.monotonic() < deadline, "the study never got to the point where it is to be killed"
            time.sleep(0.01)
    finally:
        os.killpg(pid, signal.SIGKILL)
        wait()


def finished_stores(folder: Path) -> dict[Path, int]:
    """Return the stores of a folder of data sets or of attention, without looking into what is being built."""
    stores = [*folder.glob("[!.]*.zarr.zip"), *folder.glob("*/*/*/[!.]*.zarr.zip")]
    return {path: path.stat().st_mtime_ns for path in stores}


def test_a_killed_training_goes_on_from_its_last_checkpoint(project):
    edit = {
        "models": {"tiny": {"training": {"steps": 200}}},
        "runtime": {"checkpoint_seconds": 0.2},
    }
    checkpoints = project.folder / "results/.checkpoints"
    run_until(project, edit, MODEL, lambda: any(checkpoints.glob("*/checkpoint.pt")), forked=False)
    assert not (project.folder / MODEL).exists()
    before = finished_stores(project.folder / "results/datasets")
    assert project.run(MODEL, edit=edit) == {"train_denoiser tiny"}
    assert finished_stores(project.folder / "results/datasets") == before
    log = (project.folder / "results/logs/train_denoiser/tiny.log").read_text()
    assert "training goes on at step" in log
    history = (project.folder / "results/models/tiny/history.csv").read_text().splitlines()
    assert history[-1].startswith("200,")


@pytest.mark.xdist_group("tiny")
def test_a_killed_capture_leaves_no_half_store_and_repeats_nothing_finished(finished, tmp_path):
    project = finished.copy(tmp_path / "copy")
    captured = project.folder / "results/attention"
    edit = {"capture": {"samples": 24}}  # one more shard of two data sets in two blocks of timesteps
    earlier = finished_stores(captured)

    def in_the_middle() -> bool:
        building = list(captured.glob("*/*/*/.*.zarr.zip.*"))
        return bool(building) and len(finished_stores(captured)) > len(earlier)

    run_until(project, edit, "attention", in_the_middle, forked=True)
    before = finished_stores(captured)
    assert len(earlier) < len(before) < len(earlier) + 4
    for store in before:
        open_store(store)
    jobs = project.run("attention", edit=edit)
    assert {job.split()[0] for job in jobs} <= {"make_latents", "capture_attention"}
    after = finished_stores(captured)
    assert len(after) == len(earlier) + 4
    # Snakemake distrusts the outputs of jobs that were running when it died; all others are kept as they were.
    kept = [store for store in before if before[store] == after[store]]
    assert len(kept) >= len(before) - 2
    assert set(earlier) <= set(kept)
    for store in after:
        open_store(store)
