"""The kit of pages serves every study and knows none."""

import ast
from pathlib import Path

import pytest

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
