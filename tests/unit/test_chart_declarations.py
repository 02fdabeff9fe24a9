"""A chart is found by its file, drawn from what its function asks for, and captioned over the study's settings."""

import sys

import jinja2
import pytest

from diffmech.charts import Chart, declared_in

MODULE = """
from diffmech.charts import Chart
NAME = "no chart"
CHART = Chart("{name}", "3 Entropy", "A caption.", ("heights",), "{package}.{name}:draw")
def draw(heights, domains):
    return heights, domains
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "declared_here"
    folder.mkdir()
    for name in ("second", "first"):
        (folder / f"{name}.py").write_text(MODULE.format(name=name, package=folder.name))
    (folder / "__init__.py").touch()
    (folder / "notes.txt").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_charts_are_found_by_their_files_in_the_order_of_these(package):
    assert [chart.name for chart in declared_in(package)] == ["first", "second"]


def test_a_function_gets_what_its_parameters_name_and_nothing_else(package):
    chart = declared_in(package)[0]
    assert chart.drawn({"heights": [1, 2], "domains": ("a", "b"), "weights": None}) == ([1, 2], ("a", "b"))
    with pytest.raises(KeyError, match="domains"):
        chart.drawn({"heights": [1, 2]})


def test_a_caption_reads_settings_and_domains_and_nothing_that_is_not_there():
    said = "{{ domains[0] }} images, {{ settings['capture']['samples'] }} of them"
    chart = Chart("drawn", "3 Entropy", said, (), "diffmech.charts:Chart")
    assert chart.words({"capture": {"samples": 8}}, ("real", "drawn")) == "real images, 8 of them"
    with pytest.raises(jinja2.UndefinedError):
        chart.words({"capture": {}}, ("real", "drawn"))
