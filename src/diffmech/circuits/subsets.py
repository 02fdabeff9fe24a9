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

from diffmech.attention.sites import HeadId
from diffmech.circuits.faithfulness import faithfulness, mean_faithfulness
from diffmech.circuits.kept import KeptHeads
from diffmech.circuits.verdict import plain_interval
from diffmech.config.circuit import DiscoveryConfig
from diffmech.interventions.targets import Heads
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import bootstrap_statistic

SUBSET_COLUMNS = ["how", "size", "removed", "circuit_without", "model_without", "incompleteness", "low", "high"]
MINIMALITY_COLUMNS = ["head", "minimality", "minimality_low", "minimality_high", "without"]
NOTHING: Heads = frozenset()
# Shares of an order at which incompleteness is measured.
PLACES = (1 / 3, 2 / 3)


def over_subsets(
    chosen_on: KeptHeads, tested_on: KeptHeads, circuit: Sequence[HeadId], *, discovery: DiscoveryConfig, seed: int
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Return what is known over subsets of `circuit`: a summary that JSON can hold, and two tables.

    The first (SUBSET_COLUMNS) has one row per subset K whose incompleteness was measured: `how` it was chosen (random,
    greedy, whole), the heads `removed`, F without them of the circuit and of the whole model, and incompleteness with
    its interval. The second (MINIMALITY_COLUMNS) has one row per head of the circuit, its best K in `without`. The
    summary holds the incompleteness of the worst K, its mean over random ones, and the heads that are not surely worth
    anything in any K that was tried.
    """
    bootstrap: dict[str, Any] = {"draws": discovery.draws, "confidence": discovery.confidence, "seed": seed}
    orders = _orders(circuit, discovery.subset_orders, seed)
    tried: dict[Heads, str] = {frozenset(circuit): "whole"}
    tried |= dict.fromkeys(_greedy(chosen_on, circuit, discovery.greedy_heads), "greedy")
    tried |= dict.fromkeys(_random_subsets(orders), "random")
    removed, ways = list(tried), list(tried.values())
    worst = int(np.argmax(_incompleteness(chosen_on, circuit, removed)))
    random = np.array([way == "random" for way in ways])
    nothing, everything, *losses = _mean_losses(tested_on, [*_without(circuit, removed), *_without(chosen_on, removed)])

    def statistic(circuits: np.ndarray, models: np.ndarray, none: np.ndarray, full: np.ndarray) -> np.ndarray:
        """Return (draw, 3 x subset and the mean over random ones)."""
        own, rest = (np.asarray(faithfulness(part, none[:, None], full[:, None])) for part in (circuits, models))
        apart = np.abs(own - rest)
        mean = apart[:, random].mean(axis=1, keepdims=True) if random.any() else np.zeros((len(own), 1))
        return np.concatenate([own, rest, apart, mean], axis=1)

    halves = np.split(np.stack(losses, axis=1), 2, axis=1)
    interval = bootstrap_statistic(statistic, *halves, nothing, everything, **bootstrap)
    values, low, high = (np.asarray(end) for end in (interval.estimate, interval.low, interval.high))
    count = len(tried)
    rows: list[list[Any]] = []
    for row, (subset, way) in enumerate(tried.items()):
        apart = [end[2 * count + row] for end in (values, low, high)]
        rows.append([way, len(subset), _named(subset, circuit), values[row], values[count + row], *apart])
    minimality = _minimality(chosen_on, tested_on, circuit, orders, bootstrap)
    idle = minimality.loc[~(minimality["minimality_low"] > 0), "head"].tolist()
    summary = {
        "random": int(random.sum()),
        "greedy": ways.count("greedy"),
        "mean": plain_interval(interval, 3 * count) if random.any() else None,
        "worst": {
            **plain_interval(interval, 2 * count + worst),
            "how": ways[worst],
            "removed": _named(removed[worst], circuit).split(),
        },
        "orders": len(orders),
        "not_minimal": idle,
    }
    return summary, pd.DataFrame(rows, columns=SUBSET_COLUMNS), minimality


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


def _incompleteness(kept: KeptHeads, circuit: Sequence[HeadId], subsets: Sequence[Heads]) -> np.ndarray:
    """Return |F(C - K) - F(M - K)| of each K on the images of `kept`."""
    sets = [*_without(circuit, subsets), *_without(kept, subsets)]
    nothing, everything, *losses = kept.losses([NOTHING, kept.everything, *sets], "subsets")
    own, rest = np.split(mean_faithfulness(np.stack(losses), nothing, everything), 2)
    return np.abs(own - rest)


def _without(heads: Sequence[HeadId] | KeptHeads, subsets: Sequence[Heads]) -> list[Heads]:
    whole = heads.everything if isinstance(heads, KeptHeads) else frozenset(heads)
    return [whole - removed for removed in subsets]


def _mean_losses(kept: KeptHeads, sets: Sequence[Heads]) -> np.ndarray:
    """Return the loss (2 + set, sample) of nothing, everything and `sets`, over all timesteps."""
    return kept.losses([NOTHING, kept.everything, *sets], "subsets").mean(axis=2)


def _minimality(
    chosen_on: KeptHeads,
    tested_on: KeptHeads,
    circuit: Sequence[HeadId],
    orders: Sequence[Sequence[HeadId]],
    bootstrap: dict[str, Any],
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
    with_it, without = np.split(np.stack(tested, axis=1), 2, axis=1)
    interval = bootstrap_statistic(
        lambda kept, lost, none, full: (
            faithfulness(kept, none[:, None], full[:, None]) - faithfulness(lost, none[:, None], full[:, None])
        ),
        with_it,
        without,
        none,
        full,
        **bootstrap,
    )
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
