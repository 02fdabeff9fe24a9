"""The benchmark of the paper on one card asks the workflow for files that it has rules for."""

import re
import subprocess

import pytest
from benchmarks.paper.__main__ import ROOT, settings, snakemake_command, targets, write_study
from PIL import Image

pytestmark = pytest.mark.workflow


def test_all_that_the_benchmark_wants_is_planned(tmp_path):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(2):
        Image.new("L", (64, 64)).save(photographs / f"{number}.png")
    config = write_study(tmp_path, settings(photographs, small=True))
    python, m, snakemake, *arguments = snakemake_command(tmp_path, targets(config), cores=2, side_by_side=2)
    planned = subprocess.run([python, m, snakemake, "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", planned.stdout, re.MULTILINE)}
    once = {"train_denoiser", "head_features", "label_mechanisms", "ablation_effects", "mechanism_account"}
    assert {rule: jobs.get(rule) for rule in once} == dict.fromkeys(once, 1)
    assert not {"draw_charts", "write_report"} & set(jobs)  # made from what was packed
