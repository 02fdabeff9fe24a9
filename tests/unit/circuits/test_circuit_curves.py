"""Curves of faithfulness over size and their areas: closed forms, and the same sizes and images for every ranking."""

import numpy as np
import pytest

from diffmech.attention.sites import HeadId
from diffmech.circuits.curves import areas, chance_orders, curve_sizes, curve_tables, prefixes, trapezoids

HEADS = [HeadId("down1.0.self", head) for head in range(12)]
SIZES = [0, 1, 2, 4, 8, 12]
IMAGES = np.linspace(0.5, 2, 7)


def losses(share: np.ndarray) -> np.ndarray:
    """Return losses (size, sample) of a curve; heads contribute IMAGES to the images, and everything leaves 1."""
    return 1 + (1 - share)[:, None] * IMAGES


def test_sizes_double_and_end_with_all() -> None:
    assert curve_sizes(12) == SIZES
    assert curve_sizes(1) == [0, 1]
    assert [len(kept) for kept in prefixes(HEADS)] == SIZES


def test_a_straight_line_has_half_of_the_area_on_either_side() -> None:
    line = np.array(SIZES) / 12
    assert trapezoids(SIZES).sum() == pytest.approx(1)
    found = areas(losses(line)[None], 1 + IMAGES, np.ones(7), SIZES, confidence=0.95)
    assert found["cpr"].estimate == pytest.approx(0.5)
    assert found["cmd"].estimate == pytest.approx(0.5)
    # every image has the same share, so that nothing is uncertain
    assert found["cpr"].low == pytest.approx(0.5)


def test_a_curve_beyond_1_is_as_far_from_the_model_as_one_below_it() -> None:
    beyond = np.array([0, 1.5, 1.5, 1.5, 1.5, 1])
    below = np.array([0, 0.5, 0.5, 0.5, 0.5, 1])
    first, second = (
        areas(losses(each)[None], 1 + IMAGES, np.ones(7), SIZES, confidence=0.95) for each in (beyond, below)
    )
    assert first["cmd"].estimate == pytest.approx(second["cmd"].estimate)
    assert first["cpr"].estimate > 1 > second["cpr"].estimate


def test_chance_is_the_mean_of_its_orders_with_their_range() -> None:
    line = np.array(SIZES) / 12
    chance = np.stack([losses(line**power) for power in (0.8, 1.25)])
    table, found = curve_tables({"exact": losses(line**0.5)}, chance, 1 + IMAGES, np.ones(7), SIZES, confidence=0.95)
    drawn = table[table["ranking"] == "chance"].set_index("size")
    assert drawn.loc[4, "low"] == pytest.approx((4 / 12) ** 1.25)
    assert drawn.loc[4, "high"] == pytest.approx((4 / 12) ** 0.8)
    assert set(drawn["sets"]) == {2}
    exact, own = found["exact"]["cpr"]["estimate"], found["chance"]["cpr"]["estimate"]
    assert found["exact"]["beyond_chance"]["estimate"] == pytest.approx(exact - own)
    assert table.loc[table["ranking"] == "exact", "size"].tolist() == SIZES
    table, found = curve_tables({"exact": losses(line)}, chance[:0], 1 + IMAGES, np.ones(7), SIZES, confidence=0.95)
    assert found.keys() == {"exact"}
    assert "beyond_chance" not in found["exact"]


def test_random_orders_hold_every_head_once_and_differ() -> None:
    first, second = chance_orders(HEADS, 2, seed=0)
    assert set(first) == set(second) == set(HEADS)
    assert first != second
