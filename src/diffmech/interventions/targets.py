"""What is ablated together, and the random sets of heads it is compared with.

A target is a set of heads, each within a span of timesteps: one head, one layer, or one mechanism, whose heads may
change from phase to phase. A matched control has as many heads at the same sites as its target at every timestep and
is, among many such random sets, one of the closest in output norm: sqrt(sum_h |o_h|^2). Where too few distinct sets
exist (all heads of a layer are the only such set), sites are widened to all of the same kind of attention, then to all,
and the control says so. Random controls of equal budget are usual; the matching by norm is ours.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from diffmech.artifacts import read_csv
from diffmech.attention.sites import AttentionSite, HeadId, resolve_heads
from diffmech.randomness import generator

Pool = Literal["site", "kind", "any"]
POOLS: tuple[Pool, ...] = ("site", "kind", "any")

# Controls are the closest in norm among this many times as many random sets.
CANDIDATES_PER_CONTROL = 10

Heads = frozenset[HeadId]


@dataclass(frozen=True)
class HeadSpan:
    """One head at the timesteps first <= t <= last."""

    head: HeadId
    first: int
    last: int


@dataclass(frozen=True)
class Target:
    """Heads that are ablated together. A control names the target it stands beside, its draw and its pool."""

    name: str
    spans: tuple[HeadSpan, ...]
    control_of: str = ""
    draw: int = -1
    control_pool: str = ""

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

    The table has the columns head, phase_first, phase_last and mechanism. Raises StoreError when it is missing or has
    other columns and ConfigError, with the nearest names, for a head that the model lacks.
    """
    table = read_csv(heads_csv, ["head", "phase_first", "phase_last", "mechanism"])
    resolve_heads(table["head"], sites)
    targets = []
    for name, rows in table.dropna(subset=["mechanism"]).groupby("mechanism", sort=True):
        spans = (
            HeadSpan(HeadId.parse(head), int(min(first, last)), int(max(first, last)))
            for head, first, last in zip(rows["head"], rows["phase_first"], rows["phase_last"], strict=True)
        )
        targets.append(Target(str(name), tuple(sorted(spans, key=lambda span: (span.head, span.first)))))
    return targets


def matched_controls(
    target: Target,
    sites: Sequence[AttentionSite],
    norms: Mapping[int, Mapping[HeadId, float]],
    *,
    count: int,
    seed: int,
) -> list[Target]:
    """Return up to `count` random targets with as many heads per site as `target` at every timestep of `norms`.

    `norms[timestep][head]` is the head's mean output norm, of all timesteps of the study, whichever are ablated here:
    equal sets of heads then have equal controls at all timesteps. Fewer than `count` come back only where even the
    widest pool has fewer distinct sets. Draws depend on (seed, target) alone. Raises ConfigError for heads that `sites`
    lack.
    """
    by_set: dict[Heads, list[int]] = {}
    for timestep in sorted(norms):
        if heads := target.heads_at(timestep):
            by_set.setdefault(heads, []).append(timestep)
    if not by_set:
        return []
    drawn: dict[Heads, list[Heads]] = {}
    widest = 0
    for heads, timesteps in by_set.items():
        squares = {h: math.fsum(norms[t][h] ** 2 for t in timesteps) for site in sites for h in _site_heads(site)}
        lacking = [str(head) for head in sorted(heads) if head not in squares]
        resolve_heads(lacking, sites)
        for width in range(widest, len(POOLS)):
            source = generator(seed, "control", target.name, *map(str, sorted(heads)), POOLS[width])
            drawn[heads] = _closest_sets(heads, sites, squares, POOLS[width], count, source)
            if len(drawn[heads]) == count or width == len(POOLS) - 1:
                widest = width
                break
    controls = []
    for draw in range(min(len(sets) for sets in drawn.values())):
        spans = [HeadSpan(h, t, t) for heads, ts in by_set.items() for t in ts for h in sorted(drawn[heads][draw])]
        name = f"{target.name}~control{draw:03d}"
        controls.append(Target(name, tuple(spans), target.name, draw, POOLS[widest]))
    return controls


def _closest_sets(
    heads: Heads,
    sites: Sequence[AttentionSite],
    squares: Mapping[HeadId, float],
    pool: Pool,
    count: int,
    source: np.random.Generator,
) -> list[Heads]:
    """Return `count` random sets like `heads`, closest in norm; all there are, if fewer. Random order among them."""
    groups = _exchangeable(heads, sites, pool)
    others = math.prod(math.comb(len(candidates), size) for candidates, size in groups) - 1
    wanted = min(CANDIDATES_PER_CONTROL * count, others)
    found: dict[Heads, None] = {}
    if 2 * wanted >= others:  # so few that drawing would mostly repeat
        combinations = itertools.product(*(itertools.combinations(candidates, size) for candidates, size in groups))
        every = [frozenset(itertools.chain(*parts)) for parts in combinations]
        for position in source.permutation(len(every)):
            if every[position] != heads and len(found) < wanted:
                found[every[position]] = None
    while len(found) < wanted:
        chosen = (source.permutation(len(candidates))[:size].tolist() for candidates, size in groups)
        candidate = frozenset(
            candidates[k] for (candidates, _), picks in zip(groups, chosen, strict=True) for k in picks
        )
        if candidate != heads:
            found[candidate] = None
    goal = _log_norm(heads, squares)
    closest = sorted(enumerate(found), key=lambda item: (abs(_log_norm(item[1], squares) - goal), item[0]))[:count]
    return [candidate for _, candidate in sorted(closest, key=lambda item: item[0])]


def _exchangeable(heads: Heads, sites: Sequence[AttentionSite], pool: Pool) -> list[tuple[list[HeadId], int]]:
    """Return groups of heads that may stand in for each other, with the number to take from each."""
    label = {site.name: {"site": site.name, "kind": site.kind, "any": "any"}[pool] for site in sites}
    sizes = Counter(label[head.site] for head in heads)
    return [
        ([head for site in sites if label[site.name] == name for head in _site_heads(site)], size)
        for name, size in sorted(sizes.items())
    ]


def _site_heads(site: AttentionSite) -> list[HeadId]:
    return [HeadId(site.name, head) for head in range(site.heads)]


def _log_norm(heads: Heads, squares: Mapping[HeadId, float]) -> float:
    # A sum that does not depend on the order of a set, and a floor for heads that write nothing.
    return math.log(max(math.fsum(squares[head] for head in heads), 1e-30)) / 2
