"""A folder belongs to one run at a time, and to none that is dead."""

import subprocess
import sys

import pytest

from diffmech.errors import ConfigError
from diffmech.workflow.startup import attend, claim

HOLD = """
import sys
from pathlib import Path
from diffmech.workflow.startup import claim
kept = claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_taken_while_its_run_lives_and_free_when_it_was_killed(tmp_path) -> None:
    state = tmp_path / ".snakemake"
    command = [sys.executable, "-c", HOLD, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        (state / "locks").mkdir()
        (state / "locks" / "0.output.lock").write_text("results/all\n")
        with pytest.raises(ConfigError, match=f"a run is at work in this folder .process {other.pid} on "):
            claim(state)
        assert (state / "locks" / "0.output.lock").exists()
        other.kill()
    with claim(state) as kept:
        assert not kept.closed
        assert not list((state / "locks").iterdir())


def test_a_run_around_this_workflow_keeps_its_locks(tmp_path) -> None:
    state = tmp_path / ".snakemake"
    command = [sys.executable, "-c", HOLD.replace("claim", "attend"), str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        (state / "locks").mkdir()
        (state / "locks" / "0.output.lock").write_text("results/all\n")
        with attend(state) as beside:  # two modules of one run
            assert not beside.closed
        with pytest.raises(ConfigError, match=r"a run is at work in this folder .process "):
            claim(state)
        assert (state / "locks" / "0.output.lock").exists()
        other.stdin.close()
        other.wait()
    with claim(state):
        assert not list((state / "locks").iterdir())
        with pytest.raises(ConfigError, match=r"a run is at work in this folder .process "):
            attend(state)


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / ".snakemake").write_text("no folder")
    for hold in (attend, claim):
        with pytest.raises(ConfigError, match="Snakemake keeps its records there, but nothing can be written"):
            hold(tmp_path / ".snakemake")


def test_the_locks_of_another_workflow_in_the_folder_stay(tmp_path) -> None:
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    for number, output in enumerate(("results/a.csv\nresults/b.csv\n", "results/a.csv\nmine.txt\n")):
        (locks / f"{number}.output.lock").write_text(output)
        (locks / f"{number}.input.lock").write_text("resources/a.txt\n")
    with claim(tmp_path / ".snakemake"):
        assert sorted(path.name for path in locks.iterdir()) == ["0.input.lock", "1.input.lock", "1.output.lock"]
    (locks / "1.output.lock").unlink()
    with claim(tmp_path / ".snakemake"):  # also those of a run that was killed before it had locked its outputs
        assert list(locks.iterdir()) == []
