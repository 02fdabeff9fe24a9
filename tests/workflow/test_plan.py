"""The budget of a study is told before anything of it runs."""

import pytest

pytestmark = pytest.mark.workflow


def test_a_plan_prints_what_the_captures_take_and_starts_no_other_job(project):
    done = project.snakemake("--cores", "2", "plan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.job_list.read_text().split() == ["plan"]
    (configured,) = [line for line in done.stdout.splitlines() if line.endswith("<- configured")]
    assert configured.startswith("captures: maps of 2")
    assert "It fits." in done.stdout
    assert project.files() == {}
    assert project.planned(None, "plan") == {"plan"}  # it runs whenever it is asked for
