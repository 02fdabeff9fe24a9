"""How many softmaxes over keys one forward computes, counted where torch hands its operations to the kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
# Fused attention; where torch takes none, it is made of a softmax of its own.
FUSED = (
    ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    ATEN._scaled_dot_product_flash_attention.default,
    ATEN._scaled_dot_product_efficient_attention.default,
)
PLAIN = (ATEN._softmax.default, ATEN._safe_softmax.default)


class _Counts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += func in FUSED + PLAIN
        return func(*args, **(kwargs or {}))


def softmaxes(run: Callable[[], Any]) -> int:
    """Return the number of softmaxes that `run` makes, without any tap."""
    with torch.no_grad(), _Counts() as counts:
        run()
    return counts.found
