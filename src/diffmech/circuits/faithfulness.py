"""Faithfulness: how much of what all heads contribute a set of kept heads still brings.

With L the mean denoising loss over images and timesteps,

    F(C) = (L(nothing kept) - L(C)) / (L(nothing kept) - L(everything kept)):

0 is as bad as no head at all, 1 the full model; a set can exceed 1 where it leaves out heads that do harm. The
denominator is what there is to explain; where it is not positive, heads do not help and F means nothing: it is NaN.
Contribution is that denominator in percent of the full model's loss. Intervals are paired bootstraps over
images of these functions of means. Where the denominator does not surely differ from 0, no interval bounds a ratio
(Fieller 1954): F is then not given, at a timestep as overall. After Wang et al. 2023 and Hanna et al. 2024, who compare
task metrics; the form with the denoising loss is ours.
"""

from typing import Any

import numpy as np

from diffmech.statistics.bootstrap import Interval, bootstrap_mean, bootstrap_statistic
from diffmech.statistics.permutation import max_statistic_p, sign_flip_permutation


def faithfulness(
    kept: np.ndarray | float, nothing: np.ndarray | float, everything: np.ndarray | float
) -> np.ndarray | float:
    """Return F of mean losses, elementwise; NaN where keeping everything does not lower the loss."""
    explained = np.asarray(nothing, dtype=np.float64) - everything
    gained = np.asarray(nothing, dtype=np.float64) - kept
    gained, explained = np.broadcast_arrays(gained, explained)
    result = np.full(gained.shape, np.nan)
    np.divide(gained, explained, out=result, where=explained > 0)
    return float(result) if result.ndim == 0 else result


def with_all(losses: np.ndarray) -> np.ndarray:
    """Return `losses` (..., timestep) with their mean over timesteps put before them, (..., 1 + timestep)."""
    return np.concatenate([losses.mean(axis=-1, keepdims=True), losses], axis=-1)


def faithfulness_interval(
    sets: np.ndarray, nothing: np.ndarray, everything: np.ndarray, *, draws: int, confidence: float, seed: int
) -> Interval:
    """Return F (set,) with intervals; `sets` is (set, sample), the other two (sample,)."""
    return bootstrap_statistic(
        lambda kept, none, full: faithfulness(kept, none[:, None], full[:, None]),
        sets.T,
        nothing,
        everything,
        draws=draws,
        confidence=confidence,
        seed=seed,
    )


def bounded(
    nothing: np.ndarray, everything: np.ndarray, *, draws: int, confidence: float, seed: int
) -> np.ndarray | bool:
    """Return where heads surely help (...), so that an interval bounds F; losses are (sample, ...).

    False for fewer than two images, of which nothing is sure.
    """
    contributed = bootstrap_mean(nothing - everything, draws=draws, confidence=confidence, seed=seed)
    found = np.asarray(contributed.low) > 0
    return bool(found) if found.ndim == 0 else found


def contribution_interval(
    nothing: np.ndarray, everything: np.ndarray, *, draws: int, confidence: float, seed: int
) -> Interval:
    """Return by how many percent the loss (sample,) rises when no head is kept, with its interval."""
    return bootstrap_statistic(
        lambda none, full: 100 * (none / full - 1), nothing, everything, draws=draws, confidence=confidence, seed=seed
    )


def drops(
    without: np.ndarray,
    circuit: np.ndarray,
    nothing: np.ndarray,
    everything: np.ndarray,
    *,
    draws: int,
    confidence: float,
    seed: int,
) -> Interval:
    """Return by how much F falls (head, 1 + timestep) when each head alone is taken out of the circuit, with intervals.

    `without` is (head, sample, timestep), the others (sample, timestep). The first column is over all timesteps, the
    others hold F of one timestep each, NaN where heads do not surely help at that timestep.
    """
    settings: dict[str, Any] = {"draws": draws, "confidence": confidence, "seed": seed}
    nothing, everything = with_all(nothing), with_all(everything)
    found = bootstrap_statistic(
        lambda lost, kept, none, full: (
            faithfulness(kept[:, None], none[:, None], full[:, None]) - faithfulness(lost, none[:, None], full[:, None])
        ),
        np.moveaxis(with_all(without), 0, 1),
        with_all(circuit),
        nothing,
        everything,
        **settings,
    )
    known = np.asarray(bounded(nothing, everything, **settings))
    return Interval(*(np.where(known, end, np.nan) for end in (found.estimate, found.low, found.high)))


def mean_faithfulness(sets: np.ndarray, nothing: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """Return F (set,) without intervals; `sets` is (set, sample, timestep), the other two (sample, timestep)."""
    return np.asarray(faithfulness(sets.mean(axis=(1, 2)), nothing.mean(), everything.mean()))


def surely_needed(without: np.ndarray, circuit: np.ndarray, *, permutations: int, seed: int) -> np.ndarray:
    """Return p-values (head, 1 + timestep) that the loss changes when each head alone is taken out of the circuit.

    `without` is (head, sample, timestep), `circuit` (sample, timestep). Random signs of the paired differences over
    images, two-sided, corrected over the heads (first column) and over heads x timesteps (the others) by the maximum of
    abs(mean) / root mean square. 1 where a head changes nothing. Westfall & Young 1993; the statistic ours.
    """
    difference = np.moveaxis(with_all(without) - with_all(circuit), 0, 1)
    size = np.sqrt((difference**2).mean(axis=0))
    scaled = np.divide(difference, size, out=np.zeros_like(difference), where=size > 0)
    observed, null = sign_flip_permutation(np.abs, scaled, permutations=permutations, seed=seed)
    families = [slice(0, 1), slice(1, None)]
    values = np.asarray(observed)
    return np.concatenate([max_statistic_p(values[:, own], null[:, :, own]) for own in families], axis=1)
