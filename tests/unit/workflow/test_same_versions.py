"""A job on a node with another environment stops before it computes under the record of its run."""

import json

import pytest

from diffmech.errors import ConfigError
from diffmech.workflow.same import RUN, check_same, in_use, tell_jobs

SCRIPT = '"""Add."""\n\nfrom diffmech.randomness import generator\n'


@pytest.fixture
def clone(tmp_path, monkeypatch):
    (tmp_path / "workflow_scripts").mkdir()
    (tmp_path / "workflow_scripts" / "add.py").write_text(SCRIPT)
    monkeypatch.delenv(RUN, raising=False)
    check_same(tmp_path)  # nothing was told: nothing to compare with
    monkeypatch.setenv(RUN, "")
    tell_jobs(tmp_path)
    return tmp_path


def test_the_same_environment_passes(clone) -> None:
    check_same(clone)


def test_another_library_is_named(clone, monkeypatch) -> None:
    monkeypatch.setenv(RUN, json.dumps({**in_use(clone), "torch": "1.0.0"}))
    with pytest.raises(ConfigError, match=r"torch \S+ in place of 1\.0\.0, with which this run was started"):
        check_same(clone)


def test_other_code_is_told_and_other_comments_are_not(clone) -> None:
    for name, script in {"same": SCRIPT + "# a comment\n", "other": SCRIPT + "generator = None\n"}.items():
        (clone / name / "workflow_scripts").mkdir(parents=True)
        (clone / name / "workflow_scripts" / "add.py").write_text(script)
    check_same(clone / "same")
    with pytest.raises(ConfigError, match="diffmech's code"):
        check_same(clone / "other")
