"""The measure that CONTRIBUTING.md adds as an example is added by its files alone, and only what is below it runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import COPIED, CPU, Project

pytestmark = [pytest.mark.workflow, pytest.mark.xdist_group("tiny")]

ROOT = Path(__file__).parents[2]


def added_files() -> dict[str, str]:
    """Return what the diff in CONTRIBUTING.md adds, by path. It edits nothing."""
    [diff] = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    files: dict[str, str] = {}
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        old, new, _, *lines = part.splitlines()
        assert old == "/dev/null"
        assert all(line.startswith("+") for line in lines)
        files[new.removeprefix("+++ b/")] = "".join(f"{line[1:]}\n" for line in lines)
    return files


def test_a_measure_takes_one_module_one_rule_and_its_script(finished: Project, tmp_path: Path) -> None:
    files, project = added_files(), finished.copy(tmp_path / "project")
    assert sum(text.count("\n") for text in files.values()) < 60
    assert not [name for name in files if (project.folder / name).exists()]
    for name, text in files.items():
        (project.folder / name).parent.mkdir(exist_ok=True)
        (project.folder / name).write_text(text)
    assert project.run() == {"received_keys tiny", "draw_charts", "write_report"}
    table = pd.read_csv(project.folder / "results/measures/tiny/received_keys.csv")
    entropy = pd.read_csv(project.folder / "results/entropy/tiny/heads.csv").set_index(["domain", "head", "timestep"])
    joined = table.set_index(["domain", "head", "timestep"]).join(entropy, how="left")
    # All queries together look at least as widely as each of them does, and at no more keys than there are.
    assert len(joined) == len(entropy)
    assert (np.log(joined["keys"]) >= joined["entropy"] - 1e-3).all()
    assert (np.log(joined["keys"]) <= joined["h_max"] + 1e-3).all()
    page = (project.folder / "results/report.html").read_text(encoding="utf-8")
    assert 'data-spec="spec-received_keys"' in page
    assert "Number of keys that attention falls on" in page
    assert project.planned() == set()


def test_the_project_with_a_measure_keeps_the_rules_of_the_house(tmp_path: Path) -> None:
    """After `make docs` the dictionary and the captions have it too, and have lost nothing; nothing else was edited."""
    for name in (*COPIED, "docs", "tests", "pyproject.toml", "constraints.txt"):
        subprocess.run(["cp", "-a", str(ROOT / name), str(tmp_path / name)], check=True)
    for name, text in added_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = (tmp_path / "docs/tables.md").read_text()

    def run(*arguments: str) -> str:
        environment = {**CPU, "PYTHONPATH": str(tmp_path / "src")}
        command = [sys.executable, "-m", *arguments]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    run("diffmech.dictionary")
    run("diffmech.report.heads.captions")
    after = (tmp_path / "docs/tables.md").read_text()
    assert "## `results/measures/{model}/received_keys.csv`" in after
    assert set(before.splitlines()) <= set(after.splitlines())
    assert "Number of keys" in (tmp_path / "resources/captions/received_keys.rst").read_text()
    names = ("workflow/test_house_rules", "workflow/test_rooms", "test_tables", "report/heads/test_report_charts")
    # What other charts claim is tested without it.
    chosen = "not test_report_charts or received_keys or measure or captions or places or one_of_a_kind"
    said = run("pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *(f"tests/unit/{name}.py" for name in names))
    assert re.search(r"\d+ passed", said), said
