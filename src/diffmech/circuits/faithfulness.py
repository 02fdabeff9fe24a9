"""Faithfulness: how much of what all heads contribute a set of kept heads still brings.

With L the mean denoising loss over images and timesteps,

    F(C) = (L(nothing kept) - L(C)) / (L(nothing kept) - L(everything kept)):

0 is as bad as no head at all, 1 the full model; a set can exceed 1 where it leaves out heads that do harm. The
denominator is what there is to explain; where it is not positive, heads do not help and F means nothing: it is NaN.
Contribution is that denominator in percent of the full model's loss. Intervals are paired bootstraps over
images of these functions of means. After Wang et al. 2023 and Hanna et al. 2024, who compare task metrics; the form
with the denoising loss is ours.
"""

from collections.abc import Sequence

import numpy as np

from diffmech.statistics.bootstrap import Interval, bootstrap_statistic


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
    others hold F of one timestep each, NaN where heads do not help at that timestep.
    """
    return bootstrap_statistic(
        lambda lost, kept, none, full: (
            faithfulness(kept[:, None], none[:, None], full[:, None]) - faithfulness(lost, none[:, None], full[:, None])
        ),
        np.moveaxis(with_all(without), 0, 1),
        with_all(circuit),
        with_all(nothing),
        with_all(everything),
        draws=draws,
        confidence=confidence,
        seed=seed,
    )


def mean_faithfulness(sets: np.ndarray, nothing: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """Return F (set,) without intervals; `sets` is (set, sample, timestep), the other two (sample, timestep)."""
    return np.asarray(faithfulness(sets.mean(axis=(1, 2)), nothing.mean(), everything.mean()))


def needless(drop_low: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return which heads a circuit could do without, as far as can be told: the drop's interval is not above 0."""
    return ~(np.asarray(drop_low) > 0)
