"""The tiny study, run once in a copy of the project, and the set of jobs that an edit would rerun."""

import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from list_jobs import Fork, Forks

ROOT = Path(__file__).parents[2]
COPIED = ["Snakefile", "config.yaml", "rules", "workflow_scripts", "src", "profiles", "envs", "resources"]
# Rules without a script.
TARGETS = {
    *("all", "models", "attention", "entropy", "mechanisms", "ablation", "circuit", "windows", "resampling", "report"),
    "everything",
}
# Scripts run in forks that have torch already, which takes its number of threads as it is imported: that of the study.
CPU = {"OMP_NUM_THREADS": "1", **os.environ, "CUDA_VISIBLE_DEVICES": ""}
CPU.pop("PYTHONDONTWRITEBYTECODE", None)  # of a copy, which is gone afterwards, or each job would compile it anew
# What calls remember of the code by its text: parsing all modules takes most of the first call in a copy.
REMEMBERED = Path(".snakemake") / "diffmech-syntax.json"
remembered: list[bytes] = []


@functools.cache
def warm() -> Forks:
    """Start the Python whose forks run snakemake in this worker, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(Path(__file__).with_name("list_jobs.py")), str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(command, env=CPU, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return Forks(ours)


@dataclass(frozen=True)
class Project:
    """A copy of the project in which studies are run."""

    folder: Path

    def snakemake(self, *arguments: str, edit: dict[str, Any] | None = None) -> Any:
        """Run snakemake on the tiny study with `edit` laid over it; return the finished process."""
        return self.call(*arguments, "--configfile", *self.configs(edit))

    def call(self, *arguments: str) -> Any:
        """Run snakemake with these arguments alone; return the finished process."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            code = self.start(*arguments, files=(stdout.fileno(), stderr.fileno())).wait()
            told = [(file.seek(0), file.read())[1] for file in (stdout, stderr)]
        if not remembered and (self.folder / REMEMBERED).exists():
            remembered.append((self.folder / REMEMBERED).read_bytes())
        return subprocess.CompletedProcess(arguments, code, *told)

    def start(self, *arguments: str, files: tuple[int, ...], **options: Any) -> Fork:
        """Start snakemake with these arguments alone and these files as its standard output and error."""
        self.job_list.unlink(missing_ok=True)
        environment = {**CPU, "JOBS": str(self.job_list)}
        return warm().start(files, arguments=arguments, folder=str(self.folder), environment=environment, **options)

    def configs(self, edit: dict[str, Any] | None) -> list[str]:
        """Return the files of the tiny study with `edit` laid over it."""
        configs = [str(self.folder / "resources/studies/tiny.yaml")]
        if edit:
            overlay = self.folder / "edit.yaml"
            overlay.write_text(yaml.safe_dump(edit))
            configs.append(str(overlay))
        return configs

    @property
    def job_list(self) -> Path:
        """The file in which `list_jobs.py` notes the jobs of the last call."""
        return self.folder / "jobs.txt"

    def run(self, *targets: str, edit: dict[str, Any] | None = None) -> set[str]:
        """Run the study to its end and return the jobs that were run, as `rule wildcard ...`."""
        return self._jobs("--cores", "2", *targets, edit=edit)

    def planned(self, edit: dict[str, Any] | None = None, *targets: str) -> set[str]:
        """Return the jobs that `edit` would run, as `rule wildcard ...`."""
        return self._jobs("--dry-run", *targets, edit=edit)

    def _jobs(self, *arguments: str, edit: dict[str, Any] | None) -> set[str]:
        done = self.snakemake(*arguments, edit=edit)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
        jobs = set(self.job_list.read_text().splitlines()) if self.job_list.exists() else set()
        return jobs - TARGETS

    def copy(self, folder: Path) -> "Project":
        """Copy the project with all its results, which then need not be brought back."""
        return Project(shutil.copytree(self.folder, folder))

    def files(self) -> dict[str, tuple[int, int]]:
        """Return size and modification time of every result (not of logs and benchmarks)."""
        return {
            str(path.relative_to(self.folder)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted((self.folder / "results").rglob("*"))
            if path.is_file() and not {"logs", "benchmarks"} & set(path.parts)
        }


def copy_project(folder: Path) -> Project:
    """Copy what a run needs to `folder`."""
    folder.mkdir(exist_ok=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    for content in remembered:
        (folder / REMEMBERED).parent.mkdir(exist_ok=True)
        (folder / REMEMBERED).write_bytes(content)
    return Project(folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    """The tiny study, run to its end."""
    project = copy_project(tmp_path_factory.mktemp("finished"))
    project.run()
    return project


@pytest.fixture(scope="module")
def module_project(tmp_path_factory) -> Project:
    """A copy of the project in which nothing has run, for all tests of one module."""
    return copy_project(tmp_path_factory.mktemp("module"))


@pytest.fixture
def project(tmp_path) -> Project:
    """A copy of the project in which nothing has run."""
    return copy_project(tmp_path / "project")
