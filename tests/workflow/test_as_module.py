"""The workflow as a part of others: as a module with a prefix, from another folder, without a trace in its clone."""

import shutil
import textwrap
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Project

from diffmech.config.further import further_sections

pytestmark = pytest.mark.workflow

TINY = yaml.safe_load((ROOT / "resources/studies/tiny.yaml").read_text())
MODULE = """
    module {name}:
        snakefile:
            "{clone}/Snakefile"
        config:
            config["{name}"]
        prefix:
            "{name}"

    use rule * from {name} as {name}_*
"""
OWN = """
    configfile: "own.yaml"

    rule everything_of_mine:
        input:
            "digest.txt",

    rule own:
        input:
            "first/results/datasets/synthetic_faces.sha256",
        output:
            "digest.txt",
        shell:
            "cp {input} {output}"
"""


def written(folder: Path) -> dict[str, int]:
    """Return when each file of a clone was written, but for what Python compiles where it may."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.fixture
def around(module_project, tmp_path):
    """Somebody else's workflow in a folder of its own, with two studies of ours; and the clone, which it only reads."""
    clone = module_project.folder
    parts = [OWN, *(MODULE.format(name=name, clone=clone) for name in ("first", "second"))]
    (tmp_path / "Snakefile").write_text("".join(map(textwrap.dedent, parts)))
    second = {**TINY, "capture": {**TINY["capture"], "samples": 24}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"mine": 1, "first": TINY, "second": second}))
    return Project(tmp_path), clone


def test_its_rules_run_under_a_prefix_beside_those_of_somebody_else(around):
    other, clone = around
    before = written(clone)
    done = other.call("--cores", "2")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (other.folder / "digest.txt").read_text() == (
        other.folder / "first/results/datasets/synthetic_faces.sha256"
    ).read_text()
    assert set(other.job_list.read_text().splitlines()) == {
        "first_prepare_dataset synthetic_faces",
        "own",
        "everything_of_mine",
    }
    assert sorted(path.name for path in other.folder.iterdir() if path.is_dir()) == [".snakemake", "first"]
    assert written(clone) == before


def test_two_studies_in_one_workflow_have_settings_of_their_own(around):
    other, _ = around
    done = other.call("--dry-run", "first/results/report.html", "second/results/report.html")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    jobs = other.job_list.read_text().splitlines()
    captures = {name: sum(job.startswith(f"{name}_capture_attention ") for job in jobs) for name in ("first", "second")}
    assert captures == {"first": 8, "second": 12}
    assert {"first_write_report", "second_write_report"} <= set(jobs)


def test_further_studies_have_their_pages_under_a_prefix(around):
    other, _ = around
    names = sorted(further_sections())
    assert {"anomaly", "concepts", "vae"} <= set(names)
    done = other.call("--dry-run", *(f"first/results/{name}.html" for name in names))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    jobs = other.job_list.read_text().splitlines()
    assert {"first_anomaly_slices", "first_anomaly_train", "first_train_vae"} <= {job.split()[0] for job in jobs}
    assert {f"first_{name}_page" for name in names} <= set(jobs)
    assert not [job for job in jobs if not job.startswith("first_")]


def test_a_mistake_in_the_config_of_a_module_is_one_line(around):
    other, _ = around
    (other.folder / "own.yaml").write_text(yaml.safe_dump({"first": {"capture": {"timestep": [1]}}, "second": {}}))
    done = other.call("--dry-run")
    assert "config: capture.timestep: unknown key; did you mean 'timesteps'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_it_runs_in_another_folder(module_project, tmp_path):
    clone = module_project.folder
    before = written(clone)
    arguments = ["-s", str(clone / "Snakefile"), "-d", str(tmp_path), "--configfile", *module_project.configs(None)]
    done = module_project.call("--cores", "2", "results/datasets/comparison.json", *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "results/datasets/comparison.json").is_file()
    after = written(clone)
    after.pop(str(module_project.job_list), None)
    assert after == {path: when for path, when in before.items() if path != str(module_project.job_list)}
    shutil.rmtree(tmp_path / "results")
