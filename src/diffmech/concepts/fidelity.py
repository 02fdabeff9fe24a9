"""Do scores predict what removing weights does? Predicted against actual change of J, over random sets of weights.

Published for CAD (arXiv 2412.02542), at 1,000 random ablations: Pearson r = 0.506 (from a secondary source). Here each
set is of equally many weights of the edited groups, the prediction is the sum of their scores, and both are of the very
same points, so that r says how linear J is and nothing of how far one image is like another. The interval is a
bootstrap over sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from diffmech.artifacts import progress
from diffmech.concepts.gradients import gradients
from diffmech.concepts.groups import Weight
from diffmech.concepts.masks import Mask, applied
from diffmech.concepts.objectives import Points, objective
from diffmech.config.studies.concepts import Order
from diffmech.errors import ConfigError
from diffmech.models.denoiser import Denoiser
from diffmech.randomness import generator
from diffmech.statistics.bootstrap import Interval, bootstrap_statistic

ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class Fidelity:
    """Actual and predicted falls of J, `(set,)`, for scores of each order, and J itself."""

    actual: np.ndarray
    predicted: dict[Order, np.ndarray]
    intact: float


def fidelity(
    denoiser: Denoiser,
    points: Points,
    among: Sequence[Weight],
    *,
    masks: int,
    count: int,
    seed: int,
    batch_size: int,
    show: bool = False,
) -> Fidelity:
    """Return what is predicted and what happens where `masks` random sets of `count` weights are set to 0."""
    sizes = [weight.parameter.numel() for weight in among]
    if count > sum(sizes):
        raise ConfigError(
            f"concepts.fidelity.weights: {count} are more than the {sum(sizes)} weights of the edited groups; give less"
        )
    found = gradients(denoiser, points, among, batch_size=batch_size, curvature=True, seed=seed)
    scores = {
        order: np.concatenate(
            [found.scores([weight], order)[weight.name].reshape(-1).double().numpy() for weight in among]
        )
        for order in ORDERS
    }
    intact = float(objective(denoiser, points, batch_size=batch_size).mean())
    ends = np.cumsum(sizes)
    actual, predicted = np.empty(masks), {order: np.empty(masks) for order in ORDERS}
    for number in progress(range(masks), "fidelity", show=show):
        chosen = np.sort(generator(seed, "fidelity", number).choice(ends[-1], count, replace=False))
        parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
        mask = Mask.of(
            {
                weight.name: part - end + size
                for weight, part, end, size in zip(among, parts, ends, sizes, strict=True)
                if len(part)
            }
        )
        with applied(denoiser, mask):
            actual[number] = intact - objective(denoiser, points, batch_size=batch_size).mean()
        for order in ORDERS:
            predicted[order][number] = scores[order][chosen].sum()
    return Fidelity(actual, predicted, intact)


def pearson(first: np.ndarray, second: np.ndarray, *, draws: int, confidence: float, seed: int) -> Interval:
    """Return Pearson's r of two measurements `(set,)` and its bootstrap interval over sets."""
    x, y = ((values - values.mean()) / (values.std() or 1.0) for values in (first, second))

    def r(mx: np.ndarray, my: np.ndarray, xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
        return (xy - mx * my) / np.sqrt((xx - mx**2) * (yy - my**2))

    means = (x, y, x**2, y**2, x * y)
    return bootstrap_statistic(r, *means, draws=draws, confidence=confidence, seed=seed, method="percentile")
