"""Maps and scores of the model and its competitors: one treatment for all, weights without test labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_slices import discs

from diffmech.anomaly import atlas, competitors
from diffmech.anomaly.atlas import healthy_atlas
from diffmech.anomaly.competitors import (
    atlas_scores,
    nearest_features_score,
    network_scores,
    pca_score,
    reconstruction_error,
    simple_scores,
)
from diffmech.anomaly.network import AnomalyVae
from diffmech.anomaly.scores import (
    beyond_position,
    highest,
    labelled_weight,
    model_maps,
    model_scores,
    scale,
    scored,
    smoothed,
)
from diffmech.anomaly.uncertainty import Prediction
from diffmech.config.anomaly import AnomalyNetworkConfig, ScoreConfig
from diffmech.errors import DataError

CONFIG = ScoreConfig(smoothing=0.7, top_share=0.1)


def prediction_of(slices, *, error=0.02, seed=0) -> Prediction:
    """A model that knows the healthy brain of every slice, and is unsure where there are lesions."""
    source = np.random.default_rng(seed)
    mean = np.where(slices.brain[:, None], 0.4, 0) + error * source.standard_normal(slices.images.shape)
    doubt = 1e-4 * np.exp(0.5 * source.standard_normal(mean.shape)) + 1e-3 * slices.lesion[:, None]
    return Prediction(*(each.astype(np.float32) for each in (mean, doubt, 0 * doubt, 0.5 * doubt)))


def test_smoothing_leaves_a_constant_as_it_is_up_to_the_edge_of_the_brain():
    slices = discs(2)
    maps = np.where(slices.brain, 3.0, 50.0)
    found = smoothed(maps, slices.brain, 2.0)
    assert np.allclose(found[slices.brain], 3.0, atol=1e-5)
    assert (found[~slices.brain] == 0).all()
    assert np.array_equal(smoothed(maps, slices.brain, 0)[slices.brain], maps[slices.brain].astype(np.float32))


def test_a_slice_has_the_mean_of_its_highest_pixels_and_one_without_brain_has_none():
    maps = np.arange(100, dtype=np.float32).reshape(1, 10, 10).repeat(3, 0)
    brain = np.ones(maps.shape, dtype=bool)
    brain[1, 5:] = brain[2] = False
    assert highest(maps, brain, 0.1).tolist() == [np.arange(90, 100).mean(), np.arange(45, 50).mean(), 0]
    assert highest(maps, brain, 1e-9)[0] == 99


def test_maps_of_the_model_are_its_error_its_deviation_and_the_one_over_the_other():
    slices = discs(2)
    prediction = prediction_of(slices)
    maps = model_maps(slices.images, prediction)
    error, variance = slices.images - prediction.mean, 1.5 * prediction.epistemic
    assert np.allclose(maps["reconstruction"], np.abs(error)[:, 0])
    assert np.allclose(maps["uncertainty"] ** 2, variance[:, 0], rtol=1e-5)
    assert np.allclose(maps["standardised"], (error**2 / variance)[:, 0], rtol=1e-4)
    assert np.allclose(maps["standardised_bright"] ** 2, maps["standardised"], rtol=1e-4)


def test_beyond_its_position_a_score_that_only_knows_it_is_worth_nothing_and_what_is_added_stays():
    validation, test = discs(6, 40, ill=0.2), discs(4, 40, ill=0.2, first=6)
    of_position, noise = (lambda slices: 3 * np.cos(2 * slices.position)), np.random.default_rng(0)
    known = of_position(validation) + 0.2 * noise.standard_normal(len(validation)) + 50.0 * validation.abnormal
    found = beyond_position(of_position(test), test, known, validation)
    added = beyond_position(of_position(test) + 4.0 * test.abnormal, test, known, validation)
    assert found.std() < 0.2 * (of_position(test) / 0.2).std()
    unit = (added - found)[test.abnormal]
    assert np.allclose(unit, unit[0])
    assert 5 < unit[0] < 20  # 4 in deviations of what is left of known healthy scores, the noise of 0.2 and some bias
    assert np.allclose((added - found)[~test.abnormal], 0)


def test_the_scale_is_that_of_brain_pixels_of_healthy_slices():
    slices = discs(3)
    normal = slices.brain & ~slices.abnormal[:, None, None]
    maps = np.where(normal, np.random.default_rng(0).random(normal.shape), 1e6)
    found = scale(maps, slices)
    own = maps[normal]
    assert (found.mean, found.deviation) == (pytest.approx(own.mean()), pytest.approx(own.std()))
    assert found.of(maps)[normal].std() == pytest.approx(1, rel=1e-5)


def test_no_score_depends_on_labels_of_the_slices_that_are_scored():
    test, validation = discs(3), discs(2, first=3, seed=1)
    maps, known = (model_maps(each.images, prediction_of(each)) for each in (test, validation))
    permuted = replace(test, lesion=np.roll(test.lesion, 1, axis=0) & test.brain, kind=np.roll(test.kind, 1))
    assert not np.array_equal(permuted.abnormal, test.abnormal)
    networks, training = [network(0)], discs(3, first=5, seed=2)
    both = (every_score(each, training, networks, maps, known, validation) for each in (test, permuted))
    for one, other in zip(*both, strict=True):
        assert one[0] == other[0]
        assert one[1].slice.tobytes() == other[1].slice.tobytes()
        assert (one[1].pixel is None) or one[1].pixel.tobytes() == other[1].pixel.tobytes()


def network(seed=0, **more) -> AnomalyVae:
    torch.manual_seed(seed)
    config = AnomalyNetworkConfig(**{"channels": [8, 8], "heads": 2, "latents": 2, "atlas": False, **more})
    return AnomalyVae((1, 16, 16), config).eval()


def every_score(slices, training, networks, maps, known, validation):
    found = dict(model_scores(maps, slices, known, validation, CONFIG)[0])
    found |= simple_scores(slices, "flair", CONFIG, seed=0) | atlas_scores(slices, training, CONFIG)
    found |= {"pca": pca_score(slices, training, CONFIG, seed=0), **network_scores({"ae": networks[0]}, slices, CONFIG)}
    found["nearest_features"] = nearest_features_score(slices, training, networks, CONFIG, seed=0)
    return list(found.items())


def test_the_combination_without_labels_ignores_lesions_of_validation_patients_and_the_other_follows_them():
    test, validation = discs(3), discs(3, first=3, seed=1)
    maps, known = (model_maps(each.images, prediction_of(each)) for each in (test, validation))
    error, doubt = np.random.default_rng(0).standard_normal((2, *validation.lesion.shape))
    told = {"reconstruction": error, "uncertainty": doubt + 2 * validation.lesion}
    for given, best in ((told, 1.0), (dict(zip(told, reversed(told.values()), strict=True)), 0.0)):
        _, weights = model_scores(maps, test, given, validation, CONFIG)
        assert weights["combined"] == 0.5
        assert weights["combined_by_labels"] == pytest.approx(best, abs=0.11)
    normal = replace(validation, lesion=np.zeros_like(validation.lesion), kind=np.full(len(validation), ""))
    assert labelled_weight(known["reconstruction"], known["uncertainty"], normal, CONFIG) == 0.5


def test_combined_is_the_sum_of_both_in_units_of_their_healthy_deviation():
    test, validation = discs(2), discs(2, first=3, seed=1)
    maps, known = (model_maps(each.images, prediction_of(each)) for each in (test, validation))
    found = model_scores(maps, test, known, validation, CONFIG)[0]["combined"]
    parts = [scale(known[name], validation).of(maps[name]) for name in ("reconstruction", "uncertainty")]
    assert np.allclose(found.pixel, scored(np.mean(parts, axis=0), test.brain, CONFIG).pixel, atol=1e-5)


def separation(found, slices):
    """How far lesions lie above the rest of the brain, in standard deviations of the rest."""
    ill, well = found.pixel[slices.lesion], found.pixel[slices.brain & ~slices.lesion]
    return (ill.mean() - well.mean()) / well.std()


def test_competitors_see_bright_lesions_and_chance_does_not():
    test, training = discs(4), discs(8, first=4, seed=1)
    found = simple_scores(test, "flair", CONFIG, seed=0) | atlas_scores(test, training, CONFIG)
    found["pca"] = pca_score(test, training, CONFIG, seed=0)
    for name in ("threshold", "atlas", "atlas_bright", "pca"):
        assert separation(found[name], test) > 1.5, name
    assert abs(separation(found["random"], test)) < 0.2
    assert found["position"].pixel is None
    order = np.argsort(found["position"].slice)
    assert np.abs(test.position[order][:8] - 0.5).min() > np.abs(test.position[order][-8:] - 0.5).max()
    assert np.array_equal(found["brain_area"].slice, test.brain.mean((1, 2)))


def test_an_atlas_is_the_weighted_mean_and_variance_of_healthy_slices():
    normal = discs(5, ill=0.0)
    mean, variance = healthy_atlas(normal, np.array([0.4, np.nan]))
    y, x = 7, 8  # in every brain
    for row, weights in enumerate((np.exp(-0.5 * ((normal.position - 0.4) / atlas.NEAR) ** 2), np.ones(len(normal)))):
        own = normal.images[:, 0, y, x]
        centre = np.average(own, weights=weights)
        assert mean[row, 0, y, x] == pytest.approx(centre, rel=0.01)
        spread = np.average((own - centre) ** 2, weights=weights) + atlas.LEAST_DEVIATION**2
        assert variance[row, 0, y, x] == pytest.approx(spread, rel=0.02)
    whole = np.average(normal.images[:, 0][normal.brain])
    assert mean[0, 0, 0, 0] == pytest.approx(whole, rel=0.01)  # no brain has this pixel


def test_what_a_network_makes_of_slices_is_compared_with_them():
    slices, plain = discs(2), network(gaussian=False)
    with torch.no_grad():
        made = plain(torch.from_numpy(slices.images), torch.from_numpy(slices.position).float())[0].numpy()
    assert np.allclose(reconstruction_error(plain, slices), np.abs(slices.images - made)[:, 0], atol=1e-6)


def test_features_that_are_in_the_bank_are_at_no_distance_and_others_are(monkeypatch):
    monkeypatch.setattr(competitors, "BANK", 10**6)
    training, flat = discs(3, ill=0.0), ScoreConfig(smoothing=0)
    known = nearest_features_score(training, training, [network()], flat, seed=0)
    assert known.pixel.max() < 0.01
    ill = discs(3, first=3, seed=5)
    assert separation(nearest_features_score(ill, training, [network(), network(1)], flat, seed=0), ill) > 1


def test_a_threshold_of_a_modality_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="a threshold of t2 was asked for, but the slices hold flair"):
        simple_scores(discs(1), "t2", CONFIG, seed=0)
