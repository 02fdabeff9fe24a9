"""The tiny study, run once in a copy of the project, and the set of jobs that an edit would rerun."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COPIED = ["Snakefile", "config.yaml", "rules", "workflow_scripts", "src", "profiles", "envs", "resources"]
CPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True)
class Project:
    """A copy of the project in which studies are run."""

    folder: Path

    def snakemake(self, *arguments: str, edit: dict[str, Any] | None = None, timeout: float = 900) -> Any:
        """Run snakemake on the tiny study with `edit` laid over it; return the finished process."""
        configs = [str(self.folder / "resources/studies/tiny.yaml")]
        if edit:
            overlay = self.folder / "edit.yaml"
            overlay.write_text(yaml.safe_dump(edit))
            configs.append(str(overlay))
        return subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments, "--configfile", *configs],
            cwd=self.folder,
            env=CPU,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def run(self, *targets: str, edit: dict[str, Any] | None = None) -> set[str]:
        """Run the study to its end and return the jobs that were run."""
        done = self.snakemake("--cores", "2", *targets, edit=edit)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        return jobs_in(done.stdout + done.stderr)

    def planned(self, edit: dict[str, Any] | None = None, *targets: str) -> set[str]:
        """Return the jobs that `edit` would run."""
        done = self.snakemake("--dry-run", *targets, edit=edit)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        return jobs_in(done.stdout + done.stderr)

    def files(self) -> dict[str, tuple[int, int]]:
        """Return size and modification time of every result (not of logs and benchmarks)."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted((self.folder / "results").rglob("*"))
            if path.is_file() and not {"logs", "benchmarks"} & set(path.parts)
        }


def jobs_in(output: str) -> set[str]:
    """Return the jobs that a run or a dry run names, as `rule` or `rule wildcards`, without aggregating targets."""
    jobs = set()
    for block in re.split(r"\n(?=\[|$)|\n\n", output):
        rule = re.search(r"^(?:local)?(?:rule|checkpoint) (\w+):$", block, re.MULTILINE)
        if rule and rule[1] != "all":
            wildcards = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
            values = [pair.split("=")[1] for pair in wildcards[1].split(", ")] if wildcards else []
            jobs.add(" ".join([rule[1], *values]))
    return jobs


def copy_project(folder: Path) -> Project:
    """Copy what a run needs to `folder`."""
    folder.mkdir(exist_ok=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    return Project(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The tiny study, run to its end."""
    project = copy_project(tmp_path_factory.mktemp("finished"))
    project.run()
    return project


@pytest.fixture
def project(tmp_path) -> Project:
    """A copy of the project in which nothing has run."""
    return copy_project(tmp_path / "project")
