"""Faithfulness: how much of what all heads contribute a set of kept heads still brings.

With L the mean denoising loss over images and timesteps,

    F(C) = (L(nothing kept) - L(C)) / (L(nothing kept) - L(everything kept)):

0 is as bad as no head at all, 1 the full model; a set can exceed 1 where it leaves out heads that do harm. The
denominator is what there is to explain; where it is not positive, heads do not help and F means nothing: it is NaN.
Contribution is that denominator in percent of the full model's loss. All are ratios of means over images, and so are
their intervals (Fieller 1954): where the denominator does not surely differ from 0, none bounds F, at a timestep as
overall, and none is given. After Wang et al. 2023 and Hanna et al. 2024, who compare
task metrics; the form with the denoising loss is ours.
"""

import numpy as np
from jaxtyping import Float

from diffmech.statistics.bootstrap import Interval
from diffmech.statistics.permutation import max_statistic_p, sign_flip_permutation
from diffmech.statistics.ratios import ratio_interval


def faithfulness(
    kept: Float[np.ndarray, "..."] | float,
    nothing: Float[np.ndarray, "..."] | float,
    everything: Float[np.ndarray, "..."] | float,
) -> Float[np.ndarray, "..."] | float:
    """Return F of mean losses, elementwise; NaN where keeping everything does not lower the loss."""
    explained = np.asarray(nothing, dtype=np.float64) - everything
    gained = np.asarray(nothing, dtype=np.float64) - kept
    gained, explained = np.broadcast_arrays(gained, explained)
    result = np.full(gained.shape, np.nan)
    np.divide(gained, explained, out=result, where=explained > 0)
    return float(result) if result.ndim == 0 else result


def with_all(losses: Float[np.ndarray, "*shape timestep"]) -> Float[np.ndarray, "*shape timestep+1"]:
    """Return `losses` with their mean over timesteps put before them."""
    return np.concatenate([losses.mean(axis=-1, keepdims=True), losses], axis=-1)


def faithfulness_interval(
    sets: Float[np.ndarray, "set sample *shape"],
    nothing: Float[np.ndarray, "sample *shape"],
    everything: Float[np.ndarray, "sample *shape"],
    *,
    confidence: float,
) -> Interval:
    """Return F of each set with intervals."""
    gained = np.moveaxis(nothing - sets, 0, 1)
    return ratio_interval(gained, (nothing - everything)[:, None], confidence=confidence)


def difference_interval(
    first: Float[np.ndarray, "#set sample *shape"],
    second: Float[np.ndarray, "#set sample *shape"],
    nothing: Float[np.ndarray, "sample *shape"],
    everything: Float[np.ndarray, "sample *shape"],
    *,
    confidence: float,
) -> Interval:
    """Return F of the sets `first` less F of `second`."""
    gained = np.moveaxis(second - first, 0, 1)
    return ratio_interval(gained, (nothing - everything)[:, None], confidence=confidence)


def contribution_interval(
    nothing: Float[np.ndarray, "sample"], everything: Float[np.ndarray, "sample"], *, confidence: float
) -> Interval:
    """Return by how many percent the loss rises when no head is kept, with its interval."""
    return ratio_interval(100 * (nothing - everything), everything, confidence=confidence)


def drops(
    without: Float[np.ndarray, "head sample timestep"],
    circuit: Float[np.ndarray, "sample timestep"],
    nothing: Float[np.ndarray, "sample timestep"],
    everything: Float[np.ndarray, "sample timestep"],
    *,
    confidence: float,
) -> Interval:
    """Return by how much F falls (head, 1 + timestep) when each head alone is taken out of the circuit, with intervals.

    The first column is over all timesteps, the others hold F of one timestep each, NaN where heads do not surely help
    at that timestep.
    """
    found = difference_interval(
        with_all(circuit)[None], with_all(without), with_all(nothing), with_all(everything), confidence=confidence
    )
    known = np.isfinite(found.low)
    return Interval(*(np.where(known, end, np.nan) for end in (found.estimate, found.low, found.high)))


def mean_faithfulness(
    sets: Float[np.ndarray, "set sample timestep"],
    nothing: Float[np.ndarray, "sample timestep"],
    everything: Float[np.ndarray, "sample timestep"],
) -> Float[np.ndarray, "set"]:
    """Return F of each set without intervals."""
    return np.asarray(faithfulness(sets.mean(axis=(1, 2)), nothing.mean(), everything.mean()))


def surely_needed(
    without: Float[np.ndarray, "head sample timestep"],
    circuit: Float[np.ndarray, "sample timestep"],
    *,
    permutations: int,
    seed: int,
) -> Float[np.ndarray, "head timestep+1"]:
    """Return p-values (head, 1 + timestep) that the loss changes when each head alone is taken out of the circuit.

    Random signs of the paired differences over images, two-sided, corrected over the heads (first column) and over
    heads x timesteps (the others) by the maximum of abs(mean) / root mean square. 1 where a head changes nothing.
    Westfall & Young 1993; the statistic ours.
    """
    difference = np.moveaxis(with_all(without) - with_all(circuit), 0, 1)
    size = np.sqrt((difference**2).mean(axis=0))
    scaled = np.divide(difference, size, out=np.zeros_like(difference), where=size > 0)
    observed, null = sign_flip_permutation(np.abs, scaled, permutations=permutations, seed=seed)
    families = [slice(0, 1), slice(1, None)]
    values = np.asarray(observed)
    return np.concatenate([max_statistic_p(values[:, own], null[:, :, own]) for own in families], axis=1)
