"""A concept that only a detector of the user's own knows, and what is counted of verdicts."""

import numpy as np
import pytest
from test_concept_jobs import EVALUATION, HAT, SIZE, untrained

from diffmech.artifacts import open_store
from diffmech.concepts.confusion import generated, judge_confusion
from diffmech.concepts.evaluation import original_images
from diffmech.concepts.tables import JUDGED
from diffmech.config.images import ImagesConfig
from diffmech.config.judging import JudgesConfig
from diffmech.config.models import RecognitionConfig
from diffmech.errors import ConfigError
from diffmech.judging.confusion import held_out_images
from diffmech.judging.judge import make_judge

# How bright the middle is, as a probability, and whether the corner is dark: of this nobody tells a denoiser anything.
DETECTOR = """
def seen(images):
    middle = images[:, :, 4:-4, 4:-4].mean(dim=(1, 2, 3))
    return ((middle + 1) / 2).clamp(0, 1)[:, None].repeat(1, 2)
"""
JUDGES = {"attributes": ["glasses"], "detector": {"function": "own.py:seen", "attributes": ["hat", "bright"]}}
RECOGNITION = RecognitionConfig(attributes=["glasses"], faces=200, epochs=1)


def by_hand(images):
    return (np.asarray(images)[:, :, 4:-4, 4:-4].mean(axis=(1, 2, 3), dtype=np.float64) + 1) / 2


@pytest.fixture
def model(tmp_path, runtime):
    (tmp_path / "own.py").write_text(DETECTOR)
    model = untrained(tmp_path, 1)
    judge = tmp_path / "judge.safetensors"
    make_judge(model, judge, recognition=RECOGNITION, images=ImagesConfig(size=SIZE), runtime=runtime)
    return model, judge


def test_a_concept_that_only_the_detector_knows_is_judged_by_it(model, runtime, tmp_path):
    shared = {"concept": HAT, "evaluation": EVALUATION, "uce": False, "runtime": runtime}
    originals = tmp_path / "originals.zip"
    with pytest.raises(ConfigError, match=r"the judge does not know 'hat', only glasses; add it to .* name a detector"):
        original_images(*model, originals, judges=JudgesConfig(), **shared)
    judges = JudgesConfig.model_validate(JUDGES)
    original_images(*model, originals, judges=judges, root=tmp_path, **shared)
    store = open_store(originals).to_dataset()
    assert store["attribute"].values.tolist() == ["glasses", "hat", "bright"]
    for row in range(store.sizes["set"]):
        np.testing.assert_allclose(store["seen"][row, :, 1], by_hand(store["images"][row]), atol=1e-6)
    told = {str(way): store["told"][row].values for row, way in enumerate(store["way"].values)}
    assert told["asked"][:, 1].all()
    assert not told["base"][:, 1].any()
    assert not store["told"][:, :, 2].values.any()  # no denoiser is told of it

    table = tmp_path / "confusion.csv"
    settings = {"images": ImagesConfig(size=SIZE), "recognition": RECOGNITION, "runtime": runtime}
    judge_confusion(*model, {"hat": originals}, table, judges=judges, confidence=0.95, root=tmp_path, **settings)
    found = JUDGED.read(table).set_index(["source", "attribute", "told", "seen"]).sort_index()
    assert set(found.index.unique(0)) == {"held_out", "generated"}
    assert set(found.loc["held_out"].index.unique(0)) == {"glasses", "hat"}
    faces, there = held_out_images(model[0], ["hat"], **settings)
    for hat in (True, False):
        assert found.loc[("held_out", "hat", hat, True), "count"] == (by_hand(faces)[there["hat"] == hat] > 0.5).sum()
        assert found.loc[("generated", "hat", hat), "count"].sum() == EVALUATION.seeds
        assert found.loc[("generated", "hat", hat), "n"].eq(EVALUATION.seeds).all()
    assert found.loc[("generated", "bright"), "balanced"].isna().all()
    # of what is no concept, the images without the first concept count
    _, bright = generated([store], "bright")
    base = [str(way) for way in store["way"].values].index("base")
    np.testing.assert_array_equal(bright, by_hand(store["images"][base]) > 0.5)
