"""Curves of slices against scikit-learn's, and their areas against the measures that stand beside them."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from diffmech.anomaly.curves import PLACES, curve_of, curves
from diffmech.anomaly.discrimination import cases
from diffmech.anomaly.scores import Scored
from diffmech.config.anomaly import AnomalyEvaluationConfig

CONFIG = AnomalyEvaluationConfig(draws=200)


def slices(seed: int, *, ties: bool, apart: float = 1.0):
    source = np.random.default_rng(seed)
    patient = np.repeat(np.arange(12), 25)
    abnormal = source.random(300) < 0.3
    score = source.normal(size=300) + apart * abnormal
    return cases(abnormal, patient, np.zeros(300), 1), np.round(score, 1) if ties else score


def plain(given, score):
    return curve_of(score, given)(np.full((1, given.patients), 1 / given.patients))[0]


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(ties):
    given, score = slices(0, ties=ties)
    found = plain(given, score)
    false, recall, _ = roc_curve(given.abnormal, score, drop_intermediate=False)
    np.testing.assert_allclose(found[: len(PLACES)], np.interp(PLACES, false, recall), atol=1e-12)
    precision, recall, _ = precision_recall_curve(given.abnormal, score)
    expected = [precision[:-1][recall[:-1] >= place - 1e-12][-1] for place in PLACES]
    np.testing.assert_allclose(found[len(PLACES) :], expected, atol=1e-12)


def test_the_areas_are_the_measures():
    given, score = slices(1, ties=False)
    roc, precision = np.split(plain(given, score), 2)
    assert np.trapezoid(roc, PLACES) == pytest.approx(roc_auc_score(given.abnormal, score), abs=0.01)
    assert precision.mean() == pytest.approx(average_precision_score(given.abnormal, score), abs=0.03)


def test_drawing_a_patient_twice_is_having_it_twice():
    given, score = slices(2, ties=True)
    weights = np.ones(given.patients)
    weights[3] = 2
    twice = np.append(np.arange(300), np.flatnonzero(given.patient == 3))
    again = cases(given.abnormal[twice], twice, np.zeros(len(twice)), 1)
    expected = curve_of(score[twice], again)(np.full((1, again.patients), 1.0))[0]
    np.testing.assert_allclose(curve_of(score, given)(weights[None] / weights.sum())[0], expected, atol=1e-12)


def test_a_random_score_lies_on_the_floor_and_a_perfect_one_above():
    given, score = slices(3, ties=False, apart=0.0)
    frame = curves(
        {"random": Scored(score, None), "all": Scored(given.abnormal * 1.0, None)}, ["random", "all"], given, CONFIG
    )
    random, perfect = (frame[frame["score"] == name] for name in ("random", "all"))
    inside = (random["low"] <= random["floor"] + 1e-9) & (random["floor"] <= random["high"] + 1e-9)
    assert inside.mean() > 0.8
    assert (perfect["y"][1:] == 1).all()
    assert set(frame["curve"]) == {"roc", "precision_recall"}


def test_scores_that_there_are_not_are_passed_over_and_slices_of_one_kind_have_no_curve():
    given, score = slices(4, ties=False)
    assert curves({"one": Scored(score, None)}, ["one", "another"], given, CONFIG)["score"].unique().tolist() == ["one"]
    healthy = cases(np.zeros(300, dtype=bool), given.patient, np.zeros(300), 1)
    assert np.isnan(plain(healthy, score)).all()
