"""Which half an image belongs to: exact, whatever else is there."""

import numpy as np
import pytest

from diffmech.statistics.halves import finding


@pytest.mark.parametrize("tested", [0, 1, 6, 34, 272])
def test_the_first_images_test_and_the_halves_are_equal_where_there_are_enough(tested):
    for count in {2 * tested, 2 * tested + 1, 5 * tested + 40, 2000}:
        half = finding(range(count), tested)
        assert not any(half[:tested])
        assert abs(sum(half) - count / 2) <= 1
    # fewer find where there are not
    assert finding(range(tested + 3), tested + 1) == [False] * (tested + 1) + [True] * 2


def test_an_image_keeps_its_half_when_the_study_grows_and_whatever_the_order():
    whole = finding(range(500), 34)
    for count in (35, 60, 100, 101, 499):
        assert finding(range(count), 34) == whole[:count]
    some = np.random.default_rng(0).permutation(500)[:200].tolist()
    assert finding(some, 34) == [whole[sample] for sample in some]
    # one more image that is tested moves few
    assert sum(a != b for a, b in zip(whole, finding(range(500), 35), strict=True)) <= 3


def test_images_that_take_turns_lie_in_both_halves_alike():
    """Of 5 or 8 prompts, say, that follow each other again and again."""
    half = np.array(finding(range(2000), 34))
    for period in range(2, 11):
        shares = [half[68:][turn::period].mean() for turn in range(period)]
        # multiples of three are the worst; were every other image to find, all of some turns would, of others none
        assert min(shares) > 0.25
        assert max(shares) < 0.75


def test_a_group_is_never_divided_and_keeps_its_half_when_more_follow():
    rng = np.random.default_rng(1)
    groups = [f"person {number}" for number in rng.integers(0, 60, size=400)]
    half = finding(range(400), 34, groups)
    of_group = {}
    for group, belongs in zip(groups, half, strict=True):
        assert of_group.setdefault(group, belongs) == belongs
    assert not any(of_group[group] for group in groups[:34])
    assert 0 < sum(of_group.values()) < len(of_group)
    assert finding(range(300), 34, groups[:300]) == half[:300]
    # in any order of the images, by any names
    order = rng.permutation(400)
    named = [hash(groups[index]) for index in order]
    assert finding(order.tolist(), 34, named) == [half[index] for index in order]
    # groups of one image are images
    assert finding(range(100), 34, list(range(100))) == finding(range(100), 34)
