"""The benchmark of GPUs, which nobody can run here, runs on a CPU with tiny sizes, and says what it leaves out."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(folder: Path, *options: str) -> list[dict]:
    command = [sys.executable, ROOT / "benchmarks/gpu", "--small", "--device", "cpu", "--out", folder, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=300)
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_every_way_measures_every_model(tmp_path):
    rows = run(tmp_path, "--steps", "kernels", "table", "halving")
    assert [row for row in rows if "failed" in row] == []
    assert not (tmp_path / "errors.txt").exists()
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
    assert len((tmp_path / "table.txt").read_text().splitlines()) == 1 + len(table)


def test_what_finds_no_time_left_is_named(tmp_path):
    rows = run(tmp_path, "--steps", "table", "ablation", "--minutes", "0")
    assert [row for row in rows if row["step"] in ("table", "ablation") and "skipped" not in row] == []
    assert len(rows) == 1 + 4 * 6 + 3 + 2  # the machine, the table, ablations, and two steps
