"""Faults that need no cluster: a full disk, a job that the system killed, a second controller, clocks that disagree."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from diffmech.artifacts import open_store

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("tiny")]
LATENTS = "results/latents/tiny/lfw_subset/t0000-0049/s00000000-00000007.zarr.zip"
ATTENTION = LATENTS.replace("latents", "attention")
CAPTURE = "capture_attention tiny lfw_subset t0000-0049 s00000000-00000007"


def lacking(project, *names: str):
    """Remove results; return when all others were written."""
    for name in names:
        (project.folder / name).unlink()
    return project.files()


def check_only_these_were_made(project, before, jobs, names) -> None:
    """Check that the lacking results are there again, whole, and that no other file was written."""
    after = project.files()
    assert {name for name in after if after[name] != before.get(name)} == set(names)
    assert {job.split()[0] for job in jobs} == {
        f"{'make' if 'latents' in n else 'capture'}_{n.split('/')[1]}" for n in names
    }
    for name in names:
        open_store(project.folder / name).close()
    assert not list((project.folder / "results").rglob(".*.zarr.zip.*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_named_and_costs_one_job(finished, tmp_path) -> None:
    project = finished.copy(tmp_path / "copy")
    before = lacking(project, LATENTS)
    folder = (project.folder / LATENTS).parent
    kept = {file.name: file for file in folder.glob("*.zip")}
    aside = shutil.copytree(folder, tmp_path / "aside", copy_function=shutil.copy2)
    size = sum(file.stat().st_size for file in kept.values()) // 4096 * 4096 + 3 * 4096
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copytree(aside, folder, copy_function=shutil.copy2, dirs_exist_ok=True)
        done = project.snakemake("--cores", "2", LATENTS)
        assert done.returncode == 1
        assert "free disk space" in done.stdout + done.stderr or "the disk is full" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert {file.name for file in folder.iterdir()} == set(kept)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    check_only_these_were_made(project, before, project.run(LATENTS), [LATENTS])


def test_a_job_killed_for_its_memory_is_named_and_made_again(finished, tmp_path) -> None:
    project = finished.copy(tmp_path / "copy")
    before = lacking(project, ATTENTION)
    with (tmp_path / "log").open("w+") as log:
        started = project.start(*arguments(project, ATTENTION), files=(log.fileno(), log.fileno()))
        folder = (project.folder / ATTENTION).parent
        wait_until(lambda: any(folder.glob(".*")), started.ended)
        os.kill(writer(folder), signal.SIGKILL)  # as the system does where memory runs out
        assert started.wait() == 1
        log.seek(0)
        told = log.read()
    assert "rule capture_attention" in told
    assert not (project.folder / ATTENTION).exists()
    check_only_these_were_made(project, before, project.run(ATTENTION), [ATTENTION])


def test_a_second_controller_is_turned_away_and_the_first_goes_on(finished, tmp_path) -> None:
    project = finished.copy(tmp_path / "copy")
    before = lacking(project, ATTENTION)
    with (tmp_path / "log").open("w+") as log:
        started = project.start(*arguments(project, ATTENTION), files=(log.fileno(), log.fileno()))
        folder = (project.folder / ATTENTION).parent
        wait_until(lambda: any(folder.glob(".*")), started.ended)
        at_work = writer(folder)
        os.kill(at_work, signal.SIGSTOP)  # the capture takes less time than the second needs to start
        try:
            for target in (ATTENTION, LATENTS):  # also where it asks for other files
                second = project.snakemake("--cores", "2", target)
                assert second.returncode == 1
                assert "a run is at work in this folder" in second.stdout + second.stderr
                assert "Traceback" not in second.stdout + second.stderr
            assert project.planned(None, ATTENTION) == {CAPTURE}  # who only looks is let in
        finally:
            os.kill(at_work, signal.SIGCONT)
        assert started.wait() == 0
    check_only_these_were_made(project, before, {"capture_attention"}, [ATTENTION])


def test_a_file_from_the_future_makes_nothing_run_again(finished, tmp_path) -> None:
    project = finished.copy(tmp_path / "copy")
    before = lacking(project, ATTENTION)
    ahead = time.time() + 3600
    os.utime(project.folder / LATENTS, (ahead, ahead))  # made by a machine an hour ahead of this one
    jobs = project.run(ATTENTION)
    assert (project.folder / LATENTS).stat().st_mtime < time.time()
    before[LATENTS] = project.files()[LATENTS]
    check_only_these_were_made(project, before, jobs, [ATTENTION])
    assert project.planned(None, ATTENTION) == set()


def arguments(project, target: str) -> list[str]:
    """Return the arguments of a run of the tiny study up to `target`."""
    return ["--cores", "2", target, "--configfile", *project.configs(None)]


def writer(folder: Path) -> int:
    """Return the process of the script that writes into a copy's `folder`: the one that was started there last."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve() == folder.parents[4]:
                found.append(int(process.name))
    return max(found)


def wait_until(reached, ended) -> None:
    """Wait until `reached`, for five minutes at most."""
    deadline = time.monotonic() + 300
    while not reached():
        assert not ended(), "the run ended before the fault"
        assert time.monotonic() < deadline, "the run never got to the point of the fault"
        time.sleep(0.01)
