"""Channels-last weights for as long as convolutions run on a CPU.

There they need no reordering of what goes in and out, which makes a pass of the bundled U-Net a sixth faster. Values
stay; sums round differently, by some 1e-7 of the output.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Keep the weights (out, in, y, x) of `model` that lie on a CPU channels last inside this context."""
    before = {weight: weight.data for weight in model.parameters() if weight.dim() == 4 and weight.device.type == "cpu"}
    try:
        for weight, data in before.items():
            weight.data = _last(data)
        yield
    finally:
        for weight, data in before.items():
            weight.data = data


def _last(weight: Tensor) -> Tensor:
    _, channels, height, width = weight.shape
    if channels == 1:  # lies both ways; the strides tell torch which one is meant
        return weight.contiguous().as_strided(weight.shape, (height * width, 1, width, 1))
    return weight.contiguous(memory_format=torch.channels_last)
