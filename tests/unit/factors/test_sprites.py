"""The drawn sprites obey the geometry of their factors, and are the published grid."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from diffmech.data.factors.sprites import AREA, HEART_AREA, HEART_CENTRE, SHAPES, DSpritesLike
from diffmech.randomness import generator

SPRITES = DSpritesLike(64)
SQUARE, ELLIPSE, HEART = range(3)


def sprite(shape, scale=1.0, turn=0.0, x=0.5, y=0.5, size=64) -> np.ndarray:
    return DSpritesLike(size).images_of(np.array([[shape, scale, turn, x, y]]))[0, 0]


def centre(image: np.ndarray) -> np.ndarray:
    """Return (x, y) of the centre of mass in pixels of 64."""
    axis = (np.arange(len(image)) + 0.5) * 64 / len(image)
    return np.array([image.sum(0) @ axis, image.sum(1) @ axis]) / image.sum()


def test_the_values_are_the_published_ones() -> None:
    scale, orientation, x = (np.array(factor.values) for factor in SPRITES.factors[1:4])
    np.testing.assert_allclose(scale, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    np.testing.assert_allclose(orientation, 2 * math.pi * np.arange(40) / 39)
    np.testing.assert_allclose(x, np.arange(32) / 31)
    assert SPRITES.factors[0].labels == SHAPES == ("square", "ellipse", "heart")


def test_pixels_are_black_or_white() -> None:
    assert set(np.unique(SPRITES.sample(50, generator(0, "binary")).images)) == {0.0, 1.0}


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_the_area_grows_with_the_square_of_the_scale_whatever_the_shape(shape) -> None:
    for scale in SPRITES.factors[1].values:
        area = sprite(shape, scale, turn=0.7, size=320).sum() / 25
        assert area == pytest.approx(AREA * scale**2, rel=0.01)  # pixels of 1/5: a fraction of the outline's 60 to 80


def test_the_mean_of_all_pixels_is_the_published_one() -> None:
    # all shapes and scales at every fifth orientation; where a sprite is does not change how many pixels it has
    shape, scale, turn = np.meshgrid(*(factor.values for factor in SPRITES.factors[:3]), indexing="ij")
    values = np.stack([part[:, :, ::5].ravel() for part in (shape, scale, turn)], axis=1)
    images = SPRITES.images_of(np.column_stack([values, np.full((len(values), 2), 0.5)]))
    assert images.mean() == pytest.approx(0.042494, rel=0.01)


def test_the_constants_of_the_heart_are_its_area_and_its_centre_of_mass() -> None:
    def radius(angle: float) -> float:
        along = math.cos(angle) ** 2 * math.sin(angle) ** 3
        return brentq(lambda r: (r * r - 1) ** 3 - r**5 * along, 0.3, 1.9, xtol=1e-13)

    kinks = [math.pi / 2, math.pi, 3 * math.pi / 2]
    area = quad(lambda t: radius(t) ** 2 / 2, 0, 2 * math.pi, points=kinks, limit=500)[0]
    moment = quad(lambda t: radius(t) ** 3 / 3 * math.sin(t), 0, 2 * math.pi, points=kinks, limit=500)[0]
    assert pytest.approx(area, abs=1e-6) == HEART_AREA
    assert pytest.approx(moment / area, abs=1e-6) == HEART_CENTRE


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_a_step_along_an_axis_moves_the_sprite_by_one_pixel_and_changes_nothing_else(shape) -> None:
    steps = np.array(SPRITES.factors[3].values)
    values = np.array([[shape, 0.8, SPRITES.factors[2].values[7], 0.5, 0.5]]).repeat(32, axis=0)
    for column, axis in ((3, 1), (4, 0)):
        moved = values.copy()
        moved[:, column] = steps
        images = SPRITES.images_of(moved)[:, 0]
        for before, after in itertools.pairwise(images):
            np.testing.assert_array_equal(after, np.roll(before, 1, axis=axis))


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_the_centre_of_mass_is_linear_in_x_and_y(shape) -> None:
    for x, y in ((0.0, 1.0), (0.25, 0.6), (1.0, 0.0)):
        expected = 32 + 31 * (np.array([x, y]) - 0.5)
        np.testing.assert_allclose(centre(sprite(shape, 1.0, 2.1, x, y, size=256)), expected, atol=0.05)


@pytest.mark.parametrize("shape", range(3), ids=SHAPES)
def test_no_sprite_touches_the_border(shape) -> None:
    turns = np.repeat(SPRITES.factors[2].values, 4)
    corners = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (40, 1))
    values = np.column_stack([np.full(160, shape), np.ones(160), turns, corners])
    images = SPRITES.images_of(values)[:, 0]
    assert not images[:, [0, -1]].any()
    assert not images[:, :, [0, -1]].any()


def test_each_shape_has_its_symmetry_and_no_other() -> None:
    for turn in (0.0, 0.4, 1.3):
        for shape, period in ((SQUARE, math.pi / 2), (ELLIPSE, math.pi), (HEART, 2 * math.pi)):
            image = sprite(shape, 0.9, turn)
            np.testing.assert_array_equal(sprite(shape, 0.9, turn + period), image)
            assert (sprite(shape, 0.9, turn + period / 2) != image).mean() > 0.005
    heart = sprite(HEART)
    np.testing.assert_array_equal(heart, heart[:, ::-1])
    rows = np.flatnonzero(heart.any(axis=1))
    assert heart[rows[3]].sum() > 1.5 * heart[rows[-4]].sum()  # lobes on top, the tip below


def test_the_long_axis_of_the_ellipse_points_along_its_orientation() -> None:
    axis = np.arange(256) + 0.5
    for turn in (0.3, 1.0, 2.2, 3.0):
        image = sprite(ELLIPSE, 1.0, turn, size=256).astype(float)
        x, y = axis[None, :] - 128, axis[:, None] - 128
        xx, yy, xy = (float((image * part).sum()) for part in (x * x, y * y, x * y))
        found = 0.5 * math.atan2(2 * xy, xx - yy)  # of the second moments
        assert math.remainder(found - turn, math.pi) == pytest.approx(0, abs=0.01)
        assert math.hypot(2 * xy, xx - yy) / (xx + yy) == pytest.approx(3 / 5, abs=0.01)  # axes are 2 to 1


def test_a_coarser_image_is_the_same_scene_seen_with_fewer_pixels() -> None:
    values, _ = SPRITES.draw(40, generator(0, "coarse"))
    fine = DSpritesLike(96).images_of(values)[:, 0]
    coarse = DSpritesLike(32).images_of(values)[:, 0]
    np.testing.assert_array_equal(coarse, fine[:, 1::3, 1::3])  # the middle of each 3 x 3 is the coarse pixel's centre
