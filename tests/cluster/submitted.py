"""Studies that are run through profiles/slurm, and what their logs and files say."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from workflow_conftest import CPU

PARTITIONS = {
    "cpu": {"max_runtime": 1440, "max_threads": 2, "max_mem_mb": 12000},
    "gpu": {"max_runtime": 1440, "max_threads": 2, "max_mem_mb": 12000, "max_gpu": 1},
}
# Of a cluster of one host with two processors to a node and without a database of accounts.
HERE = ["--cores", "2", "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "20"]
EXTRA: dict[str, str] = {}  # variables of the environment beside those of all tests


@dataclass
class Run:
    """One call of snakemake with the profile, started at once; its output goes to a file."""

    project: Any
    arguments: list[str]
    edit: dict[str, Any] | None = None
    profile: str = "slurm"
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        folder: Path = self.project.folder
        partitions = folder / "partitions.yaml"
        partitions.write_text(yaml.safe_dump({"partitions": PARTITIONS}))
        self.log = folder / f"{self.profile}-{time.monotonic_ns()}.log"
        options = ["--workflow-profile", f"profiles/{self.profile}"]
        options += [*HERE, "--slurm-partition-config", str(partitions)] if self.profile == "slurm" else []
        command = [sys.executable, "-m", "snakemake", *options, *self.arguments]
        command += ["--configfile", *self.project.configs(self.edit)]
        environment = {**CPU, **EXTRA, "PYTHONUNBUFFERED": "1"}
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def wait(self, seconds: float = 3600) -> "Run":
        """Wait for its end."""
        self.process.wait(seconds)
        return self

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.process.poll()

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self.log.read_text()

    def submitted(self) -> list[str]:
        """The SLURM job ids that it names."""
        return re.findall(r"submitted with SLURM jobid (\d+)", self.text)

    def finished_jobs(self) -> list[str]:
        """The rules of the jobs that it finished, one for each job."""
        return re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", self.text)


def stores(folder: Path) -> dict[str, Path]:
    """Return all stores of a folder of results, by their path in it."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("[!.]*.zarr.zip"))}


def tables(folder: Path) -> dict[str, Path]:
    """Return all tables of a folder of results, by their path in it; benchmarks and logs are none."""
    found = [path for path in sorted(folder.rglob("*.csv")) if not {"benchmarks", "logs"} & set(path.parts)]
    return {str(path.relative_to(folder)): path for path in found}


def unfinished(folder: Path) -> Iterator[Path]:
    """Yield what was being written when somebody stopped writing: hidden neighbours of results."""
    for path in folder.rglob(".*"):
        if ".checkpoints" not in path.parts and path.name not in (".snakemake_timestamp",):
            yield path


def results_of(project: Any) -> Path:
    """Return the results of a project."""
    return Path(os.fspath(project.folder)) / "results"
