"""Attention that a module announces itself, where nothing about it can be seen. Ours."""

import math
import weakref
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite
from diffmech.errors import ModelError


class Listener(Protocol):
    """A tap, as far as announcements go; a quiet one takes no calls."""

    quiet: bool

    def path_of(self, module: nn.Module) -> str | None:
        """Return the path of a module of the watched model, None for others."""

    def take(self, own: str, call: AttentionCall) -> Float[Tensor, "sample head query channel"]:
        """Take the call that the module at `own` announced, and return the output to go on with."""


# Taps now open, the innermost last.
open_taps: list[Listener] = []


class Latest:
    """The result of the latest fused attention, by which an announcement of it is told from one of something else."""

    def __init__(self) -> None:
        self._tensor: Callable[[], Tensor | None] = lambda: None
        self._copies = False

    def take(self, output: Float[Tensor, "..."], *, copies: bool) -> None:
        """Note `output`; `copies`: keep it, so that a copy can be told."""
        self._tensor, self._copies = (lambda: output) if copies else weakref.ref(output), copies

    def is_in(self, announced: Float[Tensor, "..."]) -> bool:
        """Return whether the announced output is that result, in whatever shape."""
        output = self._tensor()
        return output is not None and output.untyped_storage().data_ptr() == announced.untyped_storage().data_ptr()

    def was_copied(self, announced: Float[Tensor, "..."]) -> bool:
        """Return whether the announced output is a copy of that result; told only where it was kept."""
        output = self._tensor() if self._copies else None
        if output is None or output.numel() != announced.numel() or self.is_in(announced):
            return False
        return torch.equal(output.reshape(announced.shape).to(announced.dtype), announced)


def check_shapes(call: AttentionCall, heads: int | None, name: str) -> None:
    """Raise ModelError where the tensors that `name` announced do not fit each other, or its number of heads."""
    shapes = [tuple(tensor.shape) for tensor in (call.query, call.key, call.value, call.output)]
    heads = shapes[0][1] if heads is None else heads
    fits = all(len(shape) == 4 and shape[0] == shapes[0][0] for shape in shapes) and shapes[0][1] == heads
    fits = fits and shapes[1][:3] == shapes[2][:3] and shapes[3][:3] == shapes[0][:3] and not heads % shapes[1][1]
    if not fits:
        raise ModelError(
            f"{name} announced query, key, value and output of shapes {', '.join(map(str, shapes))}; "
            f"expected (sample, {heads} heads, token, channel), with as many output as query tokens"
        )


def announce(
    site: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    *,
    scale: float | None = None,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Tell open taps of attention that the module `site` computed by other means, and return the output to go on with.

    For what a tap cannot see by itself: neither `scaled_dot_product_attention`, nor a softmax of a product that is
    multiplied with values by `matmul`, `bmm` or `einsum`. The three added lines are the import, and

        output = my_kernel(query, key, value, scale)
        output = announce(self, query, key, value, output, scale=scale)    # before heads are merged and projected

    query, key, value are (sample, head, token, channel), output is (sample, head, query, channel), scale is
    1 / sqrt(channel) if None, and the mask is as in `scaled_dot_product_attention`. What comes back is `output` itself
    unless an intervention replaces it; where no tap is open nothing else happens. The call belongs to the module around
    `site` that is known as attention by its parts, or to `site` itself, named by its path: `encoder.3.mixer.self`.
    Raises ModelError, naming the site, where the shapes do not fit each other or the site's number of heads.
    """
    for tap in reversed(open_taps):
        path = tap.path_of(site)
        if path is None:
            continue
        here = AttentionSite("", "", "self", 0)
        scale_of = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
        return tap.take(path, AttentionCall(here, query, key, value, output, None, scale_of, attn_mask, is_causal))
    return output
