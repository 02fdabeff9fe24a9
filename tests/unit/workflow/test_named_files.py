"""Files that a study names and that are not there are told before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffmech.config.load import merge, validate
from diffmech.config.root import Config
from diffmech.errors import ConfigError
from diffmech.workflow.named_files import check_named_files

ROOT = Path(__file__).parents[3]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def study(**model: Any) -> Config:
    return validate(merge(DEFAULT, {"study": {"model": "mine"}, "models": {"mine": model}}))


def test_each_file_that_is_not_there_has_a_line_of_its_own(tmp_path: Path) -> None:
    schedule = {"config": "gone/scheduler_config.json"}
    config = study(source="custom", implementation="gone.py:Net", weights="gone.pt", schedule=schedule)
    with pytest.raises(ConfigError) as caught:
        check_named_files(config, tmp_path)
    first, second, third = str(caught.value).splitlines()
    assert first.startswith("models.mine.implementation: 'gone.py:Net': there is no such file or module (looked from ")
    assert second.startswith("models.mine.weights: 'gone.pt': no such file (looked from ")
    assert second.endswith("check the path, or give null for random weights")
    assert third.startswith("models.mine.schedule.config: 'gone/scheduler_config.json': no such file or directory")


def test_files_beside_the_project_are_found(tmp_path: Path) -> None:
    for name in ("net.py", "w.pt"):
        (tmp_path / name).write_text("")
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "scheduler_config.json").write_text(json.dumps({}))
    named = {"implementation": "net.py:Net", "weights": "w.pt", "schedule": {"config": "schedule"}}
    check_named_files(study(source="custom", **named), tmp_path)


def test_a_detector_that_is_not_there_is_told_for_each_study_that_asks_it(tmp_path: Path) -> None:
    judges = {"detector": {"function": "gone.py:see", "attributes": ["hat"], "files": ["gone.pt"]}}
    config = validate(merge(DEFAULT, {"resampling": judges, "concepts": {"judges": judges}}))
    with pytest.raises(ConfigError) as caught:
        check_named_files(config, tmp_path)
    first, second, third, fourth = str(caught.value).splitlines()
    assert first.startswith("resampling.detector.function: 'gone.py:see': no file or module of this name (looked from ")
    assert second.startswith("resampling.detector.files: 'gone.pt' is no file (looked from ")
    assert third.startswith("concepts.judges.detector.function: 'gone.py:see'")
    assert fourth.startswith("concepts.judges.detector.files: 'gone.pt'")


def test_a_directory_that_is_not_there_is_told_and_a_hub_id_is_left_to_the_import(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^models\.mine\.location: '\./gone': no such directory \(looked from"):
        check_named_files(study(source="diffusers", location="./gone"), tmp_path)
    check_named_files(study(source="diffusers", location="owner/name"), tmp_path)
    check_named_files(validate(DEFAULT), ROOT)
