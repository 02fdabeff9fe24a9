"""What is shipped says nothing of the machine that made it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = [
    *("src", "rules", "workflow_scripts", "Snakefile", "config.yaml", "profiles", "envs", "resources"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "docs"),
    *("tests", "benchmarks", "Makefile", ".ci", ".github", ".editorconfig", ".gitignore", ".pre-commit-config.yaml"),
    ".snakemake-workflow-catalog.yml",
    *("pyproject.toml", "constraints.txt"),
]
FOLDERS = b"home|root|Users|tmp|mnt|media|work|workspace|opt|scratch|srv"
OF_A_MACHINE = re.compile(rb'"_name_or_path"\s*:\s*"[^"]|/(?:' + FOLDERS + rb")/\w+|[A-Z]:\\{1,2}Users")


def files(name: str) -> list[Path]:
    path = ROOT / name
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [p for p in found if "__pycache__" not in p.parts and ".egg-info" not in str(p)]


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a clone")
def test_everything_that_is_tracked_is_looked_at() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name.split("/")[0] for name in listed.splitlines()} == set(SHIPPED)


@pytest.mark.parametrize("folder", ["home", "opt", "scratch", "tmp", "work"])
def test_a_path_of_a_machine_is_seen(folder) -> None:
    assert OF_A_MACHINE.search(f"prefix = /{folder}/conda".encode())
    assert not OF_A_MACHINE.search(f"the {folder}/ folder".encode())


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_file_holds_a_path_of_a_machine(name) -> None:
    assert files(name)
    for file in files(name):
        found = OF_A_MACHINE.search(file.read_bytes())
        assert found is None, f"{file}: {found[0]!r}"
