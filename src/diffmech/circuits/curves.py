"""Faithfulness over the number of heads kept, for several rankings of the heads, and the areas of these curves.

A curve keeps the first k heads of a ranking, from none to all, at the same sizes and on the same images whatever the
ranking: exact effects of single heads, attribution, and chance, which is orders drawn without looking. With F over the
share k / N of heads, CPR is the area under the curve (higher is better) and CMD that between the curve and 1 (lower is
better; they differ where F exceeds 1): Mueller et al. 2025 (MIB), there over edges; heads, the sizes and the trapezoids
between them are ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from diffmech.attention.sites import HeadId
from diffmech.circuits.faithfulness import faithfulness
from diffmech.circuits.verdict import plain_interval
from diffmech.interventions.targets import Heads
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import bootstrap_statistic

CURVE_COLUMNS = ["ranking", "size", "faithfulness", "low", "high", "drawn"]
CHANCE, CIRCUIT, RANDOM = "chance", "circuit", "random circuits"
AREAS = ("cpr", "cmd")


def curve_sizes(total: int) -> list[int]:
    """Return the numbers of heads at which a curve is known: none, 1, 2, 4, 8 ... and all."""
    return sorted({0, *(1 << power for power in range(total.bit_length()) if 1 << power < total), total})


def chance_orders(heads: Sequence[HeadId], count: int, seed: int) -> list[list[HeadId]]:
    """Return `count` orders of the heads, drawn without looking."""
    source = generator(seed, "chance orders")
    return [[heads[index] for index in source.permutation(len(heads))] for _ in range(count)]


def prefixes(order: Sequence[HeadId]) -> list[Heads]:
    """Return the sets of the first heads of `order`, one per size."""
    return [frozenset(order[:size]) for size in curve_sizes(len(order))]


def areas(curve: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return CPR and CMD (..., 2) of faithfulness (..., size) at `sizes`, of which the last is all heads."""
    share = np.asarray(sizes, dtype=np.float64) / sizes[-1]
    widths = np.diff(share)

    def under(values: np.ndarray) -> np.ndarray:
        return np.asarray(((values[..., 1:] + values[..., :-1]) / 2 * widths).sum(axis=-1))

    return np.stack([under(curve), under(np.abs(1 - curve))], axis=-1)


def curve_tables(
    curves: Mapping[str, np.ndarray],
    chance: np.ndarray,
    nothing: np.ndarray,
    everything: np.ndarray,
    sizes: Sequence[int],
    *,
    draws: int,
    confidence: float,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows of the curves (CURVE_COLUMNS), and their areas by ranking, as JSON can hold them.

    `curves` are losses (size, sample) by ranking, `chance` (order, size, sample), the other two (sample,). Intervals of
    a ranking are over images. The row of chance is the mean over its orders and, as `low` and `high`, the range that
    they span; `drawn` is their number, 0 for a ranking. Areas have intervals over images, also those of chance, which
    are means over the orders; `beyond_chance` is by how much the CPR exceeds that mean, in the same images.
    """
    names = list(curves)
    stacked = np.stack([*curves.values(), *chance]).transpose(2, 0, 1)  # (sample, curve, size)

    def shares(kept: np.ndarray, none: np.ndarray, full: np.ndarray) -> np.ndarray:
        return np.asarray(faithfulness(kept, none[:, None, None], full[:, None, None]))

    def sized(kept: np.ndarray, none: np.ndarray, full: np.ndarray) -> np.ndarray:
        """Return (draw, ranking or chance, CPR, CMD and CPR beyond chance)."""
        found = areas(shares(kept, none, full), sizes)
        own = found[:, : len(names)]
        drawn = found[:, len(names) :].mean(axis=1, keepdims=True) if len(chance) else np.full_like(own[:, :1], 0)
        every = np.concatenate([own, drawn], axis=1)
        return np.concatenate([every, every[..., :1] - drawn[..., :1]], axis=-1)

    settings: dict[str, Any] = {"draws": draws, "confidence": confidence, "seed": seed}
    interval = bootstrap_statistic(shares, stacked[:, : len(names)], nothing, everything, **settings)
    ends = [np.asarray(end) for end in (interval.estimate, interval.low, interval.high)]
    rows: list[list[Any]] = [
        [name, size, *(float(end[row, column]) for end in ends), 0]
        for row, name in enumerate(names)
        for column, size in enumerate(sizes)
    ]
    if len(chance):
        drawn = np.asarray(faithfulness(chance.mean(axis=2), nothing.mean(), everything.mean()))
        bands = (drawn.mean(axis=0), drawn.min(axis=0), drawn.max(axis=0))
        rows += [
            [CHANCE, size, *(float(band[column]) for band in bands), len(chance)] for column, size in enumerate(sizes)
        ]
    area = bootstrap_statistic(sized, stacked, nothing, everything, **settings)
    found: dict[str, Any] = {}
    for row, name in enumerate([*names, CHANCE] if len(chance) else names):
        found[name] = {key: plain_interval(area, (row, column)) for column, key in enumerate(AREAS)}
        if name == CHANCE:
            found[name]["orders"] = len(chance)
        elif len(chance):
            found[name]["beyond_chance"] = plain_interval(area, (row, 2))
    return pd.DataFrame(rows, columns=CURVE_COLUMNS), found
