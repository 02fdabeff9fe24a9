"""A SLURM of the tests' own, and the tiny study beside it."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from slurm import Cluster, missing

# The tiny study and its copies are those of the tests of the workflow, whose fixtures are not seen from here.
WORKFLOW = Path(__file__).parents[1] / "workflow"
sys.path.append(str(WORKFLOW))
_spec = importlib.util.spec_from_file_location("workflow_conftest", WORKFLOW / "conftest.py")
workflow_conftest = importlib.util.module_from_spec(_spec)
sys.modules["workflow_conftest"] = workflow_conftest
_spec.loader.exec_module(workflow_conftest)
finished = workflow_conftest.finished


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running SLURM of three nodes; tests that ask for it are skipped, with the reason, where none can be started."""
    plugin = importlib.util.find_spec("snakemake_executor_plugin_slurm")
    if lacking := missing() if plugin else "the extra `slurm` is not installed":
        pytest.skip(lacking)
    running = Cluster(tmp_path_factory.mktemp("slurm"))
    for folder in (running.folder, *running.folder.parents[:2]):
        os.chmod(folder, 0o755)  # munge, another user, has its files there
    try:
        try:
            running.start()
        except RuntimeError as error:
            pytest.skip(f"no SLURM can be started: {error}")
        yield running
    finally:
        running.stop()
