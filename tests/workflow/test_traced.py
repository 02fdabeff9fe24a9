"""A reviewer's way through a study: from a file to all that it was made from, and to a package that others check."""

import json
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.workflow

COMPARISON = "results/datasets/comparison.json"


def told(project, target: str) -> tuple[int, str]:
    """Return the exit code and what was printed."""
    done = project.snakemake("provenance", "--cores", "1", "--config", f"target={target}")
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_chain_behind_an_artifact_is_printed_and_what_has_none_is_one_line(module_project):
    module_project.run(COMPARISON)
    code, text = told(module_project, COMPARISON)
    assert code == 0, text[-3000:]
    assert f"{COMPARISON}: 3 jobs stand behind it\n" in text
    assert "  made  results/datasets/lfw_subset.zarr.zip  sha256 " in text
    assert '"kind": "lfw_subset"' in text
    assert "  versions: diffmech " in text
    assert '  code: "' in text
    code, text = told(module_project, "results/none.csv")
    assert code == 1
    assert "diffmech: results/none.csv: there is no such artifact" in text
    code, text = told(module_project, "config.yaml")
    assert code == 1
    assert "diffmech: config.yaml: was not made by this workflow" in text
    module = module_project.folder / "src/diffmech/data/comparison.py"
    module.write_text(module.read_text() + "\n\nANOTHER = 1\n")
    code, text = told(module_project, COMPARISON)
    assert code == 0
    assert "1 of them tell of a change since" in text
    assert "  ! made by another version: its code was " in text


@pytest.mark.xdist_group("tiny")
def test_a_study_is_packed_and_checked_elsewhere(finished, tmp_path):
    project = finished.copy(tmp_path / "copy")
    done = project.snakemake("pack", "--cores", "2", "--config", "stores=true")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    package = project.folder / "results/study.crate.zip"
    with zipfile.ZipFile(package) as archive:
        jobs = json.loads(archive.read("provenance.json"))
        stores = {name for name in archive.namelist() if name.endswith((".zarr.zip", ".safetensors"))}
    by_rule = {job["rule"]: job for job in jobs}
    assert {"prepare_dataset", "train_denoiser", "capture_attention", "write_report"} <= set(by_rule)
    assert by_rule["train_denoiser"]["params"]["settings"]["model"]["training"]["steps"] == 6
    assert {*by_rule["write_report"]["versions"]} >= {"diffmech", "torch", "python"}
    assert "results/models/tiny/unet/diffusion_pytorch_model.safetensors" in stores
    check = [sys.executable, "-m", "diffmech.verify", str(package)]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    refused = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "changed" in refused.stdout
