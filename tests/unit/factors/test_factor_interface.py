"""Every data set of factors is asked in one way: draws are uniform and keyed, and one factor is changed alone."""

import math

import numpy as np
import pytest

from diffmech.data.factors.faces import Faces
from diffmech.data.factors.factor import Factor, spaced
from diffmech.data.factors.pendulum import PendulumScene
from diffmech.data.factors.sprites import DSpritesLike
from diffmech.errors import ConfigError, DataError
from diffmech.randomness import generator

DRAWN = [DSpritesLike(8), PendulumScene(8), PendulumScene(8, channels=3), Faces(16)]
SPRITES = DRAWN[0]


@pytest.mark.parametrize("data", DRAWN, ids=lambda data: f"{data.name}{data.image_shape[0]}")
def test_a_draw_has_images_in_0_to_1_and_is_the_same_from_the_same_key(data) -> None:
    once, again = (data.sample(5, generator(3, "batch", 0)) for _ in range(2))
    assert once.images.shape == (5, *data.image_shape)
    assert once.images.dtype == np.float32
    assert 0 <= once.images.min() < once.images.max() <= 1
    assert once.values.shape == (5, len(data.factors))
    np.testing.assert_array_equal(once.images, again.images)
    np.testing.assert_array_equal(once.images, data.images_of(once.values, once.identity))
    assert (data.sample(5, generator(3, "batch", 1)).values != once.values).any(axis=0).all()


@pytest.mark.parametrize("data", DRAWN[:2] + DRAWN[3:], ids=lambda data: data.name)
def test_one_factor_is_fixed_or_changed_and_the_others_are_not(data) -> None:
    for column, factor in enumerate(data.factors):
        values, _ = data.draw_fixed(40, factor.name, generator(0, factor.name))
        assert [len(np.unique(each)) == 1 for each in values.T] == [k == column for k in range(len(data.factors))]
        assert factor.low <= values[0, column] <= factor.high
    samples = data.sample(4, generator(1, "change"))
    changed = data.change(samples, data.factors[1].name, data.factors[1].high)
    np.testing.assert_array_equal(np.delete(changed.values, 1, axis=1), np.delete(samples.values, 1, axis=1))
    assert (changed.values[:, 1] == data.factors[1].high).all()
    assert (changed.identity == samples.identity).all()


def test_draws_of_a_grid_are_uniform_and_independent() -> None:
    values, identity = SPRITES.draw(20_000, generator(0, "uniform"))
    for factor, column in zip(SPRITES.factors, SPRITES.classes_of(values).T, strict=True):
        counts = np.bincount(column, minlength=factor.size)
        chi = np.sum((counts - counts.mean()) ** 2) / counts.mean()
        # five standard deviations of chi-square with size - 1 degrees of freedom
        assert chi < factor.size - 1 + 5 * math.sqrt(2 * (factor.size - 1))
    correlation = np.corrcoef(values, rowvar=False) - np.eye(5)
    assert np.abs(correlation).max() < 5 / math.sqrt(20_000)
    assert not identity.any()


def test_a_continuous_factor_is_uniform_on_its_intervals_and_leaves_the_gap_out() -> None:
    factor = Factor("smile", "continuous", "", intervals=((0, 1), (2, 5)))
    values = factor.draw(20_000, generator(0, "gap"))
    assert not ((values > 1) & (values < 2)).any()
    assert np.mean(values < 1) == pytest.approx(1 / 4, abs=0.02)  # six standard errors
    assert np.mean(values > 3.5) == pytest.approx(1.5 / 4, abs=0.02)
    assert (factor.size, factor.low, factor.high) == (None, 0, 5)


def test_the_grid_counts_all_combinations_with_the_last_factor_fastest() -> None:
    assert len(SPRITES) == 737_280 == 3 * 6 * 40 * 32 * 32
    numbers = np.array([0, 1, 32, 1024, 40 * 1024, 737_279])
    classes = SPRITES.classes_of(SPRITES.values_at(numbers))
    assert classes.tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [2, 5, 39, 31, 31],
    ]
    drawn = generator(0, "numbers").integers(len(SPRITES), size=300)
    np.testing.assert_array_equal(SPRITES.numbers_of(SPRITES.values_at(drawn)), drawn)
    np.testing.assert_array_equal(SPRITES.images_at([7]), SPRITES.images_of(SPRITES.values_at([7])))


def test_classes_do_not_depend_on_the_order_of_values_nor_on_the_rounding_of_a_text() -> None:
    factor = Factor("code", "discrete", "", values=(5.0, -1.0, 2.0))
    assert factor.classes_of(np.array([2.0, 5.0, -1.0, 5.0])).tolist() == [2, 0, 1, 0]
    turns = spaced(0, 2 * math.pi, 40)
    written = np.array([float(f"{value:.7g}") for value in turns])
    assert Factor("turn", "circular", "", turns).classes_of(written).tolist() == list(range(40))
    assert Factor("only", "discrete", "", values=(3.0,)).classes_of(np.array([3.0])).tolist() == [0]


def test_a_circular_factor_goes_on_beyond_its_last_value() -> None:
    azimuth = Factor("azimuth", "circular", "", tuple(np.arange(18) * 20.0), period=360.0)
    assert azimuth.classes_of(np.array([340.0, 360.0, 380.0, -20.0])).tolist() == [17, 0, 1, 17]
    with pytest.raises(DataError, match=r"'azimuth': 350 is none of its 18 values"):
        azimuth.classes_of(np.array([710.0]))
    values, _ = SPRITES.draw(3, generator(0, "turn"))
    further = values + np.array([0, 0, 4 * np.pi, 0, 0])
    np.testing.assert_array_equal(SPRITES.images_of(further), SPRITES.images_of(values))


def test_factors_say_their_kind_and_independent_ones_have_no_graph() -> None:
    kinds = {factor.name: factor.kind for factor in SPRITES.factors}
    assert kinds == {"shape": "discrete", "scale": "ordinal", "orientation": "circular", "x": "ordinal", "y": "ordinal"}
    assert not SPRITES.graph.any()


def test_what_cannot_be_shown_is_said() -> None:
    values, _ = SPRITES.draw(2, generator(0, "bad"))
    with pytest.raises(DataError, match=r"dsprites_like: has no factor 'scal'; did you mean 'scale'"):
        SPRITES.place("scal")
    with pytest.raises(DataError, match=r"values have shape \(2, 4\); give one row per image with shape, scale"):
        SPRITES.images_of(values[:, :4])
    with pytest.raises(DataError, match=r"factor 'scale': 1.5 lies outside its range, 0.5 to 1"):
        SPRITES.change(SPRITES.sample(2, generator(0, "bad")), "scale", 1.5)
    with pytest.raises(DataError, match=r"factor 'scale': nan lies outside its range"):
        SPRITES.change(SPRITES.sample(2, generator(0, "bad")), "scale", np.nan)
    with pytest.raises(DataError, match=r"factor 'shape': 0.5 is none of its 3 values \(0 to 2\)"):
        SPRITES.change(SPRITES.sample(2, generator(0, "bad")), "shape", 0.5)
    with pytest.raises(DataError, match=r"identity must be 2 whole numbers below 1, found shape \(2,\)"):
        SPRITES.images_of(values, np.array([0, 1]))
    with pytest.raises(DataError, match=r"has images 0 to 737279, no number 737280"):
        SPRITES.images_at([737_280])
    with pytest.raises(DataError, match=r"'angle' is continuous and has no classes; cut it into bins"):
        PendulumScene(8).factors[0].classes_of(np.zeros(1))
    with pytest.raises(ConfigError, match=r"images of 4 pixels are not made; give 8 to 1024"):
        DSpritesLike(4)
    with pytest.raises(ConfigError, match=r"images with 2 channels are not made"):
        PendulumScene(16, channels=2)
