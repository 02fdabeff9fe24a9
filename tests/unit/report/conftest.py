"""Two small studies: one in which everything is found, and one of random weights in which nothing is."""

import pytest
from small_study import build_study, study_config

from diffmech.report.artifacts import read_tables
from diffmech.report.charts import CHARTS, draw_charts
from diffmech.report.page import write_report


def _written(folder, **kinds):
    inputs = build_study(folder, **kinds)
    config = study_config("bundled" if kinds.get("effect", True) else "untrained")
    draw_charts(inputs, folder / "charts", ablation=config.ablation)
    charts = [str(folder / "charts" / f"{name}.vl.json") for name in CHARTS]
    write_report(inputs, charts, folder / "report.html", config=config)
    return folder, inputs, read_tables(inputs)


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """(folder, inputs, tables) of the study with effects."""
    return _written(tmp_path_factory.mktemp("found"))


@pytest.fixture(scope="session")
def null(tmp_path_factory):
    """(folder, inputs, tables) of the study of random weights, without history and recognition."""
    return _written(tmp_path_factory.mktemp("null"), effect=False, optional=False)
