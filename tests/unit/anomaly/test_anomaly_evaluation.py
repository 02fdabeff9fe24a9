"""Tables of all scores: floors, matched twins and differences stand where they belong."""

from dataclasses import replace

import numpy as np
import pytest
from made_slices import discs
from sklearn.metrics import roc_auc_score

from diffmech.anomaly.evaluation import dice_measures, pixel_measures, slice_measures
from diffmech.anomaly.pooling import in_units
from diffmech.anomaly.scores import Scored, scored
from diffmech.config.anomaly import AnomalyEvaluationConfig, ScoreConfig
from diffmech.errors import DataError

CONFIG = AnomalyEvaluationConfig(draws=300, position_bins=4, sizes=[5, 9])
RAW = ScoreConfig(smoothing=0)


@pytest.fixture(scope="module")
def slices():
    found = discs(8, 12)
    moved = np.random.default_rng(0).permutation(found.position)  # lesions at any position
    return replace(found, position=moved)


@pytest.fixture(scope="module")
def scores(slices):
    source = np.random.default_rng(1)
    noise = source.normal(size=slices.brain.shape)
    return {
        "model": scored(slices.lesion + 0.5 * noise, slices.brain, RAW),
        "random": scored(source.normal(size=noise.shape), slices.brain, RAW),
        "position": Scored(-np.abs(slices.position - 0.5)),
    }


def test_each_slice_measure_stands_beside_its_floor_its_twin_and_its_paired_difference(slices, scores):
    table = slice_measures(scores, slices, CONFIG, reference="model").set_index(["score", "measure", "matching"])
    assert len(table) == 3 * 2 * 2
    overall = table.loc[("model", "roc_auc", "overall")]
    assert overall["value"] == pytest.approx(roc_auc_score(slices.abnormal, scores["model"].slice))
    assert overall["low"] < overall["value"] <= overall["high"]
    assert overall["floor"] == 0.5
    precision = table.loc[("random", "average_precision", "overall")]
    assert slices.abnormal.mean() < precision["floor"] < slices.abnormal.mean() + 0.03
    assert precision["lift"] == pytest.approx(precision["value"] / precision["floor"])
    against = table.loc[("random", "roc_auc", "matched")]
    assert against["difference"] == pytest.approx(
        table.loc[("model", "roc_auc", "matched"), "value"] - against["value"]
    )
    assert against["difference_low"] > 0
    assert np.isnan(overall["difference"])
    assert (table["patients"] == 8).all()


def test_pixel_measures_leave_out_scores_without_a_map_and_groups_without_a_lesion(slices, scores):
    table = pixel_measures(scores, slices, CONFIG, reference="model")
    assert set(table["score"]) == {"model", "random"}
    assert set(table["of"]) == {"all", "size", "kind"}
    found = table.set_index(["score", "measure", "group"])
    floor = slices.lesion.sum() / slices.brain.sum()
    assert found.loc[("random", "pixel_average_precision", "all"), "floor"] == pytest.approx(floor)
    random = found.loc[("random", "pixel_average_precision", "all")]
    assert random["low"] - 0.01 < floor < random["high"] + 0.01
    assert found.loc[("random", "pixel_average_precision", "bright"), "difference_low"] > 0
    assert "1 to 4 px" not in found.index.get_level_values("group")


def test_dice_is_at_the_threshold_of_healthy_validation_slices(slices, scores):
    validation, config = discs(3, 12, first=20, seed=9), CONFIG.model_copy(update={"false_positives": 0.1})
    noise = np.random.default_rng(2).normal(size=validation.brain.shape)
    known = scored(validation.lesion + 0.5 * noise, validation.brain, RAW)
    own = {"model": in_units(scores["model"], known, validation, config)}
    table = dice_measures(own, slices, config, reference="model")
    whole = table[table["group"] == "all"].iloc[0]
    healthy = known.pixel[~validation.abnormal][validation.brain[~validation.abnormal]]
    above = (scores["model"].pixel > np.quantile(healthy, 0.9)) & slices.brain
    assert 0.05 < (above & ~slices.lesion).sum() / (slices.brain & ~slices.lesion).sum() < 0.15
    assert whole["value"] == pytest.approx(2 * (above & slices.lesion).sum() / (above.sum() + slices.lesion.sum()))
    share = slices.lesion.sum() / slices.brain.sum()
    assert whole["floor"] == pytest.approx(2 * share / (1 + share))


def test_units_leave_the_order_and_put_the_threshold_of_slices_at_zero(slices, scores):
    own = in_units(scores["random"], scores["random"], slices, CONFIG)
    assert np.array_equal(np.argsort(own.slice), np.argsort(scores["random"].slice))
    healthy = ~slices.abnormal
    assert (own.slice[healthy] > 0).mean() == pytest.approx(CONFIG.false_alarms, abs=1 / healthy.sum())
    assert own.slice[healthy].std() == pytest.approx(1)
    assert own.pixel[healthy][slices.brain[healthy]].std() == pytest.approx(1, abs=1e-4)


def test_folds_are_compared_apart(slices, scores):
    """Scores that differ between folds by a constant are as good as without it."""
    fold = np.where(np.isin(slices.patient, ["p00", "p01", "p02"]), 0, 1)
    shifted = {"model": Scored(scores["model"].slice + 100.0 * fold)}
    one, other = (
        slice_measures(each, slices, CONFIG, reference="model", fold=fold)["value"].to_numpy()
        for each in (shifted, {"model": scores["model"]})
    )
    assert np.allclose(one, other)
    assert slice_measures(shifted, slices, CONFIG, reference="model")["value"].iloc[0] < one[0]


def test_slices_of_one_kind_cannot_be_told_apart(slices, scores):
    rows = slices.abnormal
    with pytest.raises(DataError, match="test slices are all of one kind"):
        slice_measures({"model": scores["model"].take(rows)}, slices.take(rows), CONFIG, reference="model")


def test_edges_between_sizes_rise():
    with pytest.raises(ValueError, match="edges between sizes of lesions must rise"):
        AnomalyEvaluationConfig(sizes=[9, 9])
