"""The smallest set of heads that reaches a faithfulness: a prefix of a ranking, then pruned; or backward elimination.

`ranked` adds heads in the order of a ranking until the target is reached (1, 2, 4 ... heads, then halving the last
gap), and prunes what it has: heads whose loss costs least go first, as many at once as the target allows, until no
single head can go. The pruning is what keeps redundancy right: of two heads that carry one thing each has an effect of
about 0 alone and stands at the end of the ranking, so the prefix grows until one of them is in, and whatever came with
it goes again. `greedy` starts from all heads and takes out the one whose loss costs least, one by one, as long as the
target holds: about half of heads^2 sets, and the better search where many heads stand in for each other.

Greedy search of circuits: Conmy et al. 2023 (backward, over edges); this one, over heads by faithfulness, is ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from diffmech.attention.sites import HeadId
from diffmech.errors import ConfigError
from diffmech.interventions.targets import Heads

Search = Literal["ranked", "greedy"]
# The faithfulness of each of some sets.
Judge = Callable[[Sequence[Heads]], Float[np.ndarray, "set ..."]]


@dataclass(frozen=True)
class Found:
    """A circuit, its heads by what they are worth, the dearest first; `order` goes on with all other heads."""

    circuit: tuple[HeadId, ...]
    order: tuple[HeadId, ...]

    @property
    def heads(self) -> Heads:
        """The heads of the circuit as a set."""
        return frozenset(self.circuit)


def find_circuit(judge: Judge, ranking: Sequence[HeadId], *, target: float, search: Search) -> Found:
    """Return the circuit that reaches `target`; `ranking` holds all heads, the most important first.

    Raises ConfigError for a target outside (0, 1] and a search that does not exist.
    """
    if not 0 < target <= 1:
        raise ConfigError(f"discovery.faithfulness: {target} is not above 0 and at most 1; give a share, such as 0.9")
    if search not in ("ranked", "greedy"):
        raise ConfigError(f"discovery.search: {search!r} is not a search; expected ranked or greedy")
    ranking = list(ranking)
    start = ranking[: _shortest_prefix(judge, ranking, target)] if search == "ranked" else ranking
    kept, removed = _eliminate(judge, start, target, at_once=search == "ranked")
    behind = [head for head in ranking if head not in start]
    return Found(tuple(kept), (*kept, *reversed(removed), *behind))


def _shortest_prefix(judge: Judge, ranking: Sequence[HeadId], target: float) -> int:
    """Return a length whose prefix reaches `target` while that of one head less does not."""

    def reached(length: int) -> bool:
        return bool(judge([frozenset(ranking[:length])])[0] >= target)

    below, length = 0, 1
    while length < len(ranking) and not reached(length):
        below, length = length, 2 * length
    above = min(length, len(ranking))
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (below, middle) if reached(middle) else (middle, above)
    return above


def _eliminate(
    judge: Judge, start: Sequence[HeadId], target: float, *, at_once: bool
) -> tuple[list[HeadId], list[HeadId]]:
    """Return the heads that are left, the dearest first, and those taken out, in that order."""
    kept, removed = list(start), list[HeadId]()
    while kept:
        left = judge([frozenset(kept) - {head} for head in kept])
        # Cheapest first; among equals the one that ranks last.
        cheapest = [kept[index] for index in np.lexsort((-np.arange(len(kept)), -left))]
        if left.max() < target:
            return cheapest[::-1], removed
        count = _most_removable(judge, cheapest, target) if at_once else 1
        removed += cheapest[:count]
        kept = [head for head in kept if head not in cheapest[:count]]
    return kept, removed


def _most_removable(judge: Judge, cheapest: Sequence[HeadId], target: float) -> int:
    """Return how many of the cheapest heads, at least one, can go together."""
    possible, impossible = 1, len(cheapest)
    while impossible - possible > 1:
        middle = (possible + impossible) // 2
        holds = bool(judge([frozenset(cheapest[middle:])])[0] >= target)
        possible, impossible = (middle, impossible) if holds else (possible, middle)
    return possible
