"""From images to attention on a real SLURM: what continuous integration can wait for."""

import pytest
from submitted import Run, results_of, stores, tables, unfinished
from workflow_conftest import copy_project

from diffmech.artifacts import open_store

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]
STORE = "results/attention/tiny/lfw_subset/t0000-0049/s00000000-00000007.zarr.zip"


def test_attention_is_the_same_on_slurm_and_here(cluster, tmp_path) -> None:
    here, there = (copy_project(tmp_path / name) for name in ("here", "there"))
    run = Run(there, [STORE]).wait()
    assert run.code == 0, run.text[-6000:]
    assert run.submitted()
    assert {cluster.jobs()[number]["JobState"] for number in run.submitted()} == {"COMPLETED"}
    assert {name.split()[0] for name in here.run(STORE)} == set(run.finished_jobs())
    made = stores(results_of(there))
    assert STORE.removeprefix("results/") in made
    for name, store in stores(results_of(here)).items():
        assert open_store(store).identical(open_store(made[name])), name
    assert set(tables(results_of(here))) == set(tables(results_of(there)))
    assert list(unfinished(results_of(there))) == []
