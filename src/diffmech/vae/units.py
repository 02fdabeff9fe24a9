"""Whether a unit responds to one factor or to several: monosemantic or polysemantic.

How much of a unit's variance needs a factor is E (change)^2 / 2 variance over pairs of images that differ in it alone:
the total-order index of Sobol by the estimator of Jansen 1999, for several outputs (the places of a channel) by the sum
of their variances as in Lamboni et al. 2011. Ours: the new value of a factor always differs, which makes the index of a
factor of few values somewhat larger, all units alike; and what is made of the indices. A unit's *shares* p are its
indices over their sum, and its *participation ratio* 1 / sum p^2 says to how many factors it responds, in effect: 1 to
one alone, and to all alike their number.

Squares are shares of variance, which is why a unit that follows one factor and shows a trace of four others counts as
one of that factor: traces of a fifth of its change leave a ratio of 1.3, and with absolute changes it would be 2.8.
Factors are not weighed by how much they change the layer as a whole: that makes all units polysemantic by factors that
a network hardly keeps. What a factor of many pixels does to any unit is told by the second of two nulls, which ask
whether a ratio is small by chance:

- factors *permuted* over pairs: the unit responds to pairs as it does, whatever changes in them;
- *untrained* twins: the ratios of all units of the layer in networks of the same form with fresh weights, on the same
  pairs: what convolutions and the data make of a unit, without any learning.

A unit is called monosemantic where the larger of both p-values, corrected over all units of the VAE (Benjamini &
Hochberg 1995), is at most alpha and its ratio is below `SEVERAL` = 2, polysemantic where it is not, and silent where it
changes in fewer than `QUIET` of the pairs: what a rectified unit does for a handful of images is of one factor by
chance, and in untrained networks more often than in trained ones. With one factor alone every ratio is 1 and no p-value
is small.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffmech.randomness import generator
from diffmech.statistics.multiplicity import benjamini_hochberg
from diffmech.statistics.permutation import permutation_p

SEVERAL = 2.0  # factors, in effect, from which on a unit does not respond to one alone
QUIET = 0.1  # share of pairs below which a unit is silent
MONOSEMANTIC, POLYSEMANTIC, SILENT = "monosemantic", "polysemantic", "silent"


@dataclass(frozen=True)
class Activity:
    """How much the units of one layer change, root mean square over places in units of their spread.

    `own` is `(factor, pair, unit)`; `compared` `(factor, unit)` and, of untrained twins, `twins` `(twin, factor, unit)`
    are root mean squares over the pairs that these have seen, in a share `twins_changing` of which theirs change.
    """

    own: np.ndarray
    compared: np.ndarray
    twins: np.ndarray
    twins_changing: np.ndarray

    @property
    def silent(self) -> np.ndarray:
        """Which units are silent, `(unit,)`."""
        return np.asarray((self.own > 0).mean((0, 1)) < QUIET)


@dataclass(frozen=True)
class Units:
    """What the units of one layer respond to: `shares` `(factor, unit)`, and `(unit,)` all else. NaN of silent units,
    and `p_untrained` NaN where all units of the twins are silent: those are not tested."""

    shares: np.ndarray
    participation: np.ndarray
    p_permuted: np.ndarray
    p_untrained: np.ndarray
    p_corrected: np.ndarray
    kind: np.ndarray


def units_of(layers: Sequence[Activity], *, permutations: int, alpha: float, seed: int) -> list[Units]:
    """Return what the units of all layers of one VAE respond to, each layer's in their order."""
    own = [np.square(layer.own) for layer in layers]
    shares = [np.where(layer.silent, np.nan, _shares(each.mean(1))) for layer, each in zip(layers, own, strict=True)]
    ratios = np.concatenate([participation(each) for each in shares])
    null = permuted_participation(np.concatenate(own, axis=2), permutations=permutations, seed=seed)
    p_permuted = np.asarray(permutation_p(ratios, null, alternative="less"))
    p_untrained = np.concatenate([_p_untrained(layer) for layer in layers])
    corrected = benjamini_hochberg(np.maximum(p_permuted, p_untrained))
    single = (corrected <= alpha) & (ratios < SEVERAL)
    kind = np.where(np.isnan(ratios), SILENT, np.where(single, MONOSEMANTIC, POLYSEMANTIC))
    ends = np.cumsum([each.shape[1] for each in shares])[:-1]
    columns = (np.split(each, ends) for each in (ratios, p_permuted, p_untrained, corrected, kind))
    return [Units(*each) for each in zip(shares, *columns, strict=True)]


def shares_of(activity: np.ndarray) -> np.ndarray:
    """Return the shares `(..., factor, unit)` of root mean squares `(..., factor, unit)`, NaN of silent units."""
    return _shares(np.square(activity))


def participation(shares: np.ndarray) -> np.ndarray:
    """Return 1 / sum of squares over factors `(..., unit)` of shares `(..., factor, unit)`."""
    return np.asarray(1 / np.square(shares).sum(-2))


def permuted_participation(squares: np.ndarray, *, permutations: int, seed: int) -> np.ndarray:
    """Return participation ratios `(permutation, unit)` where the factors of pairs are permuted, for all units alike.

    `squares` `(factor, pair, unit)` are those of activities, of units of any layers.
    """
    factors, pairs, units = squares.shape
    values = squares.reshape(-1, units).astype(np.float64)
    labels = np.repeat(np.arange(factors, dtype=np.int8), pairs)
    permuted = generator(seed, "permuted factors", factors, pairs).permuted(np.tile(labels, (permutations, 1)), axis=1)
    sums = np.stack([(permuted == factor).astype(np.float64) @ values for factor in range(factors)], axis=1)
    return participation(_shares(sums))


def _p_untrained(layer: Activity) -> np.ndarray:
    """Return the p-values `(unit,)` of participation ratios so small among those of all units of the twins."""
    own = participation(shares_of(layer.compared))
    twins = participation(shares_of(layer.twins))
    twins = twins[(layer.twins_changing.mean(1) >= QUIET) & ~np.isnan(twins)]
    if not twins.size:
        return np.full(own.shape, np.nan)
    return np.asarray(permutation_p(own, np.tile(twins[:, None], len(own)), alternative="less"))


def _shares(responses: np.ndarray) -> np.ndarray:
    """Return responses `(..., factor, unit)` over their sum, NaN of units that are silent."""
    totals = responses.sum(-2, keepdims=True)
    return np.divide(responses, totals, out=np.full(responses.shape, np.nan), where=totals > 0)
