"""What a test can see: the smallest p-value that it can reach, and the smallest effect found four times in five.

A test whose smallest possible p-value lies above its level says nothing, whatever the data are: "not found" would be
false of it. And a "not found" is worth as much as the effect that would have been found. Smallest p-values are those of
Monte Carlo permutation tests, (1 + b) / (1 + B), whose draws repeat the observed labelling as often as chance lets them
(Phipson & Smyth 2010). Smallest effects are those of normal theory; that four times in five is enough: Cohen 1988.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import ndtr, stdtrit
from scipy.stats import binom

POWER = 0.8
# Standard normal deviations that are integrated over, and the largest effect that is looked for.
WIDTH, FARTHEST = 8.0, 60.0


def smallest_sign_flip_p(units: int, permutations: int) -> float:
    """Return the smallest p-value of random signs of `units` paired differences, two-sided: 2 of 2^units are as far."""
    return _smallest(2.0 ** (1 - units) if units else 1.0, permutations)


def smallest_label_p(first: int, second: int, permutations: int) -> float:
    """Return the smallest p-value of permuted labels of two groups, two-sided in a difference or a log ratio.

    One labelling is as far as the observed one; two, where the groups are of one size and can be swapped.
    """
    ways = math.comb(first + second, first)
    return _smallest(min(1.0, (2 if first == second else 1) / ways), permutations)


def smallest_rank_p(draws: int) -> float:
    """Return the smallest p-value of a rank among so many draws (controls, untrained copies)."""
    return 1 / (1 + draws)


def draws_needed(alpha: float) -> int:
    """Return how many draws a rank needs so that its p-value can be at or below `alpha`."""
    return math.ceil(1 / alpha - 1e-9) - 1


def units_needed(alpha: float, tests: int = 1) -> int:
    """Return how many paired units random signs need so that p can be at or below `alpha` after Holm over `tests`."""
    return 1 + math.ceil(math.log2(tests / alpha) - 1e-9)


def smallest_effect(
    error: Float[np.ndarray, "*shape"] | float, freedom: float, *, alpha: float, tests: int = 1, power: float = POWER
) -> Float[np.ndarray, "*shape"]:
    """Return the true effect that a two-sided test of a mean finds with `power`, in the unit of its standard `error`.

    `freedom` is n - 1 of the units. The level is Bonferroni's over `tests`, as the first step of Holm's correction.
    """
    if freedom < 1:
        return np.full(np.shape(error), np.inf)
    return np.asarray((stdtrit(freedom, 1 - alpha / (2 * tests)) + stdtrit(freedom, power)) * np.asarray(error))


def power_among(effect: float, draws: int, *, alpha: float, tests: int = 1) -> float:
    """Return how often an effect of so many standard deviations of its draws is found by its rank among them.

    One-sided. With `tests` the rank is that among the draws' maxima over a family of so many independent tests on one
    scale (max-T). 0 where the draws are too few for any p at or below `alpha`.
    """
    allowed = math.floor(alpha * (1 + draws) + 1e-9) - 1
    if allowed < 0:
        return 0.0
    values = np.linspace(effect - WIDTH, effect + WIDTH, 2001)
    density = np.exp(-((values - effect) ** 2) / 2)
    found = binom.cdf(allowed, draws, 1 - ndtr(values) ** tests)
    return float((density * found).sum() / density.sum())


def smallest_effect_among(draws: int, *, alpha: float, tests: int = 1, power: float = POWER) -> float:
    """Return the effect that `power_among` finds with `power`, in standard deviations of the draws; inf for none."""

    def short(effect: float) -> float:
        return power_among(effect, draws, alpha=alpha, tests=tests) - power

    return float(brentq(short, 0, FARTHEST, xtol=1e-3)) if short(FARTHEST) > 0 else math.inf


def rank_threshold(draws: Float[np.ndarray, "draw"], alpha: float) -> float:
    """Return what a value must exceed for its rank among the draws to give p at or below `alpha`; inf: none.

    For a family of tests on one scale `draws` are the maxima of each draw over them.
    """
    allowed = math.floor(alpha * (1 + len(draws)) + 1e-9) - 1
    return float(np.sort(draws)[-1 - allowed]) if allowed >= 0 else math.inf


def joint_rank_threshold(
    draws: Float[np.ndarray, "draw test"], scaled: Float[np.ndarray, "draw test"], alpha: float
) -> Float[np.ndarray, "test"]:
    """Return what the value of each test must exceed for its joint rank to give p at or below `alpha`.

    `draws` are at least 0; `scaled` the same over the mean of each test's draws and value. The value is part of that
    mean: a larger one makes the unit larger, in which the draws of other tests are as far out.
    """
    count, needed = 1 + len(draws), []
    for test in range(draws.shape[1]):
        own, others = rank_threshold(draws[:, test], alpha), np.delete(scaled, test, axis=1)
        far = rank_threshold(others.max(axis=1), alpha) if others.shape[1] else 0.0
        beyond = draws[:, test].sum() * far / (count - far) if far < count else math.inf
        needed.append(max(own, beyond))
    return np.array(needed)


def images_needed(alpha: float, tests: int = 1) -> int:
    """Return how many images each of two domains needs so that permuted labels can give p at or below `alpha`.

    After Holm over `tests`; permutations must not be fewer than tests / alpha either.
    """
    return next(n for n in range(1, 1000) if tests * 2 / math.comb(2 * n, n) <= alpha)


def _smallest(share: float, permutations: int) -> float:
    return (1 + permutations * share) / (1 + permutations)
