"""Softmaxes that run without torch's functions being called, counted where torch itself computes them. Ours.

Scripted functions, operators called by `torch.ops` and higher-order operators reach the kernels on ways that no
function mode sees. All ways end in torch's dispatcher.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from diffmech.attention.tap import AttentionTap

# The operators that compute a softmax over scores, as torch's own functions end in them.
KERNELS = (
    *("_softmax", "softmax", "_safe_softmax", "_scaled_dot_product_flash_attention_for_cpu"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
    *("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable"),
    *("_native_multi_head_attention", "flex_attention"),
)


class Unseen(TorchDispatchMode):
    """Names the modules in which softmaxes run that `tap` is not shown, in `owners`."""

    supports_higher_order_operators = True

    def __init__(self, tap: AttentionTap) -> None:
        super().__init__()
        self.tap = tap
        self.owners: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "overloadpacket", func).__name__
        if name in KERNELS and self.tap.running and not self.tap.expects:
            self.owners.append(self.tap.owner())
        call: Callable[..., Any] = func
        return call(*args, **(kwargs or {}))


def reasons(owners: Sequence[str]) -> dict[str, str]:
    """Return, by module, why its softmaxes cannot be studied."""
    why = (
        "a softmax runs in it on a way that cannot be seen (a scripted function, an operator of torch.ops, flex "
        "attention); call torch.nn.functional instead, or announce it by diffmech.attention.tap.announce"
    )
    return dict.fromkeys(owners, why)
