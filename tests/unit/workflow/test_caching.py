"""Whose results are shared between workflows, and with whom: never those of other weights, versions or devices."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from diffmech.config.load import merge, read_mapping
from diffmech.errors import ConfigError
from diffmech.workflow import caching
from diffmech.workflow.caching import LOCATION, environment_folder, share_results, shared_rules
from diffmech.workflow.study import Study

ROOT = Path(__file__).parents[3]
DEFAULT = read_mapping(ROOT / "config.yaml")
TINY = merge(DEFAULT, read_mapping(ROOT / "resources/studies/tiny.yaml"))


def studied(edit=None, of=TINY) -> Study:
    return Study(merge(of, edit or {}), ROOT)


def test_trainings_and_captures_of_known_weights_are_shared():
    assert shared_rules(studied()) == ["train_denoiser", "capture_attention"]
    assert shared_rules(studied(of=DEFAULT)) == ["capture_attention"]
    given = {"models": {"faces": {"source": "diffusers", "location": "somebody/something"}}}
    assert shared_rules(studied(given, DEFAULT)) == []


def test_another_environment_has_another_folder(monkeypatch):
    before = environment_folder(studied())
    assert before == environment_folder(studied({"capture": {"samples": 24}}))
    assert before != environment_folder(studied({"runtime": {"device": "cuda"}}))
    assert before != environment_folder(studied(of=DEFAULT))  # of bundled weights
    monkeypatch.setattr(caching, "versions", lambda: {"torch": "9.9"})
    assert environment_folder(studied()).startswith("diffmech-9.9-")


def test_rules_that_share_have_no_benchmark_and_the_cache_a_folder_for_this_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(LOCATION, str(tmp_path))
    rules = {name: SimpleNamespace(name=f"my_{name}", _benchmark="times.tsv") for name in shared_rules(studied())}
    settings = SimpleNamespace(cache=["my_capture_attention"])
    share_results(settings, studied(), rules.__getitem__, {LOCATION: str(tmp_path)})
    assert (rules["capture_attention"]._benchmark, rules["train_denoiser"]._benchmark) == (None, "times.tsv")
    assert [path.name for path in tmp_path.iterdir()] == [environment_folder(studied())]
    settings = SimpleNamespace(cache=[])
    share_results(settings, studied(), rules.__getitem__, {})
    assert settings.cache == ["my_train_denoiser", "my_capture_attention"]
    with pytest.raises(ConfigError, match=r"--cache write_report: its results are not shared between workflows"):
        share_results(SimpleNamespace(cache=["write_report"]), studied(), rules.__getitem__, {})
