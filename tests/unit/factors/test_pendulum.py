"""The scene with a known graph: its shadow has closed forms, and interventions cut exactly what they should."""

import math

import numpy as np
import pytest

from diffmech.data.factors.pendulum import ANGLES, LENGTHS, LIGHTS, POSITIONS, PendulumScene, shadow
from diffmech.errors import DataError
from diffmech.randomness import generator

SCENE = PendulumScene(44, channels=3)  # a pixel is half a unit
NAMES = [factor.name for factor in SCENE.factors]


def drawn(count=30, purpose="scene"):
    return SCENE.sample(count, generator(0, purpose))


def rows(low: float, high: float) -> slice:
    """Return the rows of pixels between two heights of the scene."""
    return slice(round((21 - high) * 2), round((21 - low) * 2))


LAMP, PENDULUM, BAND = rows(17, 21), rows(0.5, 12), rows(-1, 0)


def test_under_light_from_above_the_shadow_is_the_pendulum_seen_from_above() -> None:
    angle = np.linspace(*ANGLES, 9)
    position, length = shadow(angle, np.full(9, 10.0))
    np.testing.assert_allclose(position, 10 + 9.5 * np.sin(angle) / 2)
    np.testing.assert_allclose(length, np.maximum(3, 9.5 * np.abs(np.sin(angle))))


def test_the_shadow_of_a_pendulum_at_rest_is_a_similar_triangle() -> None:
    light = np.linspace(*LIGHTS, 9)
    slope = (light - 10) / 10
    position, length = shadow(np.zeros(9), light)
    np.testing.assert_allclose(length, np.maximum(3, 9.5 * np.abs(slope)))
    np.testing.assert_allclose(position, 10 - slope * (11 + 1.5) / 2)  # the pivot is 11, the end 1.5 above the ground


def test_the_shadow_is_where_rays_at_the_angle_of_the_lamp_meet_the_ground() -> None:
    """As it is told with angles of rays: the line through (x, y) at the angle phi meets a height h at one place."""

    def meets(x: float, y: float, phi: float, height: float) -> float:
        return (height - (y - x * math.tan(phi))) / math.tan(phi)

    for angle, phi in ((-0.5, 1.1), (0.3, 1.9), (0.6, 2.1), (0.1, 1.2)):
        light = meets(10, 10.5, phi, 20.5)
        ends = [
            meets(10, 10.5, phi, -0.5),
            meets(10 + 9.5 * math.sin(angle), 10.5 - 9.5 * math.cos(angle), phi, -0.5),
        ]
        position, length = shadow(np.array([angle]), np.array([light]))
        assert position[0] == pytest.approx(sum(ends) / 2)
        assert length[0] == pytest.approx(max(3, abs(ends[0] - ends[1])))


def test_no_rays_but_those_along_the_rod_leave_the_shortest_shadow() -> None:
    angle = 0.4
    position, length = shadow(np.array([angle]), np.array([10 - 10 * math.tan(angle)]))
    assert length[0] == 3
    assert position[0] == pytest.approx(10 + 11 * math.tan(angle))


def test_the_ranges_hold_what_the_mechanism_makes_and_keep_it_in_the_picture() -> None:
    angle, light = (axis.ravel() for axis in np.meshgrid(np.linspace(*ANGLES, 101), np.linspace(*LIGHTS, 101)))
    position, length = shadow(angle, light)
    assert POSITIONS[0] <= position.min() < POSITIONS[0] + 0.1
    assert POSITIONS[1] - 0.1 < position.max() <= POSITIONS[1]
    assert LENGTHS[0] == length.min()
    assert LENGTHS[1] - 0.1 < length.max() <= LENGTHS[1]
    assert (position - length / 2).min() > -1
    assert (position + length / 2).max() < 21


def test_draws_follow_the_mechanism() -> None:
    values, _ = SCENE.draw(500, generator(0, "law"))
    np.testing.assert_array_equal(values[:, 2:], np.stack(shadow(*values[:, :2].T), axis=1))
    assert np.abs(np.corrcoef(values[:, :2], rowvar=False)[0, 1]) < 5 / math.sqrt(500)


def test_the_graph_is_what_interventions_on_the_mechanism_show() -> None:
    """A factor causes another if and only if setting it moves the other: structural Hamming distance 0."""
    values, _ = SCENE.draw(200, generator(0, "graph"))
    found = np.zeros((4, 4), dtype=bool)
    for cause, factor in enumerate(SCENE.factors):
        third = (factor.high - factor.low) / 3
        low, high = (SCENE.do(values, {factor.name: factor.low + k * third}) for k in (1, 2))
        found[cause] = (low != high).any(axis=0) & (np.arange(4) != cause)
    np.testing.assert_array_equal(found, SCENE.graph)
    assert found.sum() == 4


def test_an_intervention_cuts_its_own_causes_alone() -> None:
    values = drawn().values
    cut = SCENE.do(values, {"shadow_position": 7.0})
    np.testing.assert_array_equal(np.delete(cut, 2, axis=1), np.delete(values, 2, axis=1))
    assert (cut[:, 2] == 7).all()
    # the other effect still follows the lamp, the cut one no longer does
    both = SCENE.do(values, {"light": 12.5, "shadow_position": 7.0})
    assert (both[:, [1, 2]] == [12.5, 7]).all()
    np.testing.assert_array_equal(both[:, 3], shadow(values[:, 0], np.full(30, 12.5))[1])
    np.testing.assert_array_equal(both[:, 0], values[:, 0])
    np.testing.assert_array_equal(SCENE.do(values, {}), values)
    one_each = SCENE.do(values, {"shadow_length": np.linspace(3, 11, 30)})
    np.testing.assert_array_equal(one_each[:, 3], np.linspace(3, 11, 30))


def test_a_fixed_effect_is_set_and_leaves_its_causes_as_drawn() -> None:
    free, _ = SCENE.draw(50, generator(0, "fixed"))
    fixed, _ = SCENE.draw_fixed(50, "shadow_length", generator(0, "fixed"), value=5.0)
    np.testing.assert_array_equal(fixed[:, :3], free[:, :3])
    assert (fixed[:, 3] == 5).all()


def test_pictures_change_where_they_should_and_nowhere_else() -> None:
    samples = drawn()

    def changed(images: np.ndarray) -> dict[str, bool]:
        difference = np.abs(images - samples.images).max(axis=(0, 1, 3))
        outside = np.delete(difference, np.r_[LAMP, PENDULUM, BAND])
        assert not outside.any()
        return {name: bool(difference[where].any()) for name, where in parts.items()}

    parts = {"lamp": LAMP, "pendulum": PENDULUM, "shadow": BAND}
    light, angle, length = (
        SCENE.intervene(samples, {name: value}).images
        for name, value in (("light", 8.0), ("angle", 0.1), ("shadow_length", 6.0))
    )
    assert changed(light) == {"lamp": True, "pendulum": False, "shadow": True}
    assert changed(angle) == {"lamp": False, "pendulum": True, "shadow": True}
    assert changed(length) == {"lamp": False, "pendulum": False, "shadow": True}
    # changed alone, outside the mechanism, a cause leaves the shadow where it was
    assert changed(SCENE.change(samples, "light", 8.0).images) == {"lamp": True, "pendulum": False, "shadow": False}
    assert changed(SCENE.images_of(samples.values)) == {"lamp": False, "pendulum": False, "shadow": False}


def test_what_is_drawn_has_the_size_and_place_that_the_factors_say() -> None:
    samples = drawn(10)
    axis = -1 + (np.arange(44) + 0.5) / 2
    dark = 1 - samples.images.mean(axis=1)
    shade = dark[:, BAND].sum(axis=1)
    np.testing.assert_allclose(shade.sum(axis=1) / 4, samples.values[:, 3], rtol=0.01)  # one unit high
    np.testing.assert_allclose(shade @ axis / shade.sum(axis=1), samples.values[:, 2], atol=0.03)
    lamp = dark[:, LAMP].sum(axis=1)
    np.testing.assert_allclose(lamp @ axis / lamp.sum(axis=1), samples.values[:, 1], atol=0.03)
    # the redness of the ball alone: its centre is 8 from the pivot, along the angle
    red = (samples.images[:, 0] - samples.images[:, 1])[:, PENDULUM]
    np.testing.assert_allclose(
        red.sum(axis=1) @ axis / red.sum(axis=(1, 2)), 10 + 8 * np.sin(samples.values[:, 0]), atol=0.05
    )


def test_what_the_mechanism_does_not_know_is_refused() -> None:
    values = drawn(2).values
    with pytest.raises(DataError, match=r"pendulum: has no factor 'lamp'; did you mean"):
        SCENE.do(values, {"lamp": 3})
    with pytest.raises(DataError, match=r"factor 'angle': 2 lies outside its range, -0.65 to 0.65"):
        SCENE.do(values, {"angle": 2.0})
    assert NAMES == ["angle", "light", "shadow_position", "shadow_length"]
