"""What happens to jobs on a cluster costs those jobs, once: all else is kept, and no number is wrong."""

import os
import signal

import pytest
from slurm import NODES, run, wait_until
from submitted import Run, results_of, unfinished

from diffmech.artifacts import open_store

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]
STORE = "results/attention/tiny/lfw_subset/t0000-0049/s00000000-00000007.zarr.zip"
BAD = {"CANCELLED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


@pytest.fixture
def lacking(finished, tmp_path):
    """A copy of the finished study that lacks one store of attention."""
    project = finished.copy(tmp_path / "lacking")
    (project.folder / STORE).unlink()
    return project


def running(started, cluster) -> dict[str, str]:
    """Wait until the job that was submitted writes its store; return what SLURM says of it."""
    folder = (started.project.folder / STORE).parent

    def writing() -> bool:
        assert started.code is None, started.text[-4000:]
        return any(folder.glob(".*"))

    wait_until(writing, 300, lambda: started.text[-4000:])
    return cluster.jobs()[started.submitted()[-1]]


def check_recovered(project, finished, run, before) -> None:
    """Check that the study is what it was, and that nothing but the lacking store was made."""
    assert run.code == 0, run.text[-6000:]
    after = project.files()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {STORE}
    assert run.finished_jobs() == ["capture_attention"]
    same = open_store(project.folder / STORE).identical(open_store(finished.folder / STORE))
    assert same, "the store that was made anew is another one"
    assert list(unfinished(results_of(project))) == []


def test_a_cancelled_job_is_submitted_once_more(lacking, finished, cluster) -> None:
    before = lacking.files()
    started = Run(lacking, [STORE])
    run("scancel", running(started, cluster)["JobId"])
    started.wait()
    check_recovered(lacking, finished, started, before)
    states = [cluster.jobs()[number]["JobState"] for number in started.submitted()]
    assert states == ["CANCELLED", "COMPLETED"]


def test_the_job_of_a_dead_node_runs_on_another(lacking, finished, cluster) -> None:
    before = lacking.files()
    started = Run(lacking, [STORE])
    node = running(started, cluster)["NodeList"]
    try:
        cluster.kill_node(node)
        started.wait()
    finally:
        cluster.start_node(node)
        wait_until(lambda: cluster.states() == dict.fromkeys(NODES, "idle"), 60, lambda: str(cluster.states()))
    check_recovered(lacking, finished, started, before)
    first, second = (cluster.jobs()[number] for number in started.submitted())
    assert first["JobState"] in BAD  # NODE_FAIL, or FAILED where it died while it started
    assert second["JobState"] == "COMPLETED"
    assert second["NodeList"] != node


def test_a_job_that_needs_more_memory_gets_it(lacking, finished, cluster) -> None:
    before = lacking.files()
    started = Run(lacking, [STORE, "--set-resources", "capture_attention:mem_mb=300*attempt**4"]).wait()
    check_recovered(lacking, finished, started, before)
    first, second = (cluster.jobs()[number] for number in started.submitted())
    assert first["JobState"] in BAD
    assert "mem=300M" in first["TRES"]
    assert "mem=4800M" in second["TRES"]


def test_a_study_whose_controller_was_killed_goes_on(lacking, finished, cluster) -> None:
    before = lacking.files()
    started = Run(lacking, [STORE])
    orphan = running(started, cluster)["JobId"]
    os.killpg(started.process.pid, signal.SIGKILL)
    started.process.wait()
    again = Run(lacking, [STORE]).wait()
    check_recovered(lacking, finished, again, before)
    assert cluster.jobs()[orphan]["JobState"] in BAD | {"COMPLETED"}


def test_a_node_with_another_library_computes_nothing(lacking, cluster, tmp_path, monkeypatch) -> None:
    other = tmp_path / "other"
    (other / "torch-1.0.0.dist-info").mkdir(parents=True)
    (other / "torch-1.0.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0.0\n")
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, sys\nif os.environ.get('SLURMD_NODENAME') == 'n2': sys.path.insert(0, {str(other)!r})\n"
    )
    monkeypatch.setattr("submitted.EXTRA", {"PYTHONPATH": str(tmp_path)})
    before = lacking.files()
    stopped = Run(lacking, [STORE, "--slurm-exclude-failed-nodes", "n1"]).wait()
    assert stopped.code == 1
    assert "torch 1.0.0 in place of" in stopped.text
    assert lacking.files() == before
    finished_run = Run(lacking, [STORE, "--slurm-exclude-failed-nodes", "n2"]).wait()
    assert finished_run.code == 0, finished_run.text[-4000:]
