"""Whether the gradients of a network are slopes of what it computes, tried before they are used. Ours.

Under no_grad or inference mode, behind detach, in a function with a gradient of its own, a part of a network lets no
gradient through, or another one, while others go round it: estimates made of these are wrong without a sign. So the
heads of all sites are moved together, and the change of the prediction is compared with what gradients say of it. What
rounds its input to a few values passes for a network of low precision.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# By which share of the way to nothing all heads are moved at a time, and in how many steps to either side.
STEP, STEPS = 0.05, (-2, -1, 0, 1, 2)
# Weights of these predictions in the slope, a central difference of the fourth order, and in a difference that is 0 of
# anything smooth and has the rounding of single predictions left, in standard deviations of which it is SPREAD.
SLOPE, ROUNDING = (1 / 12, -8 / 12, 0, 8 / 12, -1 / 12), (1, -4, 6, -4, 1)
SPREAD = math.hypot(*ROUNDING)


def slope_of(moved: Callable[[float], Float[Tensor, "sample *shape"]]) -> tuple[Float[Tensor, "sample *shape"], float]:
    """Return the derivative of the prediction `moved` by the share that heads are moved, at 0, in float64, and its
    error by rounding, of its size."""
    predictions = [moved(step * STEP).double() for step in STEPS]
    slope = sum(weight / STEP * each for weight, each in zip(SLOPE, predictions, strict=True))
    left = sum(weight * each for weight, each in zip(ROUNDING, predictions, strict=True))
    assert isinstance(slope, Tensor)
    assert isinstance(left, Tensor)
    rounding = float(left.norm()) / SPREAD * math.hypot(*SLOPE) / STEP
    return slope, rounding / max(float(slope.norm()), torch.finfo(torch.float32).tiny)


def disagreement(
    slope: Float[Tensor, "sample *shape"],
    probes: Sequence[Float[Tensor, "sample *shape"]],
    told: Sequence[Float[Tensor, "sample"]],
) -> float:
    """Return how far gradients are from `slope`, of its size: 0 where they agree, 1 where they are nothing.

    `probes` are random signs v for every number of the prediction, `told` what gradients say that <v, prediction>
    changes by: the mean square of what is missing of <v, slope> is that of what is missing of the slope.
    """
    missing = [
        (probe.double() * slope).flatten(1).sum(1) - found.double() for probe, found in zip(probes, told, strict=True)
    ]
    size = slope.square().sum() * len(probes)
    return float((torch.stack(missing).square().sum() / size).sqrt()) if size > 0 else 0.0
