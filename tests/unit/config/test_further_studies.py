"""A further study is found by the file of its section; a file that does not say which study it is stops at once."""

import sys
from pathlib import Path

import pytest
import yaml

from diffmech.config import studies
from diffmech.config.further import further_fields, further_sections
from diffmech.workflow.study import Study

ROOT = Path(__file__).parents[3]
SECTION = '''
from typing import ClassVar
from pydantic import Field
from diffmech.config.section import Section, StudySection

class Inner(Section):
    """No study."""

class {name}(StudySection):
    """A study."""

    title: ClassVar[str] = "Shapes"
    count: int = Field(2, description="How many.")
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of sections in the place of that of the package."""
    monkeypatch.setattr(studies, "__path__", [str(tmp_path)])
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(f"{studies.__name__}.{path.stem}", None)
        vars(studies).pop(path.stem, None)


def test_a_study_has_the_name_of_its_file_and_is_not_asked_for_unless_its_key_is_there(folder):
    (folder / "shapes.py").write_text(SECTION.format(name="ShapesStudy"))
    assert {name: section.__name__ for name, section in further_sections().items()} == {"shapes": "ShapesStudy"}
    annotation, field = further_fields(["study"])["shapes"]
    assert field.default is None
    assert annotation == further_sections()["shapes"] | None


def test_a_file_without_a_section_or_with_two_is_named(folder):
    (folder / "empty.py").write_text("from diffmech.config.section import StudySection\n")
    with pytest.raises(TypeError, match=r"diffmech\.config\.studies\.empty: has 0 classes derived from StudySection"):
        further_sections()
    (folder / "empty.py").unlink()
    (folder / "twice.py").write_text(SECTION.format(name="One") + SECTION.format(name="Two"))
    with pytest.raises(TypeError, match=r"twice: has 2 classes derived from StudySection, expected one"):
        further_sections()


@pytest.mark.parametrize("name", ["a b", "my-study", "2d", "class"])
def test_a_study_is_named_as_a_module_is(name, folder):
    (folder / f"{name}.py").write_text(SECTION.format(name="ShapesStudy"))
    with pytest.raises(TypeError, match=rf"{name}\.py is no name of a study; name the file as a Python module"):
        further_sections()


def test_no_study_takes_the_name_of_another_key(folder):
    (folder / "report.py").write_text(SECTION.format(name="ReportStudy"))
    with pytest.raises(TypeError, match=r"report is another key of config\.yaml; name the file otherwise"):
        further_fields(["study", "report"])


def test_a_study_that_is_not_asked_for_is_read_with_its_defaults():
    study = Study(yaml.safe_load((ROOT / "config.yaml").read_text()), ROOT)
    assert study.section("entropy") is study.config.entropy
    for name, asked in study.further.items():
        assert not asked
        assert study.section(name) == further_sections()[name]()


def test_every_further_study_of_the_package_has_a_title_and_a_default_for_every_field():
    for section in further_sections().values():
        assert section.title
        section()
