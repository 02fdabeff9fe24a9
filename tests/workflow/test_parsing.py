"""Looking at the workflow is cheap, and touches nothing heavy."""

import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.workflow

HEAVY = ("torch", "diffusers", "xarray", "zarr", "altair", "pandas", "scipy", "sklearn", "skimage", "jaxtyping")
PROBE = """
import sys
from snakemake.cli import main
try:
    main(["--dry-run", "--quiet", "all"])
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
print("heavy:", sorted(name for name in %r if name in sys.modules))
"""


def test_a_dry_run_imports_no_heavy_library(project):
    done = subprocess.run(
        [sys.executable, "-c", PROBE % (HEAVY,)], cwd=project.folder, capture_output=True, text=True, check=False
    )
    assert "heavy: []" in done.stdout, done.stdout + done.stderr


def test_a_dry_run_takes_seconds(project):
    # A guard against an import that costs seconds, not a benchmark: it takes 3 seconds of a processor of 2024, and an
    # import of torch and diffusers 7 more. On a busy machine the clock on the wall tells nothing.
    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    start = spent()
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--configfile", *project.configs(None)]
    subprocess.run(command, cwd=project.folder, capture_output=True, check=True)
    assert spent() - start < 8


def test_the_default_target_is_the_report(project):
    assert "write_report" in {job.split()[0] for job in project.planned()}
