"""Planted mono- and polysemantic units are told apart, and an untrained VAE has none of one factor beyond chance."""

import numpy as np
import pytest
from scipy import stats

from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.sprites import DSpritesLike
from diffmech.vae.factor_study import factor_tree
from diffmech.vae.families import build_vae
from diffmech.vae.pairs import draw_pairs
from diffmech.vae.units import Activity, participation, permuted_participation, shares_of, units_of

FACTORS, PAIRS, TWINS, UNITS = 5, 128, 10, 40
SETTINGS = {"permutations": 200, "alpha": 0.05}


def changes(weights: np.ndarray, source: np.random.Generator, noise: float = 0.1) -> np.ndarray:
    """Return how much linear units of weights `(factor, unit)` change, `(factor, pair, unit)`, in their own spread."""
    step = source.uniform(-1.7, 1.7, (2, len(weights), PAIRS, 1))
    spread = np.sqrt(np.square(weights).sum(0) + noise**2)
    return (
        np.abs((step[1] - step[0]) * weights[:, None] + noise * source.normal(size=(PAIRS, weights.shape[1]))) / spread
    )


def mixing(source: np.random.Generator) -> np.ndarray:
    """Return weights `(factor, unit)` of units that respond to all factors, to some more than to others."""
    return source.choice([-1, 1], (FACTORS, UNITS)) * source.uniform(0.3, 1, (FACTORS, UNITS))


def layer(weights: np.ndarray, source: np.random.Generator) -> Activity:
    """Return a layer of such units, with twins that mix all factors."""
    own = changes(weights, source)
    twins = np.stack([changes(mixing(source), source) for _ in range(TWINS)])
    overall = np.sqrt(np.square(twins).mean(2))
    return Activity(own, np.sqrt(np.square(own).mean(1)), overall, np.ones(overall.shape))


def test_planted_units_of_one_factor_and_of_several_are_told_apart() -> None:
    found, true = [], []
    for seed in range(5):
        source = np.random.default_rng(seed)
        single = source.random(UNITS) < 0.5
        weights = mixing(source)
        kept = np.eye(FACTORS)[source.integers(FACTORS, size=UNITS)].T
        # of one factor, with a trace of all others
        weights = np.where(single & (kept == 0), 0.2 * weights, weights + single * np.sign(weights))
        (units,) = units_of([layer(weights, source)], seed=seed, **SETTINGS)
        found.append(units.kind == "monosemantic")
        true.append(single)
        assert (units.shares.argmax(0) == kept.argmax(0))[single].all()
    found, true = np.concatenate(found), np.concatenate(true)
    assert (found & true).sum() / found.sum() >= 0.95  # precision
    assert (found & true).sum() / true.sum() >= 0.95  # recall


def test_units_that_mix_factors_as_twins_do_are_not_called_monosemantic() -> None:
    found = []
    for seed in range(20):
        source = np.random.default_rng(seed)
        (units,) = units_of([layer(mixing(source), source)], seed=seed, **SETTINGS)
        found.append((units.kind == "monosemantic").any())
        assert (units.p_permuted <= 0.05).mean() > 0.9  # they respond to some more than to others: not enough
    assert np.mean(found) <= 0.1  # alpha, and its error over twenty seeds


@pytest.mark.parametrize(("kind", "seeds"), [("vae", 3), ("vq_vae", 1)])
def test_an_untrained_vae_has_no_units_of_one_factor_beyond_alpha(kind, seeds, settings) -> None:
    measures = VaeMeasures(pairs=64, twins=6, share=0.25)
    sprites = DSpritesLike(8)
    counts = []
    for seed in range(seeds):
        config = settings(kind)
        training = config.training.model_copy(update={"seed": seed})
        vae = build_vae((1, 8, 8), config.model_copy(update={"training": training})).eval().requires_grad_(False)
        deviation = None if kind == "vq_vae" else np.ones(3)
        trees = [
            factor_tree(vae, deviation, draw_pairs(sprites, factor, 64, seed=0), factor, measures)
            for factor in ("shape", "scale", "x")
        ]
        layers = [
            Activity(
                np.stack([tree[name]["activity"].values for tree in trees]),
                np.stack([tree[name]["compared"].values for tree in trees]),
                np.stack([tree[name]["twins"].values for tree in trees], axis=1),
                np.stack([tree[name]["twins_changing"].values for tree in trees], axis=1),
            )
            for name in trees[0].children
        ]
        found = np.concatenate([each.kind for each in units_of(layers, seed=0, **SETTINGS)])
        counts.append(((found == "monosemantic").sum(), (found != "silent").sum()))
    called, tested = np.sum(counts, axis=0)
    assert tested > 10 * seeds
    assert called <= 0.05 * tested


def test_a_participation_ratio_is_the_number_of_factors_that_count_alike() -> None:
    energy = np.array([[1.0, 1, 1, 3], [0, 1, 1, 1], [0, 0, 1, 0]])
    assert participation(shares_of(np.sqrt(energy))) == pytest.approx([1, 2, 3, 16 / 10])
    assert np.isnan(participation(shares_of(np.zeros((3, 1))))).all()


def test_the_shares_of_a_linear_unit_are_those_of_its_variance() -> None:
    """E (f(x) - f(x'))^2 / 2 var f with one factor drawn anew is what of the variance needs it: here w^2 / sum w^2."""
    weights = np.array([[3.0], [1.0], [0.5]])
    source = np.random.default_rng(0)
    step = np.diff(source.normal(size=(2, 3, 200_000)), axis=0)[0]
    energy = np.square(step * weights).mean(1, keepdims=True)
    assert shares_of(np.sqrt(energy))[:, 0] == pytest.approx(weights[:, 0] ** 2 / 10.25, abs=0.01)  # 4 standard errors


def test_permuted_factors_leave_a_unit_all_its_pairs() -> None:
    squares = np.random.default_rng(0).exponential(size=(2, 30, 3))
    null = permuted_participation(squares, permutations=500, seed=1)
    assert null.shape == (500, 3)
    assert ((null > 1) & (null <= 2 + 1e-6)).all()
    assert null.mean() == pytest.approx(2, abs=0.1)
    planted = squares * np.array([1.0, 0])[:, None, None]
    assert (
        participation(planted.mean(1) / planted.mean(1).sum(0))
        < permuted_participation(planted, permutations=500, seed=1)
    ).all()


def test_units_that_hardly_change_are_silent_and_do_not_stand_in_the_null() -> None:
    source = np.random.default_rng(0)
    quiet = layer(mixing(source), source)
    quiet.own[:, 12:, 0] = 0  # changes in 12 of 128 pairs
    quiet.own[:, :, 1] = 0
    (units,) = units_of([quiet], seed=0, **SETTINGS)
    assert (units.kind[:2] == "silent").all()
    assert np.isnan(units.participation[:2]).all()
    assert np.isnan(units.p_corrected[:2]).all()
    assert (units.kind[2:] != "silent").all()
    assert np.isfinite(units.p_corrected[2:]).all()
    unknown = Activity(quiet.own, quiet.compared, quiet.twins, np.zeros(quiet.twins.shape))
    (untested,) = units_of([unknown], seed=0, **SETTINGS)
    assert np.isnan(untested.p_untrained).all()
    assert "monosemantic" not in untested.kind


# Each part of what is called monosemantic, on a unit that has all the others.


def beside(own: np.ndarray, twins: np.ndarray) -> Activity:
    """Return a layer of these units, whose twins have units of these overall activities `(factor, unit)`."""
    return Activity(own, np.sqrt(np.square(own).mean(1)), twins[None], np.ones((1, *twins.shape)))


def test_a_unit_of_one_pair_is_of_one_factor_by_chance_whatever_twins_do() -> None:
    """It does the same whatever changes, but for one pair: wherever that pair were, the unit would be of one factor."""
    own = np.tile(np.random.default_rng(0).uniform(0.1, 1, PAIRS), (FACTORS, 1))[:, :, None]
    own[2, 7] = 100
    (units,) = units_of([beside(own, np.ones((FACTORS, 100)))], seed=0, **SETTINGS)
    assert units.participation[0] < 1.1
    assert units.p_untrained[0] == pytest.approx(1 / 101)
    assert units.p_permuted[0] > 0.3
    assert units.p_corrected[0] == units.p_permuted[0]
    assert units.kind[0] == "polysemantic"


def test_a_unit_of_three_factors_of_five_is_of_several_though_chance_gives_it_more() -> None:
    own = np.ones((FACTORS, PAIRS, 1)) * np.array([1.0, 1, 1, 0.01, 0.01])[:, None, None]
    (units,) = units_of([beside(own, np.ones((FACTORS, 100)))], seed=0, **SETTINGS)
    assert units.participation[0] == pytest.approx(3, abs=1e-3)
    assert units.p_corrected[0] <= 0.05
    assert units.kind[0] == "polysemantic"


def test_one_small_p_of_many_units_is_corrected_for_all_of_the_vae() -> None:
    """Three units of a hundred of the twins are of one factor alone, and so is one unit of twenty."""
    twins = np.ones((FACTORS, 100))
    twins[1:, :3] = 0
    other = np.ones((FACTORS, PAIRS, 19))
    one = (np.arange(FACTORS) == 2)[:, None, None] * np.ones((1, PAIRS, 1))
    (alone,) = units_of([beside(one, twins)], seed=0, **SETTINGS)
    assert alone.p_corrected[0] == alone.p_untrained[0] == pytest.approx(4 / 101)
    assert alone.kind[0] == "monosemantic"
    layers = units_of([beside(one, twins), beside(other, twins)], seed=0, **SETTINGS)
    larger = np.concatenate([np.maximum(layer.p_permuted, layer.p_untrained) for layer in layers])
    corrected = np.concatenate([layer.p_corrected for layer in layers])
    assert corrected == pytest.approx(stats.false_discovery_control(larger))
    assert larger[0] <= 0.05 < corrected[0]
    assert layers[0].kind[0] == "polysemantic"
