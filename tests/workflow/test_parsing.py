"""Looking at the workflow is cheap, and touches nothing heavy."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.workflow

HEAVY = ("torch", "diffusers", "xarray", "zarr", "altair", "pandas", "scipy", "sklearn", "skimage", "jaxtyping")
PROBE = """
import resource, sys
from snakemake.cli import main
try:
    main(["--dry-run", "--quiet", "all"])
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("seconds:", sum(each.ru_utime + each.ru_stime for each in used))
print("heavy:", sorted(name for name in %r if name in sys.modules))
"""


@pytest.fixture(scope="module")
def told(module_project):
    """What a dry run in a Python of its own says of itself, by the first word."""
    command = [sys.executable, "-c", PROBE % (HEAVY,)]
    done = subprocess.run(command, cwd=module_project.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split(": ") for line in done.stdout.splitlines()[-2:])


def test_a_dry_run_imports_no_heavy_library(told):
    assert told["heavy"] == "[]"


def test_a_dry_run_takes_seconds(told):
    # A guard against an import that costs seconds, not a benchmark: it takes 3 seconds of a processor of 2024, and an
    # import of torch and diffusers 7 more. On a busy machine the clock on the wall tells nothing.
    assert float(told["seconds"]) < 8


def test_the_default_target_is_the_report(module_project):
    assert "write_report" in {job.split()[0] for job in module_project.planned()}
