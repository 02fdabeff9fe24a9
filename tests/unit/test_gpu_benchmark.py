"""The benchmark of GPUs, which nobody can run here, runs on a CPU with tiny sizes, and says what it leaves out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


# Both runs in one Python, whose imports take longer than they do.
RUNS = """
import runpy, sys
for options in {runs!r}:
    sys.argv[1:] = options
    runpy.run_path({program!r}, run_name="__main__")
"""


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """What a run wrote, and one without any time."""
    whole, late = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("late")
    common = ["--small", "--device", "cpu", "--out"]
    runs = [
        [*common, str(whole), "--steps", "kernels", "table", "halving"],
        [*common, str(late), "--steps", "table", "ablation", "--minutes", "0"],
    ]
    command = [sys.executable, "-c", RUNS.format(runs=runs, program=str(ROOT / "benchmarks/gpu"))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=300)
    return whole, late


def test_every_way_measures_every_model(folders):
    whole, _ = folders
    rows = rows_of(whole)
    assert [row for row in rows if "failed" in row] == []
    assert not (whole / "errors.txt").exists()
    assert [row["name"] for row in rows if "skipped" in row] == [
        "default denoiser, statistics, four times what is free"  # of a CPU nobody takes the memory
    ]
    table = [row for row in rows if row["step"] == "table"]
    assert len(table) == 4 * 6
    for row in table:
        assert row["ms"] > 0
        if row["name"].endswith(("our statistics", "our maps", "our factors")):
            assert row["entropy_error"] < 1e-3, row
    assert all(row["same_bits"] for row in rows if row["step"] == "kernels")
    assert len((whole / "table.txt").read_text().splitlines()) == 1 + len(table)


def test_what_finds_no_time_left_is_named(folders):
    _, late = folders
    rows = rows_of(late)
    assert [row for row in rows if row["step"] in ("table", "ablation") and "skipped" not in row] == []
    assert len(rows) == 1 + 4 * 6 + 3 + 2  # the machine, the table, ablations, and two steps
