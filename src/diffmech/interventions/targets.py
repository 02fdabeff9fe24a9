"""What is ablated together, and the random sets of heads it is compared with.

A target is a set of heads, each within a span of timesteps: one head, one layer, or one mechanism, whose heads may
change from phase to phase. A matched control puts other heads in the place of its heads: it shares no head with its
target, has as many at every timestep, from the same pool, and is moved as far by the ablation: its size is
sqrt(sum |o_h - replacement|^2) over its heads and timesteps. Pools are tried from the narrowest up: the same layers,
where sizes agree layer by layer, the same kind of attention, all heads. The first pool whose controls are fair is
taken: enough distinct sets, each within a factor of 1.25 of the size of the target, and within 1.1 of it in their
geometric mean, in every layer where the pool is the same layers. Where no pool is fair there is no control, and the
balance says why. Random controls of equal budget are usual; the matching, and what is fair, are ours.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from diffmech.attention.sites import AttentionSite, HeadId, resolve_heads
from diffmech.interventions.relabelling import distinct, own_heads, relabellings, sums_over_sets
from diffmech.mechanisms.tables import MECHANISMS
from diffmech.randomness import generator

Pool = Literal["site", "kind", "any"]
POOLS: tuple[Pool, ...] = ("site", "kind", "any")

# Random sets among which the controls are chosen.
CANDIDATES = 4000
# The factors by which the size of one control, and the geometric mean of all, may differ from that of the target.
EACH, ON_AVERAGE = 1.25, 1.1

Heads = frozenset[HeadId]


@dataclass(frozen=True)
class HeadSpan:
    """One head at the timesteps first <= t <= last."""

    head: HeadId
    first: int
    last: int


@dataclass(frozen=True)
class Balance:
    """How well the controls of one target match it, over all domains: what stands beside its verdict.

    `overlap` is the mean share of the target's heads that a control has too, `ratio` the geometric mean of the sizes of
    the controls over that of the target, `low` and `high` the extremes of these ratios over controls and domains, and
    over layers where the pool is the same layers. Where nothing is `fair`, it is that of the closest sets, not run.
    """

    pool: str = ""
    sets: int = 0
    overlap: float = math.nan
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    fair: bool = False


@dataclass(frozen=True)
class Target:
    """Heads that are ablated together. A control names the target it stands beside, its draw and its pool.

    `balance` is that of the controls of a target, None where none were sought.
    """

    name: str
    spans: tuple[HeadSpan, ...]
    control_of: str = ""
    draw: int = -1
    control_pool: str = ""
    balance: Balance | None = None

    def heads_at(self, timestep: int) -> Heads:
        """Return the heads that are replaced at `timestep`."""
        return frozenset(span.head for span in self.spans if span.first <= timestep <= span.last)

    def heads(self) -> Heads:
        """Return all heads, of all timesteps."""
        return frozenset(span.head for span in self.spans)


ALWAYS = (0, 2**31 - 1)


def single_heads(sites: Iterable[AttentionSite]) -> list[Target]:
    """Return every head as a target of its own, named by it."""
    heads = (HeadId(site.name, head) for site in sites for head in range(site.heads))
    return [Target(str(head), (HeadSpan(head, *ALWAYS),)) for head in heads]


def layers(sites: Iterable[AttentionSite]) -> list[Target]:
    """Return every site as a target: all of its heads."""
    return [
        Target(site.name, tuple(HeadSpan(HeadId(site.name, head), *ALWAYS) for head in range(site.heads)))
        for site in sites
    ]


def mechanisms(heads_csv: Path | str, sites: Sequence[AttentionSite]) -> list[Target]:
    """Return every mechanism of a table of heads as a target: its heads, each in the phases in which it belongs.

    Raises StoreError when the table is missing or not whole, and ConfigError, with the nearest names, for a head that
    the model lacks.
    """
    table = MECHANISMS.read(heads_csv, ["head", "phase_first", "phase_last", "mechanism"])
    resolve_heads(table["head"], sites)
    targets = []
    for name, rows in table.dropna(subset=["mechanism"]).groupby("mechanism", sort=True):
        spans = (
            HeadSpan(HeadId.parse(head), int(min(first, last)), int(max(first, last)))
            for head, first, last in zip(rows["head"], rows["phase_first"], rows["phase_last"], strict=True)
        )
        targets.append(Target(str(name), tuple(sorted(spans, key=lambda span: (span.head, span.first)))))
    return targets


@dataclass(frozen=True)
class Matched:
    """The controls of one target, none where they would not be fair, and how well they match it."""

    controls: list[Target]
    balance: Balance


def matched_controls(
    target: Target,
    sites: Sequence[AttentionSite],
    *sizes: Mapping[int, Mapping[HeadId, float]],
    count: int,
    needed: int = 1,
    apart: bool = True,
    seed: int,
) -> Matched:
    """Return up to `count` random sets of other heads in the place of those of `target`, and their balance.

    `sizes`, one for each domain, say by timestep and head how far the ablation moves the head's output, at all
    timesteps of the study, whichever are ablated here. A set matches where it does in every domain; there each timestep
    counts alike, in units of its mean over heads. Fewer than `needed` sets are not fair. `apart` False lets sets have
    heads of the target as chance will have it, which makes the target one of sets drawn alike. Draws depend on (seed,
    target, pool) alone. Raises ConfigError for heads that `sites` lack.
    """
    timesteps = sorted(sizes[0])
    heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]
    own = [target.heads_at(timestep) for timestep in timesteps]
    resolve_heads([str(head) for head in sorted(frozenset().union(*own) - frozenset(heads))], sites)
    members = np.array([[head in there for head in heads] for there in own], dtype=bool)
    if not members.any() or not count:
        return Matched([], Balance())
    squares = [
        each_timestep_alike(np.array([[of_domain[timestep][head] ** 2 for head in heads] for timestep in timesteps]))
        for of_domain in sizes
    ]
    best = Balance()
    for pool in POOLS:
        groups = pool_of_heads(heads, sites, pool)
        source = generator(seed, "control", target.name, pool)
        picks = relabellings(members, groups, CANDIDATES, source, disjoint=apart)
        if picks is None:
            continue
        picks = distinct(members, groups, np.concatenate([own_heads(members)[None], picks]))[1:]
        if not len(picks):
            continue
        # (set, domain x layer) in the pool of the same layers, else (set, domain)
        layers_of = groups if pool == "site" else None
        parts = np.concatenate([_log_ratios(members, picks, each, layers_of) for each in squares], axis=1)
        total = np.mean([_log_ratios(members, picks, each, None)[:, 0] for each in squares], axis=0)
        close = np.flatnonzero((np.abs(parts) <= math.log(EACH)).all(axis=1))
        # sets closest in size would be those that keep the target's heads
        some = _bracketing(parts[close], count) if apart else np.sort(source.permutation(len(close))[:count])
        chosen = close[some]
        off = np.abs(parts[chosen].mean(axis=0)) if len(chosen) else np.array([math.inf])
        fair = len(chosen) >= needed and bool((off <= math.log(ON_AVERAGE)).all())
        if not fair:  # the closest there are, to be told
            chosen = np.sort(np.argsort(np.abs(parts).max(axis=1), kind="stable")[:count])
        balance = _balance(pool, members, picks[chosen], parts[chosen], total[chosen], fair=fair)
        if fair:
            return Matched(_as_targets(target, pool, heads, timesteps, members, picks[chosen]), balance)
        if not best.sets or abs(math.log(balance.ratio)) < abs(math.log(best.ratio)):
            best = balance
    return Matched([], best)


def each_timestep_alike(squares: Float[np.ndarray, "timestep head"]) -> Float[np.ndarray, "timestep head"]:
    """Return squared sizes in units of their mean over heads at each timestep."""
    mean = squares.mean(axis=1, keepdims=True)
    return np.divide(squares, mean, out=np.zeros_like(squares), where=mean > 0)


def pool_of_heads(heads: Sequence[HeadId], sites: Sequence[AttentionSite], pool: str) -> Shaped[np.ndarray, "head"]:
    """Return the group of each head: heads of one group may stand in for each other."""
    label = {site.name: {"site": site.name, "kind": site.kind, "any": "any"}[pool] for site in sites}
    return np.array([label[head.site] for head in heads])


def _log_ratios(
    members: Bool[np.ndarray, "timestep head"],
    picks: Int[np.ndarray, "set own"],
    squares: Float[np.ndarray, "timestep head"],
    layers: np.ndarray | None,
) -> Float[np.ndarray, "set layer"]:
    """Return the logarithms of the sizes of sets over that of the target, (set, layer), or (set, 1) without `layers`.

    A floor stands for heads that no ablation moves.
    """
    own = own_heads(members)
    parts = [np.ones(len(own), dtype=bool)]
    if layers is not None:
        parts = [layers[own] == name for name in np.unique(layers[own])]
    ratios = []
    for part in parts:
        theirs, mine = (sums_over_sets(members, sets, squares, part) for sets in (picks, own[None]))
        ratios.append(np.log(np.maximum(theirs, 1e-30)) / 2 - np.log(np.maximum(mine, 1e-30)) / 2)
    return np.stack(ratios, axis=1)


def _bracketing(logs: Float[np.ndarray, "set layer"], count: int) -> Int[np.ndarray, "chosen"]:
    """Return the places of `count` rows of `logs` (set, layer) close to 0 and with a mean close to 0, ascending.

    One after the other, the one that leaves the sum and is itself closest to 0 in its worst layer.
    """
    left = np.abs(logs).max(axis=1)
    total, chosen = np.zeros(logs.shape[1]), []
    for _ in range(min(count, len(logs))):
        cost = np.abs(total + logs).max(axis=1) + left
        chosen.append(int(np.argmin(cost)))
        total, left[chosen[-1]] = total + logs[chosen[-1]], np.inf
    return np.sort(np.array(chosen, dtype=np.intp))


def _balance(
    pool: str, members: np.ndarray, picks: np.ndarray, parts: np.ndarray, total: np.ndarray, *, fair: bool
) -> Balance:
    own = own_heads(members)
    overlap = float(np.isin(picks, own).mean())
    ratio, low, high = (math.exp(value) for value in (total.mean(), parts.min(), parts.max()))
    return Balance(pool, len(picks), overlap, ratio, low, high, fair)


def _as_targets(
    target: Target,
    pool: str,
    heads: Sequence[HeadId],
    timesteps: Sequence[int],
    members: np.ndarray,
    picks: np.ndarray,
) -> list[Target]:
    active = members[:, own_heads(members)]
    controls = []
    for draw, columns in enumerate(picks):
        spans = [
            HeadSpan(head, timestep, timestep)
            for row, timestep in enumerate(timesteps)
            for head in sorted(heads[column] for column in columns[active[row]])
        ]
        controls.append(Target(f"{target.name}~control{draw:03d}", tuple(spans), target.name, draw, pool))
    return controls
