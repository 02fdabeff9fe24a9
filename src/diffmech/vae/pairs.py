"""Pairs of images that differ in one factor alone, in what is seen: the interventions on the input. Ours.

The image after is the image before with one factor at another value of those it takes, each (or each piece of its
intervals) equally likely. Where factors cause each other, what the mechanism would make of the change is left out
(`FactorData.change`): the effects of causes belong to the causal map.
"""

from dataclasses import dataclass

import numpy as np

from diffmech.data.factors.dataset import FactorData
from diffmech.data.factors.factor import TOLERANCE, Factor
from diffmech.errors import DataError
from diffmech.randomness import generator


@dataclass(frozen=True)
class Pairs:
    """Images float32 `(pair, channel, y, x)` before and after, and the values `(pair,)` of the factor that changes."""

    before: np.ndarray
    after: np.ndarray
    old: np.ndarray
    new: np.ndarray


def draw_pairs(data: FactorData, factor: str, count: int, *, seed: int) -> Pairs:
    """Return `count` pairs in which `factor` differs, the same for every VAE.

    They may look the same all the same, such as a square that is turned by a quarter. Raises DataError for a factor
    that takes one value only or does not exist, and as the data set does for values that it cannot show.
    """
    source = generator(seed, "pairs", factor)
    column = data.place(factor)
    samples = data.sample(count, source)
    old = samples.values[:, column]
    new = another_value(data.factors[column], old, source)
    changed = data.change(samples, factor, new)
    return Pairs(samples.images, changed.images, old, new)


def another_value(factor: Factor, values: np.ndarray, source: np.random.Generator) -> np.ndarray:
    """Return a drawn value `(sample,)` other than each of `values`; on a circular factor, ends that meet are one value.

    Raises DataError where there is no other.
    """
    several = factor.values and not same_value(factor, np.array(factor.values), factor.values[0]).all()
    if not several and not any(high > low for low, high in factor.intervals):
        raise DataError(
            f"factor {factor.name!r} takes one value only, so that no pair of images differs in it; "
            "leave it out of vae.factors"
        )
    drawn = factor.draw(len(values), source)
    while (same := same_value(factor, drawn, values)).any():
        drawn[same] = factor.draw(int(same.sum()), source)
    return drawn


def same_value(factor: Factor, values: np.ndarray, others: np.ndarray | float) -> np.ndarray:
    """Return where values `(sample,)` are the same as `others`, up to how they are written down."""
    distance = np.abs(values - others)
    if factor.period is not None:
        distance = np.minimum(distance % factor.period, factor.period - distance % factor.period)
    return np.asarray(distance <= TOLERANCE * (factor.high - factor.low or 1))
