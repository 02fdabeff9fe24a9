"""Probes and their nulls: closed forms, direct computation, and calibration where there is nothing to find."""

import numpy as np
import pytest
from planted_captures import statistics
from scipy import stats

from diffmech.mechanisms.captured import Site
from diffmech.mechanisms.probes import (
    chance_of_relations,
    content,
    draw_nulls,
    map_ratios,
    null_p,
    place_ratios,
    rolled_null,
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
    np.testing.assert_allclose(chance_of_relations(grid, np.ones((4, 2, keys)))["distance"][1], expected)


@pytest.mark.parametrize("grid", [(8, 8), (4, 6)])
def test_attention_that_ignores_where_the_query_is_has_no_relation_to_it_whatever_the_keys_receive(grid):
    """A head that looks at the middle is not local, one that looks at a corner not global."""
    height, width = grid
    keys = height * width
    y, x = np.divmod(np.arange(keys), width)
    near = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) <= 1
    square = ((y[:, None] - y) / height) ** 2 + ((x[:, None] - x) / width) ** 2
    mirror = (y[:, None] == y) & (x[:, None] == width - 1 - x)
    corner, middle = (x == 0) & (y == 0), (x == width // 2) & (y == height // 2)
    looks = np.stack([50.0 * corner + 1, 50.0 * middle + 1, np.random.default_rng(0).gamma(1.0, size=keys)])
    received = np.broadcast_to(looks / looks.mean(axis=-1, keepdims=True), (4, 3, keys))
    p = received[:, :, None] / keys  # (sample, head, query, key)
    quantities = {
        "neighbourhood_mass": (p * near).sum(axis=-1).mean(axis=-1),
        "mirror_mass": (p * mirror).sum(axis=-1).mean(axis=-1),
        "distance": np.sqrt((p * square).sum(axis=-1).mean(axis=-1)),
    }
    ratios = place_ratios(Site("s", "self", ("a", "b", "c"), keys, grid, ()), quantities, received)
    assert ratios.names[:3] == ("neighbourhood", "mirror", "distance")
    np.testing.assert_allclose(ratios.values[..., :3], 1)
    # against uniform attention both would have been preferences
    assert quantities["distance"][0, 0] ** 2 > 1.2 * square.mean()
    assert quantities["neighbourhood_mass"][0, 1] > 1.05 * near.mean()


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


def heads_of_places(rng, studies, n, keys, *, place, content, shared):
    """Return studies of one head (study, sample, key) and one map: attention to places and to the map, maps in common.

    `place` is the strength of a head's preference for keys, `shared` that of the maps' for keys, in standard deviations
    of the logarithm; `content` is how much of the map's own part the attention follows.
    """
    own = rng.normal(size=(studies, n, keys))
    preferred = rng.normal(size=(studies, 1, keys))
    maps = np.exp(own + shared * preferred)
    received = np.exp(place * preferred + content * own + 0.1 * rng.normal(size=own.shape))
    return received / received.mean(axis=-1, keepdims=True), maps


def share_found(rng, studies, **kind):
    n, keys, found = 16, 36, 0
    received, maps = heads_of_places(rng, studies, n, keys, **kind)
    for study in range(studies):
        reference = make_maps(maps[study][:, None], (6, 6))
        observed, null = content(received[study][:, None], reference, draw_nulls(study, "real", n, 199, (6, 6)))
        found += null_p(observed, null, two_sided=False)[0, 0] < 0.05
    return found / studies


def test_content_is_what_own_maps_add_over_the_maps_of_others():
    rng = np.random.default_rng(6)
    received, maps = shares(rng, 7, 3, 12), make_maps(rng.random((7, 4, 12)), (3, 4))
    maps.valid[2, 1] = maps.valid[5, 1] = maps.valid[:, 2] = False
    maps.valid[1:, 3] = False
    draws = draw_nulls(0, "real", 7, 30, (3, 4))
    observed, null = content(received, maps, draws)

    def by_hand(head, probe, rows, partners):
        total = 0.0
        for sample, partner in zip(rows, partners, strict=True):
            on = {other: received[sample, head] @ maps.values[other, probe] / 12 for other in rows}
            total += on.pop(partner) - np.mean(list(on.values()))
        return total / len(rows)

    for probe, rows in ((0, np.arange(7)), (1, np.array([0, 1, 3, 4, 6]))):
        for head in range(3):
            assert observed[head, probe] == pytest.approx(by_hand(head, probe, rows, rows), abs=1e-9)
            for draw in (0, 29):
                partners = rows[draws.orders[draw, rows].argsort()]
                assert null[draw, head, probe] == pytest.approx(by_hand(head, probe, rows, partners), abs=1e-9)
    assert np.isnan(observed[:, 2]).all()
    assert np.isnan(null[:, :, 2]).all()
    # a single map has no other to be compared with
    assert (observed[:, 3] == 0).all()
    assert (null[:, :, 3] == 0).all()


def test_content_does_not_depend_on_how_many_pairs_are_held_at_once(monkeypatch):
    rng = np.random.default_rng(2)
    received, maps = shares(rng, 9, 2, 16), make_maps(rng.random((9, 2, 16)), (4, 4))
    draws = draw_nulls(0, "real", 9, 20, (4, 4))
    whole = content(received, maps, draws)
    monkeypatch.setattr("diffmech.mechanisms.probes.PAIRED_AT_ONCE", 2 * 2 * 9 * 2)
    for some, every in zip(content(received, maps, draws), whole, strict=True):
        np.testing.assert_allclose(some, every, rtol=1e-9, atol=1e-12)


def test_content_is_found_beside_a_strong_preference_for_places_that_all_maps_share():
    """Power 1; random signs of each sample's difference find it in none of these studies."""
    found = share_found(np.random.default_rng(6), 60, place=2.0, content=0.1, shared=1.0)
    assert found > 0.95


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_a_preference_for_places_alone_is_called_content_as_often_as_chance_allows(shared):
    """Level 0.05; were it 0.10, 500 studies would tell with 95 % power."""
    studies = 500
    found = share_found(np.random.default_rng(7), studies, place=2.0, content=0.0, shared=shared)
    error = np.sqrt(0.05 * 0.95 / studies)
    assert found < 0.05 + 2.6 * error
    # not by a null that is too wide either: that finds nothing
    assert found > 0.05 - 2.6 * error
    assert stats.binom.cdf(studies * (0.05 + 2.6 * error), studies, 0.10) < 0.05


def test_no_p_value_of_content_is_below_what_the_orders_of_few_images_allow():
    null = np.random.default_rng(4).normal(size=(200, 1))
    assert null_p(np.array([50.0]), null, two_sided=False, smallest=1 / 24)[0] == pytest.approx(1 / 24)
