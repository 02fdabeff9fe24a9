"""Completeness and minimality of a circuit C over subsets K of it, after Wang et al. 2023.

A circuit is complete where it does as all heads M do whatever is taken out of both: the incompleteness of K is
|F(C - K) - F(M - K)|. It is minimal where every head v is worth something in some setting: its minimality is
F(C - K) - F(C - K - {v}) for the K that makes it largest. Of the 2^|C| subsets are tried

- at random: the heads that come first in orders of C drawn without looking; minimality after each head of an order,
  incompleteness at two places of it;
- greedily: the head that makes incompleteness largest, one after another;
- the whole of C, where incompleteness is the faithfulness of all heads but the circuit.

Which K is worst, and which suits a head best, is chosen on the half of the images that chose the circuit; the values
are those of the other half, so that no largest value is reported of the images that made it so. Reusing the orders for
both, and the two halves, are ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffmech.attention.sites import HeadId
from diffmech.circuits.faithfulness import difference_interval, faithfulness, mean_faithfulness
from diffmech.circuits.kept import KeptHeads
from diffmech.circuits.tables import SUBSETS
from diffmech.circuits.verdict import plain_interval
from diffmech.config.circuit import DiscoveryConfig
from diffmech.interventions.targets import Heads
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import Interval
from diffmech.statistics.ratios import ratio_interval

MINIMALITY_COLUMNS = ["head", "minimality", "minimality_low", "minimality_high", "without"]
NOTHING: Heads = frozenset()
# Shares of an order at which incompleteness is measured.
PLACES = (1 / 3, 2 / 3)


def over_subsets(
    chosen_on: KeptHeads, tested_on: KeptHeads, circuit: Sequence[HeadId], *, discovery: DiscoveryConfig, seed: int
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Return what is known over subsets of `circuit`: a summary that JSON can hold, and two tables.

    The first (`circuit_subsets`) has one row per subset K whose incompleteness was measured: `how` it was chosen
    (random, greedy, whole), the heads `removed`, F without them of the circuit and of the whole model, and
    incompleteness with its interval. The second (MINIMALITY_COLUMNS) has one row per head of the circuit, its best K in
    `without`. The summary holds the incompleteness of the worst K, its mean over random ones, and the heads that are
    not surely worth anything in any K that was tried.
    """
    orders = _orders(circuit, discovery.subset_orders, seed)
    tried: dict[Heads, str] = {frozenset(circuit): "whole"}
    tried |= dict.fromkeys(_greedy(chosen_on, circuit, discovery.greedy_heads), "greedy")
    tried |= dict.fromkeys(_random_subsets(orders), "random")
    removed, ways = list(tried), list(tried.values())
    worst = int(np.argmax(_incompleteness(chosen_on, circuit, removed)))
    random = np.array([way == "random" for way in ways])
    nothing, everything, *losses = _mean_losses(tested_on, [*_without(circuit, removed), *_without(tested_on, removed)])
    own, rest = np.split(np.stack(losses), 2)
    share = np.asarray(faithfulness(np.stack(losses).mean(axis=1), nothing.mean(), everything.mean()))
    # the larger of two shares is the one with the smaller loss, which the means tell
    side = np.where(share[: len(tried)] >= share[len(tried) :], 1.0, -1.0)[:, None]
    apart = _apart(side * (rest - own), nothing, everything, discovery.confidence)
    ends = [np.asarray(end) for end in (apart.estimate, apart.low, apart.high)]
    rows: list[list[Any]] = [
        [way, len(subset), _named(subset, circuit), share[row], share[len(tried) + row], *(end[row] for end in ends)]
        for row, (subset, way) in enumerate(tried.items())
    ]
    mean = None
    if random.any():
        gained = (side * (rest - own))[random].mean(axis=0, keepdims=True)
        mean = plain_interval(_apart(gained, nothing, everything, discovery.confidence), 0)
    minimality = _minimality(chosen_on, tested_on, circuit, orders, discovery.confidence)
    idle = minimality.loc[~(minimality["minimality_low"] > 0), "head"].tolist()
    summary = {
        "random": int(random.sum()),
        "greedy": ways.count("greedy"),
        "mean": mean,
        "worst": {
            **plain_interval(apart, worst),
            "how": ways[worst],
            "removed": _named(removed[worst], circuit).split(),
        },
        "orders": len(orders),
        "not_minimal": idle,
    }
    return summary, SUBSETS.frame(rows), minimality


def _orders(circuit: Sequence[HeadId], count: int, seed: int) -> list[list[HeadId]]:
    source = generator(seed, "subset orders")
    return [[circuit[index] for index in source.permutation(len(circuit))] for _ in range(count)]


def _random_subsets(orders: Sequence[Sequence[HeadId]]) -> list[Heads]:
    """Return the subsets at two places of each order, none that is empty or whole."""
    found: dict[Heads, None] = {}
    for order in orders:
        for place in PLACES:
            size = round(place * len(order))
            if 0 < size < len(order):
                found[frozenset(order[:size])] = None
    return list(found)


def _greedy(kept: KeptHeads, circuit: Sequence[HeadId], steps: int) -> list[Heads]:
    """Return the subsets of 1, 2 ... heads, each the one before and the head that makes incompleteness largest."""
    found: list[Heads] = []
    chosen: Heads = NOTHING
    for _ in range(min(steps, len(circuit) - 1)):
        candidates = [chosen | {head} for head in circuit if head not in chosen]
        chosen = candidates[int(np.argmax(_incompleteness(kept, circuit, candidates)))]
        found.append(chosen)
    return found


def _incompleteness(
    kept: KeptHeads, circuit: Sequence[HeadId], subsets: Sequence[Heads]
) -> Float[np.ndarray, "subset"]:
    """Return |F(C - K) - F(M - K)| of each K on the images of `kept`."""
    sets = [*_without(circuit, subsets), *_without(kept, subsets)]
    nothing, everything, *losses = kept.losses([NOTHING, kept.everything, *sets], "subsets")
    own, rest = np.split(mean_faithfulness(np.stack(losses), nothing, everything), 2)
    return np.abs(own - rest)


def _without(heads: Sequence[HeadId] | KeptHeads, subsets: Sequence[Heads]) -> list[Heads]:
    whole = heads.everything if isinstance(heads, KeptHeads) else frozenset(heads)
    return [whole - removed for removed in subsets]


def _mean_losses(kept: KeptHeads, sets: Sequence[Heads]) -> Float[np.ndarray, "set sample"]:
    """Return the loss (2 + set, sample) of nothing, everything and `sets`, over all timesteps."""
    return kept.losses([NOTHING, kept.everything, *sets], "subsets").mean(axis=2)


def _apart(
    gained: Float[np.ndarray, "subset sample"],
    nothing: Float[np.ndarray, "sample"],
    everything: Float[np.ndarray, "sample"],
    confidence: float,
) -> Interval:
    """Return incompleteness (subset,) from the gain (subset, sample) of the better one; no end is below 0."""
    found = ratio_interval(gained.T, (nothing - everything)[:, None], confidence=confidence)
    return Interval(found.estimate, np.maximum(found.low, 0), found.high)


def _minimality(
    chosen_on: KeptHeads,
    tested_on: KeptHeads,
    circuit: Sequence[HeadId],
    orders: Sequence[Sequence[HeadId]],
    confidence: float,
) -> pd.DataFrame:
    whole = frozenset(circuit)
    before = {head: [NOTHING, *(frozenset(order[: order.index(head)]) for order in orders)] for head in circuit}
    pairs = [(whole - K, whole - K - {head}) for head in circuit for K in before[head]]
    nothing, everything, *losses = chosen_on.losses(
        [NOTHING, chosen_on.everything, *(kept for pair in pairs for kept in pair)], "subsets"
    )
    share = mean_faithfulness(np.stack(losses), nothing, everything)
    worth = (share[::2] - share[1::2]).reshape(len(circuit), -1)
    best = [before[head][int(row.argmax())] for head, row in zip(circuit, worth, strict=True)]
    sets = [*(whole - K for K in best), *(whole - K - {head} for head, K in zip(circuit, best, strict=True))]
    none, full, *tested = _mean_losses(tested_on, sets)
    with_it, without = np.split(np.stack(tested), 2)
    interval = difference_interval(with_it, without, none, full, confidence=confidence)
    return pd.DataFrame(
        {
            "head": list(map(str, circuit)),
            "minimality": interval.estimate,
            "minimality_low": interval.low,
            "minimality_high": interval.high,
            "without": [_named(K, circuit) for K in best],
        },
        columns=MINIMALITY_COLUMNS,
    )


def _named(removed: Heads, circuit: Sequence[HeadId]) -> str:
    """Return the heads of a set, in the order of the circuit, separated by spaces."""
    return " ".join(str(head) for head in circuit if head in removed)
