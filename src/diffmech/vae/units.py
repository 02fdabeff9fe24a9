"""Whether a unit responds to one factor or to several: monosemantic or polysemantic. Ours.

A unit's response to a factor is its mean activity over pairs of images that differ in the factor alone
(`diffmech.vae.factor_study`), over the mean of that over all units of the layer: so factors are weighed alike, and one
that changes more pixels counts no more. A unit's *shares* p are its responses over their sum, and its *participation
ratio* 1 / sum p^2 says to how many factors it responds, in effect: 1 to one alone, and to all alike their number.

A ratio that is small may be so by chance. Two nulls ask whether it is:

- factors *permuted* over pairs: the unit responds to pairs as it does, whatever changes in them;
- *untrained* twins: the ratios of all units of the layer in networks of the same form with fresh weights, on the same
  pairs: what convolutions and the data make of a unit, without any learning.

A unit is called monosemantic where the larger of both p-values, corrected over all units of the VAE (Benjamini &
Hochberg 1995), is at most alpha and its ratio is below `SEVERAL` = 2, polysemantic where it is not, and silent where it
gives the same for all images.
"""

from dataclasses import dataclass

import numpy as np

from diffmech.randomness import generator
from diffmech.statistics.multiplicity import benjamini_hochberg
from diffmech.statistics.permutation import permutation_p

SEVERAL = 2.0  # factors, in effect, from which on a unit does not respond to one alone
MONOSEMANTIC, POLYSEMANTIC, SILENT = "monosemantic", "polysemantic", "silent"


@dataclass(frozen=True)
class Responses:
    """What units of one layer respond to: `shares` `(factor, unit)`, `participation`, `p_permuted` and `p_untrained`
    `(unit,)`, NaN of units that are silent."""

    shares: np.ndarray
    participation: np.ndarray
    p_permuted: np.ndarray
    p_untrained: np.ndarray


def responses(
    activity: np.ndarray, compared: np.ndarray, twins: np.ndarray, *, permutations: int, seed: int
) -> Responses:
    """Return what the units of a layer respond to.

    `activity` is `(factor, pair, unit)`; `compared` `(factor, unit)` and `twins` `(twin, factor, unit)` are the mean
    activity of the units and of those of untrained twins on the pairs that both have seen. `p_untrained` is NaN where
    all units of the twins are silent.
    """
    mean = activity.mean(1)
    shares = shares_of(mean)
    ratio = participation(shares)
    null = permuted_participation(activity, permutations=permutations, seed=seed)
    of_twins = np.concatenate([participation(shares_of(twin)) for twin in twins])
    of_twins = of_twins[np.isfinite(of_twins)]
    own = participation(shares_of(compared))
    p_untrained = permutation_p(own, np.tile(of_twins[:, None], len(own)), alternative="less")
    return Responses(shares, ratio, np.asarray(permutation_p(ratio, null, alternative="less")), np.asarray(p_untrained))


def shares_of(activity: np.ndarray) -> np.ndarray:
    """Return the shares `(..., factor, unit)` of mean activities `(..., factor, unit)`, NaN of units that are silent."""
    relative = _relative(activity, activity.mean(-1, keepdims=True))
    totals = relative.sum(-2, keepdims=True)
    return np.divide(relative, totals, out=np.full(relative.shape, np.nan), where=totals > 0)


def participation(shares: np.ndarray) -> np.ndarray:
    """Return 1 / sum of squares over factors `(..., unit)` of shares `(..., factor, unit)`."""
    return np.asarray(1 / np.square(shares).sum(-2))


def permuted_participation(activity: np.ndarray, *, permutations: int, seed: int) -> np.ndarray:
    """Return participation ratios `(permutation, unit)` where the factors of the pairs of `activity`
    `(factor, pair, unit)` are permuted. Pairs of all factors change places, after factors are weighed alike."""
    factors, pairs, units = activity.shape
    relative = _relative(activity, activity.mean((1, 2), keepdims=True)).reshape(-1, units).astype(np.float32)
    labels = np.repeat(np.arange(factors, dtype=np.int8), pairs)
    permuted = generator(seed, "permuted factors", factors, pairs).permuted(np.tile(labels, (permutations, 1)), axis=1)
    sums = np.stack([(permuted == factor).astype(np.float32) @ relative for factor in range(factors)], axis=1)
    totals = sums.sum(1, keepdims=True)
    shares = np.divide(sums, totals, out=np.full(sums.shape, np.nan, dtype=np.float32), where=totals > 0)
    return participation(shares.astype(np.float64))


def kinds(ratios: np.ndarray, p: np.ndarray, *, alpha: float) -> tuple[np.ndarray, list[str]]:
    """Return corrected p-values and kinds of all units of a VAE from their participation ratios and p-values `(unit,)`.

    A unit without a ratio is silent; one without a p-value was not tested, and is not called monosemantic.
    """
    corrected = benjamini_hochberg(np.where(np.isnan(ratios), np.nan, p))
    single = (corrected <= alpha) & (ratios < SEVERAL)
    found = np.where(np.isnan(ratios), SILENT, np.where(single, MONOSEMANTIC, POLYSEMANTIC))
    return corrected, [str(kind) for kind in found]


def _relative(activity: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return activity over the mean of its factor, 0 where the factor changes no unit of the layer."""
    return np.divide(activity, mean, out=np.zeros(activity.shape), where=mean > 0)
