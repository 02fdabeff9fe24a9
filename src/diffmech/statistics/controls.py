"""Ranks among random controls, corrected over all that was compared: one pool of controls for each target.

A target (a set of heads) and its controls, drawn alike, are exchangeable where there is nothing; what is measured of
one in several places (domains, windows) are its tests. Within each test a pool is put on one scale by its own mean and
standard deviation, the target included. With m_j(x) the share of the members of pool j, target included, whose largest
value over the tests reaches x,

    p = sum over pools j of m_j(x)                                                                     (ours)

is the union bound of the chance that any target reaches x: whatever the order of a pool, its target is each of its
members with equal chance, so that the error of the family holds however the targets depend on each other. It
takes all draws of all pools rather than those of equal number, needs no more draws per pool than a rank does alone, and
is never below that rank. Step-down as in Romano & Wolf 2005: what was found leaves the family of the rest.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

# Values that differ by less, in standard deviations of their pool, are ties.
TIE = 1e-9
# How far, in units of the largest draw, and how finely the least value is looked for that leaves all draws behind.
FARTHEST, HALVINGS = 1e6, 50


def rank_p(value: Float[np.ndarray, "test"], draws: Float[np.ndarray, "draw test"]) -> Float[np.ndarray, "test"]:
    """Return (1 + draws at least as large) / (1 + draws) of `value` among `draws`."""
    pool = np.concatenate([np.asarray(value)[None], draws])
    scaled = _scaled(pool)
    return (scaled >= scaled[0] - TIE).mean(axis=0)


def joint_rank_p(
    values: Float[np.ndarray, "target test"], draws: Sequence[Float[np.ndarray, "_draw test"]]
) -> Float[np.ndarray, "target test"]:
    """Return the corrected p-values of `values` among the `draws` of each target.

    Large means extreme. NaN values are no tests, and targets without draws have none; they get NaN and leave the
    family.
    """
    values = np.asarray(values, dtype=np.float64)
    p = np.full(values.shape, np.nan)
    compared = [row for row in range(len(values)) if len(draws[row])]
    if not compared:
        return p
    most = 1 + max(len(draws[row]) for row in compared)
    members = np.full((len(compared), most, values.shape[1]), -np.inf)
    for place, row in enumerate(compared):
        pool = np.concatenate([values[row, None], draws[row]])
        with np.errstate(invalid="ignore"):
            members[place, : len(pool)] = np.where(np.isfinite(pool).all(axis=0), _scaled(pool), -np.inf)
    weights = 1 / np.array([1 + len(draws[row]) for row in compared])
    remaining = np.isfinite(members[:, 0])  # (target, test)
    highest = 0.0
    while remaining.any():
        largest = np.where(remaining, members[:, 0], -np.inf)
        target, test = np.unravel_index(np.argmax(largest), largest.shape)
        reached = np.where(remaining[:, None], members, -np.inf).max(axis=2) >= largest[target, test] - TIE
        highest = max(highest, float((reached.sum(axis=1) * weights).sum()))
        p[compared[target], test] = min(highest, 1.0)
        remaining[target, test] = False
        if highest >= 1:
            for place, row in enumerate(compared):
                p[row, remaining[place]] = 1.0
            break
    return p


def smallest_beyond(
    values: Float[np.ndarray, "target test"],
    draws: Sequence[Float[np.ndarray, "_draw test"]],
    alpha: float,
    shares: Sequence[Float[np.ndarray, "_draw test"]] | None = None,
    *,
    whether: bool = False,
) -> Float[np.ndarray, "target test"]:
    """Return from what value on a target's corrected p is at most `alpha`; infinite where none would.

    Beside the other targets and all draws as they are. What is added to a target is added to a draw of it by its share
    (`shares` of each target, 0 by default): draws that hold a part of it rise with it, and some it can never leave
    behind. Single-step, so that what was found of others does not help. NaN where `joint_rank_p` makes no test.
    `whether` asks only if there is such a value: then finite ones are 0, in a fiftieth of the time.
    """
    values = np.asarray(values, dtype=np.float64)
    needed = np.full(values.shape, np.nan)
    compared = [row for row in range(len(values)) if len(draws[row])]
    pools = {row: np.concatenate([values[row, None], draws[row]]) for row in compared}
    scaled = {}
    for row, pool in pools.items():
        with np.errstate(invalid="ignore"):
            scaled[row] = np.where(np.isfinite(pool).all(axis=0), _scaled(pool), -np.inf)
    for row in compared:
        others = [scaled[other].max(axis=1) for other in compared if other != row]
        reached = np.concatenate([np.empty(0), *others])
        weights = np.concatenate([np.empty(0), *(np.full(len(each), 1 / len(each)) for each in others)])
        order = np.argsort(reached)
        # the shares of other pools at or above each place, and above the last
        above = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
        rises = np.zeros_like(pools[row])
        if shares is not None:
            rises[1:] = shares[row]
        rises[0] = 1.0
        for test in np.flatnonzero(np.isfinite(scaled[row][0])):
            elsewhere = np.delete(scaled[row], test, axis=1).max(axis=1, initial=-np.inf)
            p_of = partial(_p_of_first, elsewhere=elsewhere, reached=reached[order], above=above)
            if p_of(rises[:, test]) > alpha + TIE:  # however much is added
                needed[row, test] = math.inf
            else:
                needed[row, test] = (
                    0 if whether else _least_value(p_of, pools[row][:, test], rises[:, test], alpha + TIE)
                )
    return needed


def _p_of_first(
    column: Float[np.ndarray, "member"],
    *,
    elsewhere: Float[np.ndarray, "member"],
    reached: Float[np.ndarray, "other"],
    above: Float[np.ndarray, "other+1"],
) -> float:
    """Return the single-step p of the first of `column`, one test of a pool.

    `elsewhere` is the largest scaled value of each member in the other tests; `above` the share of the other pools that
    reaches each of the ascending values `reached`, and none of them.
    """
    there = _scaled(column[:, None])[:, 0]
    own = float((np.maximum(elsewhere, there) >= there[0] - TIE).mean())
    return own + float(above[np.searchsorted(reached, there[0] - TIE)])


def _least_value(
    p_of: Callable[[Float[np.ndarray, "member"]], float],
    column: Float[np.ndarray, "member"],
    rises: Float[np.ndarray, "member"],
    alpha: float,
) -> float:
    """Return the least value of the first of `column` with p <= alpha, while the others rise by `rises`."""
    base = column - column[0] * rises  # where the first is 0
    unit = float(np.abs(base).max()) or 1.0
    low, high = -unit, unit
    while p_of(base + high * rises) > alpha:
        low, high = high, 2 * high
        if high > FARTHEST * unit:
            return math.inf
    while p_of(base + low * rises) <= alpha:
        low = 2 * low
        if low < -FARTHEST * unit:
            return -math.inf
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if p_of(base + middle * rises) <= alpha else (middle, high)
    return high


def _scaled(pool: Float[np.ndarray, "member test"]) -> Float[np.ndarray, "member test"]:
    """Return a pool in its own standard deviations from its own mean, 0 where it has no spread."""
    centred = pool - pool.mean(axis=0)
    spread = pool.std(axis=0)
    # a spread that rounding made is none
    some = spread > 1e-12 * np.abs(pool).max(axis=0, initial=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=some)
