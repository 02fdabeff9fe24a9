"""A denoiser that gets its images in another form than in its training is warned of before anything runs."""

from pathlib import Path

import pytest
import yaml

from diffmech.artifacts import write_json
from diffmech.config.load import merge, validate
from diffmech.workflow.notes import notes

ROOT = Path(__file__).parents[3]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
STUDIES = sorted((ROOT / "resources" / "studies").glob("*.yaml"))
MATCH = {"mean": -0.1, "contrast": 0.4}


def told(overlay: dict) -> list[str]:
    return list(notes(validate(merge(DEFAULT, overlay)), ROOT))


@pytest.mark.parametrize("study", [None, *STUDIES], ids=lambda path: path.stem if path else "default")
def test_no_study_of_the_project_is_warned_of(study):
    assert told(yaml.safe_load(study.read_text()) if study else {}) == []


def test_shifted_images_of_a_denoiser_from_elsewhere_are_warned_of():
    mine = {"study": {"model": "mine"}, "models": {"mine": {"source": "custom", "implementation": "mine.py:Mine"}}}
    assert told(mine) == []
    (note,) = told(merge(mine, {"images": {"match": MATCH}}))
    assert "models.mine (source custom) was not trained here; give images.match: null" in note
    assert "\n" not in note


def test_a_denoiser_whose_training_is_on_record_should_get_what_it_got_then(tmp_path):
    write_json(tmp_path / "mine" / "provenance.json", {"images": {"size": 32, "match": MATCH}})
    mine = {"study": {"model": "mine"}, "models": {"mine": {"source": "diffusers", "location": str(tmp_path / "mine")}}}
    (note,) = told(mine)
    assert "images.match is null, but models.mine was trained on images matched to {" in note
    assert told(merge(mine, {"images": {"match": MATCH}})) == []
    (note,) = told({"images": {"match": None}})  # of the bundled denoiser
    assert "models.faces was trained on images matched to {" in note
