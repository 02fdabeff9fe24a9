"""The kit of pages serves every study and knows none."""

import ast
import re
from pathlib import Path

import pandas as pd
import pytest

from diffmech.report.drawing import timestep_lines

ROOT = Path(__file__).parents[3]
KIT = sorted((ROOT / "src/diffmech/report").glob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", KIT, ids=lambda path: path.stem)
def test_the_kit_imports_no_study(path):
    of_a_study = {folder.name for folder in (ROOT / "src/diffmech/report").iterdir() if folder.is_dir()}
    assert "heads" in of_a_study
    for name in imported(path):
        assert not any(name.startswith(f"diffmech.report.{study}") for study in of_a_study), name


def test_lines_over_timesteps_are_means_of_each_domain():
    rows = [("real", 20, 1.0), ("real", 20, 3.0), ("real", 420, 5.0), ("synthetic", 20, 4.0)]
    frame = pd.DataFrame(rows, columns=["domain", "timestep", "keys"])
    chart = timestep_lines(frame, "keys", ("real", "synthetic")).to_dict()
    [data] = chart["datasets"].values()
    assert data.splitlines() == ["domain,timestep,keys", "real,20,2", "real,420,5", "synthetic,20,4"]


def test_text_is_escaped_by_the_engine_and_nowhere_by_hand():
    for path in sorted((ROOT / "src/diffmech").rglob("*.py")):
        assert "html.escape" not in path.read_text(encoding="utf-8"), path
        assert "html" not in [name.split(".")[0] for name in imported(path)], path


def test_no_module_of_a_page_writes_html_of_its_own():
    modules = {*(ROOT / "src/diffmech/report").rglob("*.py")} - {ROOT / "src/diffmech/report/style.py"}
    for path in sorted(modules):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not [
            text
            for text in texts
            if isinstance(text, str)
            and re.search(r"</?(a|div|figure|h[1-6]|img|li|p|pre|section|span|table|ul)\b[^>]*>", text)
        ], path
