"""How much of what a factor does to an output goes through some units of a layer (Pearl 2001; Robins & Greenland 1992).

Two inputs differ in one factor: a control x0 and a treated x1. Y(t, m) is an output of the network for the input x_t
with the units, the mediator M, set to what they are for x_m:

- total effect TE = Y(1, 1) - Y(0, 0);
- natural direct effect NDE = Y(1, 0) - Y(0, 0): the input changes, and the units stay as they were;
- natural indirect effect NIE = Y(0, 1) - Y(0, 0): the units alone change as if the input had;
- interaction = Y(1, 1) - Y(1, 0) - Y(0, 1) + Y(0, 0): what needs both (VanderWeele 2014, mediated interaction).

TE = NDE + NIE + interaction. All four outputs are computed, Y(t, t) by patching an input with its own activations, so
that the sum is a check of the patches and of nothing else. Units of all of a layer leave no direct path: NDE = 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from diffmech.errors import ModelError
from diffmech.vae.patching import activations, patched

Feature = Callable[[Tensor], Tensor]  # output of the network (sample, ...) -> a number for each (sample,)


@dataclass(frozen=True)
class Mediation:
    """Effects of every pair, `(sample,)`, in the unit of the feature; `residual` is TE - NDE - NIE - interaction."""

    total: np.ndarray
    direct: np.ndarray
    indirect: np.ndarray
    interaction: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """What the three parts leave of the total effect: rounding alone."""
        return self.total - self.direct - self.indirect - self.interaction


def mediation(
    network: nn.Sequential,
    layer: str,
    units: Sequence[int] | None,
    control: Tensor,
    treated: Tensor,
    feature: Feature,
) -> Mediation:
    """Return the effects of turning `control` into `treated` inputs, both `(sample, ...)`, on a feature of the output.

    `units` are those of the layer that mediate, all where it is None, and none of them gives NIE = 0. Raises ModelError
    for inputs that are no pairs, and as `diffmech.vae.patching.patched` does.
    """
    if control.shape != treated.shape:
        raise ModelError(
            f"control inputs of shape {tuple(control.shape)} and treated ones of {tuple(treated.shape)} are no pairs; "
            "give one of each for every sample"
        )
    inputs = (control, treated)
    mediator = [activations(network, layer, each) for each in inputs]

    def outcome(treatment: int, mediated: int) -> np.ndarray:
        output = patched(network, layer, inputs[treatment], mediator[mediated], units)
        return feature(output).double().cpu().numpy()

    both, direct, indirect, neither = outcome(1, 1), outcome(1, 0), outcome(0, 1), outcome(0, 0)
    with torch.no_grad():
        total = feature(network(treated)).double() - feature(network(control)).double()
    return Mediation(
        total=total.cpu().numpy(),
        direct=direct - neither,
        indirect=indirect - neither,
        interaction=both - direct - indirect + neither,
    )
