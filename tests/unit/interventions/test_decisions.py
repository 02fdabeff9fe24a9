"""The whole decision about mechanisms holds its level where there is nothing, and finds what is planted.

Studies are simulated without a model, 1,000 for a rate: twice the nominal 0.05 lies seven standard errors above it, so
that a bound three of them above 0.05 would be missed by a test that errs twice as often.
"""

from collections.abc import Callable

import numpy as np
import pytest

from diffmech.interventions.choices import CHOICES, Choices
from diffmech.interventions.decisions import CAUSAL, HELPS, NOT_BEYOND, NOTHING, UNFAIR, UNTOLD, decide
from diffmech.interventions.relabelling import distinct, own_heads, relabellings, sums_over_sets
from diffmech.statistics.controls import joint_rank_p, rank_p, smallest_beyond
from diffmech.statistics.permutation import joint_sign_flip_p, max_statistic_p
from diffmech.statistics.reach import draws_needed

STUDIES, FEW, ALPHA = 1000, 200, 0.05
BOUND = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / STUDIES)
ROUNDING = 1e-9


def test_the_bound_of_these_tests_would_see_twice_the_rate() -> None:
    assert 2 * ALPHA - 3 * np.sqrt(2 * ALPHA * (1 - 2 * ALPHA) / STUDIES) > BOUND


def studies(
    rng: np.random.Generator, *, numbers: list[int], domains: int = 2, shared: float = 0.0, planted: float = 0.0
):
    """Yield values (target, domain) and their controls (draw, domain): alike in both domains, of unequal scales.

    `shared` is the part of the variance that all targets have in common, as targets with the same heads would;
    `planted` the effect of the first target in standard deviations of its controls.
    """
    scales = rng.lognormal(0, 1, len(numbers))
    for _ in range(STUDIES):
        common, values, controls = rng.standard_normal(domains), [], []
        for number, scale in zip(numbers, scales, strict=True):
            pool = np.sqrt(0.5) * (rng.standard_normal((1 + number, 1)) + rng.standard_normal((1 + number, domains)))
            pool[0] = np.sqrt(shared) * common + np.sqrt(1 - shared) * pool[0]
            pool[0] += planted * (not values)
            values.append(scale * pool[0])
            controls.append(scale * pool[1:])
        yield np.array(values), controls


@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize("numbers", [[20] * 8, [19, 20, 25, 30, 40, 60]])
def test_joint_ranks_keep_the_family_wise_error_over_targets_and_domains(numbers: list[int], shared: float) -> None:
    rng = np.random.default_rng(len(numbers))
    found = [(joint_rank_p(*study) <= ALPHA + ROUNDING).any() for study in studies(rng, numbers=numbers, shared=shared)]
    assert np.mean(found) <= BOUND


def test_corrected_per_domain_there_would_be_more_false_claims_than_alpha() -> None:
    """The reason for one family."""
    found = []
    for values, controls in studies(np.random.default_rng(0), numbers=[20] * 8):
        p = [joint_rank_p(values[:, [d]], [each[:, [d]] for each in controls]) for d in range(2)]
        found.append((np.array(p) <= ALPHA + ROUNDING).any())
    assert np.mean(found) > BOUND


def max_of_aligned_draws(values: np.ndarray, controls: list[np.ndarray]) -> np.ndarray:
    """Return single-step max-T p-values over draws of equal number, the usual way."""
    pools = np.stack(
        [np.concatenate([value[None], draws]) for value, draws in zip(values, controls, strict=True)], axis=1
    )
    scaled = (pools - pools.mean(axis=0)) / pools.std(axis=0)
    own = [rank_p(value, draws) for value, draws in zip(values, controls, strict=True)]
    return np.maximum(np.asarray(max_statistic_p(scaled[0], scaled[1:])), own)


@pytest.mark.parametrize("effect", [3, 4, 5])
def test_joint_ranks_find_what_aligned_draws_find(effect: int) -> None:
    rng = np.random.default_rng(effect)
    found = np.array(
        [
            [(test(*study)[0] <= ALPHA + ROUNDING).any() for test in (joint_rank_p, max_of_aligned_draws)]
            for study in studies(rng, numbers=[20] * 8, planted=effect, domains=1)
        ]
    ).mean(axis=0)
    assert found[0] >= found[1] - 3 * np.sqrt(0.25 / STUDIES)


def test_joint_ranks_need_no_more_controls_than_one_rank_does() -> None:
    rng = np.random.default_rng(0)
    controls = [rng.standard_normal((19, 2)) for _ in range(12)]
    values = np.array([[9.0, -9.0]] + [[0.0, 0.0]] * 11)
    p = joint_rank_p(values, controls)
    assert p[0, 0] == pytest.approx(1 / 20)
    assert (np.delete(p.ravel(), 0) > 0.05).all()


def test_what_is_found_leaves_the_family_of_the_rest() -> None:
    rng = np.random.default_rng(1)
    controls = [rng.standard_normal((60, 1)) for _ in range(6)]
    p = joint_rank_p(np.array([[9.0], [8.0], [7.0], [0.0], [0.0], [0.0]]), controls)
    assert p[:3, 0] == pytest.approx(1 / 61)


def test_targets_without_controls_have_no_rank_and_leave_the_family() -> None:
    rng = np.random.default_rng(2)
    controls = [rng.standard_normal((20, 2)), np.empty((0, 2)), rng.standard_normal((20, 2))]
    values = rng.standard_normal((3, 2))
    p = joint_rank_p(values, controls)
    assert np.isnan(p[1]).all()
    np.testing.assert_array_equal(p[[0, 2]], joint_rank_p(values[[0, 2]], [controls[0], controls[2]]))


def test_random_signs_of_two_domains_are_one_family() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(STUDIES):
        p = joint_sign_flip_p([rng.standard_t(5, (8, 6)), rng.standard_t(5, (10, 6))], permutations=199, seed=0)
        found.append(min(each.min() for each in p) <= ALPHA)
    assert np.mean(found) <= BOUND


# Heads

HEADS, TARGETS = 48, (2, 3, 5, 6, 8)
LAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    # one head matters far more than all others, as in the bundled model
    "heavy tails": lambda rng, shape: rng.lognormal(0, 1.5, shape),
}


def sets_of_heads(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return for disjoint targets their heads, 20 sets of other heads and random choices of heads, as columns."""
    order, groups, found = rng.permutation(HEADS), np.zeros(HEADS, dtype=int), []
    for size in TARGETS:
        members = np.zeros((1, HEADS), dtype=bool)
        members[0, order[:size]], order = True, order[size:]
        others = relabellings(members, groups, 200, rng, disjoint=True)
        choices = relabellings(members, groups, 300, rng, disjoint=False)
        assert others is not None
        assert choices is not None
        found.append((own_heads(members)[None], distinct(members, groups, others)[:20], choices))
    return found


def effects_of(
    sets: list[tuple[np.ndarray, np.ndarray, np.ndarray]], heads: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return what removing each target does (1, domain), and each of its sets (set, domain): the sum of their heads."""
    own, others, _ = ([heads[:, columns].sum(axis=2).T for columns in kind] for kind in zip(*sets, strict=True))
    return own, others


def choices_of(
    sets: list[tuple[np.ndarray, np.ndarray, np.ndarray]], heads: np.ndarray, shares: list[np.ndarray] | None = None
) -> list[Choices]:
    """Return what the heads of each target and of its random choices do one by one; `heads` (domain, head)."""
    found = []
    for (own, _, others), share in zip(sets, shares or shares_of(sets), strict=True):
        sums = heads[:, np.concatenate([own, others])].sum(axis=2).T
        found.append(Choices(sums, np.repeat(share, len(heads), axis=1)))
    return found


def shares_of(sets: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Return the share of the heads of each target in itself and in its random choices (choice, 1)."""
    return [np.isin(np.concatenate([own, others]), own).mean(axis=1)[:, None] for own, _, others in sets]


@pytest.mark.parametrize("law", LAWS)
def test_the_verdict_keeps_its_level_where_heads_are_exchangeable_and_ranks_among_other_heads_alone_do_not(law) -> None:
    """One of disjoint sets holds the head that matters most: it exceeds all sets of other heads, whoever it is."""
    rng = np.random.default_rng(4)
    sets = sets_of_heads(rng)
    # every image shows the effect: only the comparison with other heads can keep a claim back
    changes = [np.ones((8, len(TARGETS)))] * 2
    shares, false, false_alone = shares_of(sets), 0, 0
    for study in range(STUDIES):
        heads = np.abs(LAWS[law](rng, (2, HEADS)))
        effects, controls, _ = (
            [heads[:, columns].sum(axis=2).T for columns in kind] for kind in zip(*sets, strict=True)
        )
        options = {"alpha": ALPHA, "permutations": 99, "seed": 0}
        values, fair = np.concatenate(effects), np.ones(len(TARGETS), dtype=bool)
        sums = choices_of(sets, heads, shares)
        false += (decide(values, changes, controls, fair, sums, **options).verdict == CAUSAL).any()
        if study < FEW:
            false_alone += (decide(values, changes, controls, fair, **options).verdict == CAUSAL).any()
    assert false / STUDIES <= BOUND
    assert false_alone / FEW > 2 * BOUND  # a rate of alpha gets there in fewer than one of ten thousand series of FEW


def test_a_mechanism_whose_heads_all_matter_is_found_among_heads() -> None:
    rng = np.random.default_rng(5)
    sets = sets_of_heads(rng)
    hits = 0
    for _ in range(200):
        heads = rng.standard_normal((2, HEADS))
        heads[:, sets[3][0][0]] += 2.0
        effects, controls, _ = (
            [heads[:, columns].sum(axis=2).T for columns in kind] for kind in zip(*sets, strict=True)
        )
        found = decide(
            *(
                np.concatenate(effects),
                [np.ones((8, len(TARGETS)))] * 2,
                controls,
                np.ones(len(TARGETS), dtype=bool),
                choices_of(sets, heads),
            ),
            **{"alpha": ALPHA, "permutations": 99, "seed": 0},
        )
        hits += (found.verdict[3] == CAUSAL).any()
    assert hits > 160


def test_verdicts_weigh_what_could_have_been_shown() -> None:
    rng = np.random.default_rng(6)

    def told(effect: float, *, images: int = 8, controls: int = 20, fair: bool = True, beside: float = 0.0) -> str:
        draws = beside + 0.1 * rng.standard_normal((controls, 1))
        changes = effect + 0.1 * np.resize([1.0, -1.0], (images, 1))
        options = {"alpha": ALPHA, "permutations": 999, "seed": 0}
        return str(decide(np.array([[effect]]), [changes], [draws], np.array([fair]), **options).verdict[0, 0])

    assert told(5.0) == CAUSAL
    assert told(5.0, beside=5.5) == NOT_BEYOND
    assert told(-5.0) == HELPS
    assert told(0.0) == NOTHING
    assert told(63.0, images=4) == UNTOLD  # the smallest p is 1/8
    assert told(5.0, controls=18) == UNTOLD  # and here 1/19
    assert told(5.0, controls=19) == CAUSAL
    assert told(5.0, fair=False) == UNFAIR


def test_sums_over_choices_of_heads_are_those_of_their_places() -> None:
    members = np.array([[True, False, True, False], [True, False, False, False]])
    values = np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    # the first head of the set belongs at both timesteps, the other at the first
    picks = np.array([[0, 2], [3, 1]])
    assert sums_over_sets(members, picks, values).tolist() == [14, 46]
    assert CHOICES >= 1000


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01])
def test_as_many_controls_as_one_rank_needs_can_tell(alpha: float) -> None:
    """Both domains share their sets, so the smallest number that is allowed does succeed, and one less does not."""
    changes = [np.ones((10, 1))] * 2
    for controls, expected in ((draws_needed(alpha), CAUSAL), (draws_needed(alpha) - 1, UNTOLD)):
        draws = np.random.default_rng(0).standard_normal((controls, 2))
        options = {"alpha": alpha, "permutations": 9999, "seed": 0}
        found = decide(np.array([[99.0, 0.0]]), changes, [draws], np.array([True]), **options)
        assert found.verdict[0, 0] == expected


def test_a_value_that_must_be_exceeded_is_where_the_corrected_rank_falls_to_the_level() -> None:
    rng = np.random.default_rng(3)
    values, draws = rng.standard_normal((4, 2)), [rng.standard_normal((count, 2)) for count in (19, 25, 40, 60)]
    needed = smallest_beyond(values, draws, 0.05)
    for row in range(4):
        for factor, below in ((1.001, False), (0.999, True)):
            moved = values.copy()
            mean = draws[row].mean(axis=0)
            moved[row, 0] = mean[0] + factor * (needed[row, 0] - mean[0])
            p = joint_rank_p(moved, draws)[row, 0]
            assert (p > 0.05 + 1e-9) == below, (row, factor, p)


def test_too_few_draws_beside_an_outlier_can_never_be_exceeded() -> None:
    rng = np.random.default_rng(4)
    draws = [rng.standard_normal((19, 1)), rng.standard_normal((60, 1))]
    draws[1][0] = 40.0  # scales to 7.7, which no value among 19 draws reaches
    needed = smallest_beyond(np.zeros((2, 1)), draws, 0.05)
    assert np.isinf(needed[0, 0])
    assert np.isfinite(needed[1, 0])


def test_the_least_effect_beyond_its_controls_is_where_the_verdict_turns() -> None:
    """Planted through the decision itself: in the set, and evenly in its heads, so in all choices that hold some."""
    rng = np.random.default_rng(7)
    sets = sets_of_heads(rng)
    options = {"alpha": ALPHA, "permutations": 99, "seed": 0}
    changes, fair, turned = [np.ones((8, len(TARGETS)))] * 2, np.ones(len(TARGETS), dtype=bool), 0
    for _ in range(6):
        heads = np.abs(rng.standard_normal((2, HEADS)))
        effects, controls, _ = (
            [heads[:, columns].sum(axis=2).T for columns in kind] for kind in zip(*sets, strict=True)
        )
        # sets do more, or less, than their heads one by one
        values, choices = np.concatenate(effects) + rng.uniform(-1, 3, (len(TARGETS), 2)), choices_of(sets, heads)
        least = decide(values, changes, controls, fair, choices, sizes=True, **options).least_beyond
        for row, domain in np.argwhere(np.isfinite(least)):
            for away, expected in ((1e-3, CAUSAL), (-1e-3, NOT_BEYOND)):
                moved, planted = values.copy(), list(choices)
                moved[row, domain] = least[row, domain] + away
                sums = choices[row].sums.copy()
                more = moved[row, domain] - values[row, domain]
                sums[:, domain] += more * choices[row].shares[:, domain]
                planted[row] = Choices(sums, choices[row].shares)
                found = decide(moved, changes, controls, fair, planted, **options)
                others = np.delete(np.minimum(found.p_sets_adjusted, found.p_heads_adjusted).ravel(), 2 * row + domain)
                if away < 0 and (others <= ALPHA + ROUNDING).any():
                    continue  # what is found leaves the family, and asks for less
                assert found.verdict[row, domain] == expected, (row, domain, away)
            turned += 1
    assert turned > 20


def test_where_most_choices_hold_most_of_its_heads_no_effect_can_tell() -> None:
    """Five of six heads: every sixth choice is the mechanism itself, and no effect leaves that one behind."""
    rng = np.random.default_rng(8)
    members = np.array([[True] * 5 + [False]])
    picks = relabellings(members, np.zeros(6, dtype=int), 300, rng, disjoint=False)
    assert picks is not None
    shares = np.concatenate([[1.0], np.isin(picks, np.arange(5)).mean(axis=1)])[:, None]
    controls = [rng.standard_normal((19, 1))]
    for effect in (9.0, 1e6):
        found = decide(
            np.array([[effect]]),
            [np.ones((8, 1))],
            controls,
            np.array([True]),
            [Choices(effect * shares, shares)],
            **{"alpha": ALPHA, "permutations": 99, "seed": 0},
        )
        assert found.verdict[0, 0] == UNTOLD
        assert np.isinf(found.least_beyond[0, 0])


@pytest.mark.parametrize("law", LAWS)
def test_sets_that_hold_heads_of_the_target_as_chance_has_it_keep_the_level(law: str) -> None:
    """The one null of images sampled again, where no single head is removed."""
    rng = np.random.default_rng(9)
    drawn = []
    for own, _, choices in sets_of_heads(rng):
        members = np.zeros((1, HEADS), dtype=bool)
        members[0, own[0]] = True
        alike = distinct(members, np.zeros(HEADS, dtype=int), np.concatenate([own, choices]))
        drawn.append(alike[:20])
    false = 0
    for _ in range(STUDIES):
        heads = np.abs(LAWS[law](rng, (2, HEADS)))
        sums = [heads[:, columns].sum(axis=2).T for columns in drawn]
        p = joint_rank_p(np.stack([each[0] for each in sums]), [each[1:] for each in sums])
        false += bool((p <= ALPHA + ROUNDING).any())
    assert false / STUDIES <= BOUND
