"""Probes and their nulls: closed forms, direct computation, and calibration where there is nothing to find."""

import numpy as np
import pytest
from planted_captures import statistics
from scipy import stats

from diffmech.mechanisms.captured import Site
from diffmech.mechanisms.probes import (
    Ratios,
    content_null,
    draw_nulls,
    map_ratios,
    null_p,
    place_ratios,
    ratios_on_other_samples,
    rolled_null,
    sign_null,
    uniform_masses,
)
from diffmech.mechanisms.reference_maps import GridMaps


def make_maps(values: np.ndarray, grid: tuple[int, int]) -> GridMaps:
    """Return maps (sample, probe, key) of mean 1."""
    values = values / values.mean(axis=-1, keepdims=True)
    uniform = 1 / values.max(axis=-1)
    names = tuple(f"map {index}" for index in range(values.shape[1]))
    return GridMaps(names, grid, values, uniform / (1 - uniform), np.ones(values.shape[:2], dtype=bool))


def shares(rng, n, heads, keys):
    received = rng.gamma(2.0, size=(n, heads, keys))
    return received / received.mean(axis=-1, keepdims=True)


@pytest.mark.parametrize("grid", [(8, 8), (4, 6), (1, 5)])
def test_uniform_attention_gives_every_place_a_ratio_of_one_and_no_excess(grid):
    height, width = grid
    keys = height * width
    y, x = np.divmod(np.arange(keys), width)
    near = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) <= 1
    square = ((y[:, None] - y) / height) ** 2 + ((x[:, None] - x) / width) ** 2
    quantities = {
        "neighbourhood_mass": np.full((4, 2), near.mean()),
        "mirror_mass": np.full((4, 2), 1 / keys),
        "distance": np.full((4, 2), np.sqrt(square.mean())),
    }
    ratios = place_ratios(Site("s", "self", ("a", "b"), keys, grid, ()), quantities, np.ones((4, 2, keys)))
    np.testing.assert_allclose(ratios.mean(), 1)
    np.testing.assert_allclose(ratios.excess(), 0, atol=1e-12)
    expected = square.mean() / (square.max(axis=1).mean() - square.mean())
    assert uniform_masses(grid)["distance"][1] == pytest.approx(expected)


def test_attention_wholly_on_its_target_has_an_excess_of_one():
    keys, side = 16, 4
    y, x = np.divmod(np.arange(keys), side)
    square = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    targets = {
        "neighbourhood": np.eye(keys),
        "mirror": np.eye(keys)[y * side + side - 1 - x],
        "distance": np.eye(keys)[square.argmax(axis=1)],
        "sink": np.eye(keys)[np.full(keys, 6)],
    }
    site = Site("s", "self", ("a",), keys, (side, side), ())
    for target, p in targets.items():
        found = {name: values for name, (_, values) in statistics(np.stack([p[None]] * 4), "self").items()}
        ratios = place_ratios(site, found, found["received"].astype(float))
        excess = dict(zip(ratios.names, ratios.excess()[0], strict=True))
        assert excess[target] == pytest.approx(1, abs=1e-6), target


def test_sink_is_not_found_in_attention_that_moves_with_the_image():
    rng = np.random.default_rng(0)
    received = np.zeros((200, 1, 16))
    received[np.arange(200), 0, rng.integers(0, 16, size=200)] = 16
    quantities = {name: np.full((200, 1), 0.1) for name in ("neighbourhood_mass", "mirror_mass", "distance")}
    ratios = place_ratios(Site("s", "self", ("a",), 16, (4, 4), ()), quantities, received)
    mean = dict(zip(ratios.names, ratios.mean()[0], strict=True))
    # the largest of 16 mean shares would exceed 1 by far; chance alone moves it by about sqrt(15 / 200)
    assert abs(mean["sink"] - 1) < 4 * np.sqrt(15 / 200)


def test_rolled_null_is_the_enrichment_on_rolled_maps():
    rng = np.random.default_rng(1)
    n, heads, grid = 5, 3, (4, 6)
    received, maps = shares(rng, n, heads, 24), make_maps(rng.random((n, 2, 24)), grid)
    draws = draw_nulls(0, "real", n, 7, (2, 3))
    null = rolled_null(received, maps, draws)
    for draw in range(7):
        by_hand = np.zeros((heads, 2))
        for sample in range(n):
            down, right = np.divmod(draws.rolls[draw, sample], 3)
            rolled = np.roll(maps.values[sample].reshape(2, *grid), (2 * down, 2 * right), axis=(1, 2)).reshape(2, 24)
            by_hand += received[sample] @ rolled.T / 24 / n
        np.testing.assert_allclose(null[draw], by_hand, rtol=1e-6)


def test_rolled_null_does_not_depend_on_how_many_samples_are_rolled_at_once(monkeypatch):
    rng = np.random.default_rng(2)
    received, maps = shares(rng, 9, 2, 16), make_maps(rng.random((9, 2, 16)), (4, 4))
    draws = draw_nulls(0, "real", 9, 20, (4, 4))
    whole = rolled_null(received, maps, draws)
    monkeypatch.setattr("diffmech.mechanisms.probes.ROLLED_AT_ONCE", 2 * 2 * 16 * 2)
    np.testing.assert_allclose(rolled_null(received, maps, draws), whole, rtol=1e-6)


def test_rolled_p_is_uniform_where_maps_and_attention_are_unrelated():
    rng = np.random.default_rng(3)
    p = []
    for study in range(60):
        # smooth maps and attention, as real ones are
        smooth = [np.exp(rng.normal(size=(12, k, 2, 2))).repeat(3, axis=2).repeat(3, axis=3) for k in (4, 2)]
        received, maps = (np.roll(s, study, axis=(2, 3)).reshape(12, -1, 36) for s in smooth)
        received, reference = received / received.mean(axis=-1, keepdims=True), make_maps(maps, (6, 6))
        for index in range(12):
            shift = tuple(rng.integers(0, 6, size=2))
            rolled = np.roll(reference.values[index].reshape(2, 6, 6), shift, axis=(1, 2))
            reference.values[index] = rolled.reshape(2, 36)
        draws = draw_nulls(study, "real", 12, 200, (6, 6))
        own = map_ratios(received, reference).mean()
        # one head and map per study: heads share the rolls
        p.append(float(null_p(own, rolled_null(received, reference, draws), two_sided=True)[0, 0]))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_p_beyond_all_draws_follows_the_tail_of_the_null_and_is_never_zero():
    null = np.random.default_rng(4).normal(size=(20000, 1))
    for z in (1.0, 3.0, 5.0):
        p = null_p(np.array([z]), null, two_sided=True)[0]
        assert p == pytest.approx(2 * stats.norm.sf(z), rel=0.35)
    assert 0 < null_p(np.array([1e6]), null, two_sided=True)[0] < 1e-30


def test_a_null_without_spread_is_no_evidence_unless_exceeded_and_nan_stays_nan():
    null = np.ones((99, 3))
    p = null_p(np.array([1.0, 1.0 + 1e-9, np.nan]), null, two_sided=True)
    np.testing.assert_array_equal(p, [1, 1, np.nan])


def test_sign_null_is_symmetric_about_one_with_the_spread_of_the_deviations():
    rng = np.random.default_rng(5)
    values = 1 + rng.normal(0.5, 1, size=(50, 1, 1))
    ones = np.ones((50, 1))
    null = sign_null(Ratios(("a",), values, ones, ones.astype(bool)), draw_nulls(0, "real", 50, 4000, (1, 1)))
    spread = np.sqrt(((values - 1) ** 2).sum()) / 50
    assert null.mean() == pytest.approx(1, abs=4 * spread / np.sqrt(4000))
    assert null.std() == pytest.approx(spread, rel=0.05)


def test_content_is_what_own_maps_add_over_the_maps_of_others():
    rng = np.random.default_rng(6)
    n = 40
    maps = make_maps(np.exp(rng.normal(size=(n, 1, 16))), (4, 4))
    follows = maps.values[:, 0] / maps.values[:, 0].mean(axis=-1, keepdims=True)
    place = np.broadcast_to(maps.values[:, 0].mean(axis=0), (n, 16))
    received = np.stack([follows, place], axis=1)
    own = map_ratios(received, maps)
    others = ratios_on_other_samples(received, maps, own)
    by_hand = received[3] @ np.delete(maps.values[:, 0], 3, axis=0).mean(axis=0) / 16
    np.testing.assert_allclose(others[3, :, 0], by_hand)
    p = null_p(own.minus(others), content_null(own, others, draw_nulls(0, "real", n, 500, (4, 4))), two_sided=False)
    assert p[0, 0] < 1e-4
    assert p[1, 0] > 0.01
