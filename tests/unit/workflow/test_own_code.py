"""The digest of the user's code changes with what the code does, wherever it lies, and with nothing else."""

import sys
from pathlib import Path

import pytest
import yaml

from diffmech.config.judging import JudgesConfig
from diffmech.config.load import merge
from diffmech.workflow.own_code import code_digest, find_code, own_files
from diffmech.workflow.study import Study

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "layers.py").write_text("from . import sizes\nwidth = sizes.WIDTH\n")
    (tmp_path / "parts" / "sizes.py").write_text("WIDTH = 8\n")
    (tmp_path / "other.py").write_text("print('never imported')\n")
    text = '"""A network."""\nimport torch\nfrom parts.layers import width\n\nclass Net(torch.nn.Module):\n    pass\n'
    (tmp_path / "net.py").write_text(text)
    return tmp_path


def digest(folder: Path) -> str:
    code = find_code("net.py:Net", folder)
    assert code is not None
    return code_digest(code)


def test_all_that_is_imported_from_the_folder_belongs_to_the_code(folder: Path) -> None:
    code = find_code(f"{folder}/net.py:Net", Path("/nowhere"))
    assert code is not None
    names = [file.relative_to(folder).as_posix() for file in own_files(code)]
    assert names == ["net.py", "parts/__init__.py", "parts/layers.py", "parts/sizes.py"]


def test_comments_and_docstrings_change_nothing_and_edits_of_any_part_do(folder: Path) -> None:
    before = digest(folder)
    (folder / "net.py").write_text((folder / "net.py").read_text().replace("A network.", "My network.") + "# end\n")
    (folder / "other.py").write_text("print('edited')\n")
    assert digest(folder) == before
    (folder / "parts" / "sizes.py").write_text("WIDTH = 16\n")
    assert digest(folder) != before


def test_code_that_is_no_python_has_a_digest_too(folder: Path) -> None:
    before = digest(folder)
    (folder / "net.py").write_text("class Net(:\n")
    broken = digest(folder)
    assert broken != before


def test_a_module_is_found_without_being_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    code = find_code("parts.layers:width", Path("/nowhere"))
    assert code is not None
    assert (code.file, code.folder, code.module) == (folder / "parts" / "layers.py", folder, "parts.layers")
    assert "parts" not in sys.modules
    assert find_code("parts.nothing:Net", folder) is None
    assert find_code("nothing.at.all:Net", folder) is None
    assert find_code("gone.py:Net", folder) is None


def test_installed_packages_are_not_followed() -> None:
    code = find_code("torch.nn.modules.linear:Linear", Path())
    assert code is not None
    assert own_files(code) == [code.file]


def test_study_tracks_the_code_and_the_files_of_the_model_as_far_as_they_exist(folder: Path) -> None:
    entry = {"source": "custom", "implementation": "net.py:Net", "weights": "w.pt", "schedule": {"config": "schedule"}}
    raw = merge(yaml.safe_load((ROOT / "config.yaml").read_text()), {"models": {"mine": entry}})
    study = Study(raw, folder)
    assert study.own_code("mine") == digest(folder)
    assert study.own_code("faces") == ""
    assert study.own_files("mine") == []
    (folder / "w.pt").write_bytes(b"")
    (folder / "schedule").mkdir()
    (folder / "schedule" / "scheduler_config.json").write_text("{}")
    assert study.own_files("mine") == [str(folder / "w.pt"), str(folder / "schedule" / "scheduler_config.json")]
    assert study.own_files("faces") == []
    (folder / "net.py").unlink()
    assert study.own_code("mine") == ""


def test_study_tracks_the_code_and_the_files_of_a_detector(folder: Path) -> None:
    named = {"function": "net.py:Net", "attributes": ["bright"], "files": ["w.pt"]}
    raw = merge(yaml.safe_load((ROOT / "config.yaml").read_text()), {"resampling": {"detector": named}})
    study = Study(raw, folder)
    judges = study.config.resampling
    assert (study.detector_code(judges), study.detector_files(judges)) == (digest(folder), [])
    (folder / "w.pt").write_bytes(b"")
    assert study.detector_files(judges) == [str(folder / "w.pt")]
    assert (study.detector_code(JudgesConfig()), study.detector_files(JudgesConfig())) == ("", [])
