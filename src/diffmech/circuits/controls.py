"""Random circuits: sets of heads drawn without looking, of the same size as a circuit.

A random circuit has as many heads of each kind of attention (self, cross, joint) as the circuit it stands beside, and
is never that circuit. It may share heads with it: where heads are exchangeable, the circuit is then one draw among
equals, and its rank is uniform, which it is not among sets of other heads alone. Random circuits of equal size: Conmy
et al. 2023; drawing per kind is ours, since kinds differ in what they can do at all.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.errors import ConfigError
from diffmech.interventions.targets import Heads
from diffmech.randomness import generator


def possible_circuits(circuit: Heads, sites: Sequence[AttentionSite]) -> int:
    """Return how many other sets have as many heads of each kind as `circuit`."""
    return math.prod(math.comb(len(pool), size) for pool, size in _pools(circuit, sites)) - 1


def random_circuits(circuit: Heads, sites: Sequence[AttentionSite], *, count: int, seed: int) -> list[Heads]:
    """Return `count` distinct random circuits like `circuit`; it depends on the seed, the circuit and the heads only.

    Raises ConfigError where fewer exist.
    """
    possible = possible_circuits(circuit, sites)
    if count > possible:
        raise ConfigError(
            f"discovery.random_circuits: {count} random circuits are asked for, but only {possible} other sets have as "
            f"many heads of each kind as this one of {len(circuit)}; ask for at most that"
        )
    source = generator(seed, "random circuits", *map(str, sorted(circuit)))
    pools = _pools(circuit, sites)
    found: dict[Heads, None] = {}
    while len(found) < count:
        drawn = frozenset(head for pool, size in pools for head in _draw(pool, size, source))
        if drawn != circuit:
            found[drawn] = None
    return list(found)


def overlap(circuit: Heads, drawn: Sequence[Heads]) -> float | None:
    """Return which share of the heads of `circuit` is in a random one, on average; None where there is none."""
    return float(np.mean([len(circuit & each) for each in drawn])) / len(circuit) if drawn else None


def _pools(circuit: Heads, sites: Sequence[AttentionSite]) -> list[tuple[list[HeadId], int]]:
    """Return the heads of each kind of attention with the number of them in the circuit."""
    kinds = {site.name: site.kind for site in sites}
    sizes = Counter(kinds[head.site] for head in circuit)
    return [
        ([HeadId(site.name, head) for site in sites if site.kind == kind for head in range(site.heads)], size)
        for kind, size in sorted(sizes.items())
    ]


def _draw(pool: Sequence[HeadId], size: int, source: np.random.Generator) -> list[HeadId]:
    return [pool[index] for index in source.permutation(len(pool))[:size]]
