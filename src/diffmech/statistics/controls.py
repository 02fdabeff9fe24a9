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

from collections.abc import Sequence

import numpy as np

# Values that differ by less, in standard deviations of their pool, are ties.
TIE = 1e-9


def rank_p(value: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return (1 + draws at least as large) / (1 + draws) of `value` (test,) among `draws` (draw, test)."""
    pool = np.concatenate([np.asarray(value)[None], draws])
    scaled = _scaled(pool)
    return (scaled >= scaled[0] - TIE).mean(axis=0)


def joint_rank_p(values: np.ndarray, draws: Sequence[np.ndarray]) -> np.ndarray:
    """Return the corrected p-values of `values` (target, test) among `draws`, (draw, test) of each target.

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


def smallest_beyond(values: np.ndarray, draws: Sequence[np.ndarray], alpha: float) -> np.ndarray:
    """Return what a target's value must exceed for `joint_rank_p` to be at most `alpha`, (target, test); inf for never.

    As `values` (target, test) and `draws`, (draw, test) of each target, are: beside the other targets and all their
    draws. A value v among K draws of mean m and standard deviation s scales to K d / sqrt(K s^2 n + K d^2) with d = v -
    m and n = K + 1, which is at most sqrt(K), however large v is. NaN for targets without draws.
    """
    values = np.asarray(values, dtype=np.float64)
    needed = np.full(values.shape, np.nan)
    compared = [row for row in range(len(values)) if len(draws[row])]
    largest = {}
    for row in compared:
        scaled = _scaled(np.concatenate([values[row, None], draws[row]]))
        largest[row] = np.where(np.isfinite(scaled), scaled, -np.inf).max(axis=1)
    for row in compared:
        count = len(draws[row])
        allowed = alpha - 1 / (1 + count) + TIE
        others = [largest[other] for other in compared if other != row]
        reached = np.concatenate([np.empty(0), *others])
        weights = np.concatenate([np.empty(0), *(np.full(len(each), 1 / len(each)) for each in others)])
        order = np.argsort(-reached)
        over = np.flatnonzero(np.cumsum(weights[order]) > allowed)
        threshold = max(0.0, reached[order][over[0]]) if len(over) else 0.0
        mean, spread = draws[row].mean(axis=0), draws[row].std(axis=0)
        if allowed < 0 or threshold**2 >= count:
            needed[row] = np.inf
            continue
        away = threshold * spread * np.sqrt((1 + count) / (count - threshold**2))
        needed[row] = np.maximum(mean + away, draws[row].max(axis=0))
    return needed


def _scaled(pool: np.ndarray) -> np.ndarray:
    """Return a pool (member, test) in its own standard deviations from its own mean, 0 where it has no spread."""
    centred = pool - pool.mean(axis=0)
    spread = pool.std(axis=0)
    # a spread that rounding made is none
    some = spread > 1e-12 * np.abs(pool).max(axis=0, initial=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=some)
