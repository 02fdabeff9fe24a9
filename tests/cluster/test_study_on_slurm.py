"""The tiny study through profiles/slurm on a real SLURM gives what it gives on one machine."""

import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from submitted import Run, results_of, stores, tables, unfinished
from workflow_conftest import copy_project

from diffmech.artifacts import open_store

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]


@pytest.fixture(scope="module")
def submitted(cluster, tmp_path_factory):
    """(project, run, seconds) of the tiny study, run to its end on SLURM."""
    project = copy_project(tmp_path_factory.mktemp("submitted"))
    start = time.monotonic()
    run = Run(project, ["--set-resources", "capture_untrained:gpu=1"]).wait()
    assert run.code == 0, run.text[-6000:]
    return project, run, time.monotonic() - start


def test_decision_tables_are_the_same_byte_by_byte(submitted, finished) -> None:
    here, there = tables(results_of(finished)), tables(results_of(submitted[0]))
    assert set(here) == set(there)
    assert len(here) > 20
    assert {name for name in here if without_clock(here[name]) != without_clock(there[name])} == set()
    print(f"\n{len(here)} tables are the same byte by byte, but for columns of seconds")


def test_stores_hold_the_same_numbers(submitted, finished) -> None:
    here, there = stores(results_of(finished)), stores(results_of(submitted[0]))
    assert set(here) == set(there)
    assert len(here) > 30
    for name in here:
        ours, theirs = open_store(here[name]), open_store(there[name])
        assert set(ours.groups) == set(theirs.groups), name
        for group in ours.groups:
            left, right = ours[group].to_dataset(), theirs[group].to_dataset()
            assert set(left.variables) == set(right.variables), (name, group)
            for variable in left.variables:
                np.testing.assert_array_equal(left[variable].values, right[variable].values, f"{name} {group}")
        ours.close()
        theirs.close()
    print(f"\n{len(here)} stores hold the same numbers")


def test_every_submission_is_a_job_that_slurm_completed(submitted, cluster) -> None:
    project, run, seconds = submitted
    jobs = cluster.jobs()
    assert run.submitted()
    assert {jobs[number]["JobState"] for number in run.submitted()} == {"COMPLETED"}
    assert len(run.submitted()) < len(run.finished_jobs()) / 1.5
    mine = [jobs[number] for number in run.submitted()]
    on_nodes = sum(clock(job["RunTime"]) for job in mine)
    queued = sum((time_of(job["StartTime"]) - time_of(job["SubmitTime"])).total_seconds() for job in mine)
    print(f"\n{len(run.finished_jobs())} jobs in {len(mine)} of SLURM: {seconds:.0f} s, {busy(mine):.0f} s with work")
    print(f"of all: {queued:.0f} s queued, {on_nodes} s on nodes, {in_scripts(results_of(project)):.0f} s in scripts")


def test_jobs_with_a_gpu_go_where_one_is(submitted, cluster) -> None:
    _, run, _ = submitted
    jobs = [cluster.jobs()[number] for number in run.submitted()]
    on_gpu = [job for job in jobs if "gpu" in job.get("TresPerJob", "")]
    assert [job["Partition"] for job in on_gpu] == ["gpu"]
    assert {job["Partition"] for job in jobs if job not in on_gpu} == {"cpu"}
    assert {job["Requeue"] for job in jobs} == {"0"}


def test_nothing_half_written_is_left(submitted) -> None:
    assert list(unfinished(results_of(submitted[0]))) == []


def without_clock(table: Path) -> list[list[str]]:
    """Return the cells of a table, without a column of seconds that a training took."""
    rows = [line.split(",") for line in table.read_bytes().decode().split("\n")]
    if "seconds" not in rows[0]:
        return rows
    column = rows[0].index("seconds")
    return [row[:column] + row[column + 1 :] for row in rows]


def time_of(text: str) -> datetime:
    """Return one of SLURM's times."""
    return datetime.fromisoformat(text)


def busy(jobs: list[dict[str, str]]) -> float:
    """Return the seconds in which any of `jobs` was on a node."""
    total, until = 0.0, datetime.min
    for job in sorted(jobs, key=lambda job: job["StartTime"]):
        start, end = time_of(job["StartTime"]), time_of(job["EndTime"])
        total += max((end - max(start, until)).total_seconds(), 0.0)
        until = max(until, end)
    return total


def in_scripts(results: Path) -> float:
    """Return the seconds of all scripts, as Snakemake's benchmark files have them."""
    rows = [path.read_text().splitlines() for path in (results / "benchmarks").rglob("*.tsv")]
    return sum(float(value) for lines in rows for value in [lines[1].split("\t")[lines[0].split("\t").index("s")]])


def clock(text: str) -> int:
    """Return seconds of SLURM's hours:minutes:seconds."""
    hours, minutes, seconds = map(int, text.split("-")[-1].split(":"))
    return 3600 * hours + 60 * minutes + seconds
