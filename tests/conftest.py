"""The two invented studies of the tests of report and page, built once by the worker that runs all these tests.

`DIFFMECH_TEST_ONEDNN=0` runs the tests with torch's own kernels, as on a machine that oneDNN does not serve (`make
settings`). Jobs that a test starts as a process of their own keep oneDNN: torch has no variable for it.

Calls of the numerical rooms are checked against their annotations, shapes of arrays included (jaxtyping, beartype),
unless `DIFFMECH_TEST_TYPES=0`; those of jobs that a test starts as a process of their own are not.
"""

import os
import sys
from pathlib import Path

import checked_types
import jaxtyping
import pytest

NUMERICAL = ("statistics", "attention", "mechanisms", "interventions", "circuits")
# Before any of them is imported: by a test, a fixture or another conftest.
if os.environ.get("DIFFMECH_TEST_TYPES") != "0":
    checked_types.install([f"diffmech.{room}" for room in NUMERICAL])
sys.path.insert(0, str(Path(__file__).parent / "unit" / "report" / "heads"))


def _written(folder, **kinds):
    from small_study import build_study, study_config

    from diffmech.report.heads.artifacts import read_tables
    from diffmech.report.heads.charts import every_chart
    from diffmech.report.heads.draw import draw_charts
    from diffmech.report.heads.page import write_report

    inputs = build_study(folder, **kinds)
    config = study_config("bundled" if kinds.get("effect", True) else "untrained")
    draw_charts(inputs, folder / "charts", ablation=config.ablation)
    charts = [str(folder / "charts" / f"{chart.name}.vl.json") for chart in every_chart()]
    write_report(inputs, charts, folder / "report.html", folder / "findings.json", config=config)
    return folder, inputs, read_tables(inputs)


def pytest_configure() -> None:
    if os.environ.get("DIFFMECH_TEST_ONEDNN") == "0":
        import torch

        torch.backends.mkldnn.enabled = False


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """(folder, inputs, tables) of the study with effects; its page is `folder`/report.html."""
    return _written(tmp_path_factory.mktemp("found"))


@pytest.fixture(scope="session")
def null(tmp_path_factory):
    """(folder, inputs, tables) of the study of random weights, without history and recognition."""
    return _written(tmp_path_factory.mktemp("null"), effect=False, optional=False)


# Whole studies in one process, whose parts have tests of their own: checked, they take several times as long.
WHOLE = {"planted", "pipelines"}


@pytest.hookimpl(tryfirst=True)  # before fixtures, of a module or session too
def pytest_runtest_setup(item):
    """Leave types unchecked in a test marked `unchecked`, and in whole studies."""
    unchecked = item.get_closest_marker("unchecked") is not None or bool(WHOLE & set(item.path.parts))
    jaxtyping.config.update("jaxtyping_disable", unchecked)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups after it
def pytest_collection_modifyitems(items):
    for item in items:
        if {"report", "browser"} & set(item.path.parts):
            item.add_marker(pytest.mark.xdist_group("report"))
