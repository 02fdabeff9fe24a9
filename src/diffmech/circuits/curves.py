"""Faithfulness over the number of heads kept, for several rankings of the heads, and the areas of these curves.

A curve keeps the first k heads of a ranking, from none to all, at the same sizes and on the same images whatever the
ranking: exact effects of single heads, attribution, and chance, which is orders drawn without looking. With F over the
share k / N of heads, CPR is the area under the curve (higher is better) and CMD that between the curve and 1 (lower is
better; they differ where F exceeds 1): Mueller et al. 2025 (MIB), there over edges; heads, the sizes and the trapezoids
between them are ours. Both are sums of F, or of |1 - F|, with weights: ratios of means over images, with Fieller's
intervals, of which those of CMD take it as known on which side of 1 the curve lies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from diffmech.attention.sites import HeadId
from diffmech.circuits.faithfulness import faithfulness, faithfulness_interval
from diffmech.circuits.tables import CURVE
from diffmech.circuits.verdict import plain_interval
from diffmech.interventions.targets import Heads
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import Interval
from diffmech.statistics.ratios import ratio_interval

CHANCE, CIRCUIT, RANDOM = "chance", "circuit", "random circuits"


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


def trapezoids(sizes: Sequence[int]) -> Float[np.ndarray, "size"]:
    """Return the weights by which values at `sizes` add up to their area over the share of all heads."""
    widths = np.diff(np.asarray(sizes, dtype=np.float64) / sizes[-1])
    return (np.append(widths, 0) + np.append(0, widths)) / 2


def areas(
    kept: Float[np.ndarray, "curve size sample"],
    nothing: Float[np.ndarray, "sample"],
    everything: Float[np.ndarray, "sample"],
    sizes: Sequence[int],
    *,
    confidence: float,
) -> dict[str, Interval]:
    """Return CPR and CMD, by name, averaged over some curves of losses.

    Intervals are over images.
    """
    weights, explained = trapezoids(sizes), nothing - everything
    share = np.asarray(faithfulness(kept.mean(axis=2), nothing.mean(), everything.mean()))
    side = np.where(share > 1, -1.0, 1.0)
    under = np.einsum("cks,k->s", nothing - kept, weights) / len(kept)
    beside = np.einsum("cks,ck,k->s", kept - everything, side, weights) / len(kept)
    cpr, cmd = (ratio_interval(each, explained, confidence=confidence) for each in (under, beside))
    return {"cpr": cpr, "cmd": Interval(cmd.estimate, np.maximum(cmd.low, 0), cmd.high)}


def curve_tables(
    curves: Mapping[str, Float[np.ndarray, "size sample"]],
    chance: Float[np.ndarray, "order size sample"],
    nothing: Float[np.ndarray, "sample"],
    everything: Float[np.ndarray, "sample"],
    sizes: Sequence[int],
    *,
    confidence: float,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the rows of the curves (the table `circuit_curve`), and their areas by ranking, as JSON can hold them.

    `curves` are losses by ranking. Intervals of a ranking are over images. The row of chance is the mean over its
    orders and, as `low` and `high`, the range that they span; `sets` is their number, 0 for a ranking. Areas have
    intervals over images, also those of chance, which are means over the orders; `beyond_chance` is by how much the CPR
    exceeds that mean, in the same images.
    """
    rows: list[list[Any]] = []
    found: dict[str, Any] = {}
    for name, kept in curves.items():
        share = faithfulness_interval(kept, nothing, everything, confidence=confidence)
        ends = [np.asarray(end) for end in (share.estimate, share.low, share.high)]
        rows += [[name, size, *(float(end[row]) for end in ends), 0] for row, size in enumerate(sizes)]
        area = areas(kept[None], nothing, everything, sizes, confidence=confidence)
        found[name] = {key: plain_interval(each) for key, each in area.items()}
        if len(chance):
            gained = np.einsum("ks,k->s", chance.mean(axis=0) - kept, trapezoids(sizes))
            beyond = ratio_interval(gained, nothing - everything, confidence=confidence)
            found[name]["beyond_chance"] = plain_interval(beyond)
    if len(chance):
        drawn = np.asarray(faithfulness(chance.mean(axis=2), nothing.mean(), everything.mean()))
        bands = (drawn.mean(axis=0), drawn.min(axis=0), drawn.max(axis=0))
        rows += [[CHANCE, size, *(float(band[row]) for band in bands), len(chance)] for row, size in enumerate(sizes)]
        area = areas(chance, nothing, everything, sizes, confidence=confidence)
        found[CHANCE] = {key: plain_interval(each) for key, each in area.items()} | {"orders": len(chance)}
    return CURVE.frame(rows), found
