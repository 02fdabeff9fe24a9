"""Whether scores predict: exactly where sets of weights do not touch each other, and r with an interval."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from test_scores import linear_points

from diffmech.concepts.fidelity import fidelity, pearson
from diffmech.concepts.groups import weights
from diffmech.errors import ConfigError

SETTINGS = {"seed": 0, "batch_size": 1}


def test_single_weights_of_a_linear_denoiser_are_predicted_exactly_by_second_order(linear):
    found = fidelity(linear, linear_points(linear), weights(linear), masks=20, count=1, **SETTINGS)
    np.testing.assert_allclose(found.predicted["second"], found.actual, rtol=1e-3, atol=1e-6)
    r = {order: pearsonr(found.predicted[order], found.actual)[0] for order in ("first", "second")}
    assert r["first"] < r["second"]
    assert r["second"] == pytest.approx(1, abs=1e-4)


def test_the_correlation_is_that_of_scipy_within_its_interval():
    draw = np.random.default_rng(0)
    x = draw.standard_normal(300)
    y = 0.5 * x + draw.standard_normal(300)
    found = pearson(x, y, draws=500, confidence=0.95, seed=0)
    assert found.estimate == pytest.approx(pearsonr(x, y)[0])
    expected = pearsonr(x, y).confidence_interval(0.95)  # Fisher's, of normal values
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_more_weights_than_there_are_are_refused(linear):
    with pytest.raises(ConfigError, match=r"concepts\.fidelity\.weights: 21 are more than the 20 weights"):
        fidelity(linear, linear_points(linear), weights(linear), masks=3, count=21, **SETTINGS)
