"""What is known of one attention call, and who may see and change it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.attention.bias import CausalBias

from diffmech.attention.folding import Folded
from diffmech.attention.kernels import as_cast, is_mapped, same_kernel_with_lse
from diffmech.attention.reasons import DROPS, MAPPED, MASK, NESTED
from diffmech.attention.sites import AttentionSite

# What log p of a weight of 0 becomes: e^-100 is far below what float32 adds to a sum.
LEAST_LOG = -100.0


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One attention call of one site: everything that statistics or interventions need.

    output is per head, before the output projection; lse is in nats, or None when no guest asked for it; scale
    multiplies q.k. Where heads share their keys, key_head are fewer than head. Of attention written by hand, of which
    the probabilities p are at hand, query is log p and key the identity; such
    a call is `of_weights`, and `zeros_hide` says whether p is 0 of none but keys that a query may not see: in half
    precision it is also 0 of what is merely small.
    """

    site: AttentionSite
    query: Float[Tensor, "sample head query channel"]
    key: Float[Tensor, "sample key_head key channel"]
    value: Float[Tensor, "sample key_head key value_channel"]
    output: Float[Tensor, "sample head query value_channel"]
    lse: Float[Tensor, "sample head query"] | None
    scale: float
    attn_mask: Shaped[Tensor, "..."] | None
    is_causal: bool
    of_weights: bool = False
    zeros_hide: bool = False


@runtime_checkable
class Observer(Protocol):
    """Watches attention calls. Optional attributes: `needs_lse` and `after_interventions`, both False by default."""

    def observe(self, call: AttentionCall) -> None:
        """Receive one call; the tensors belong to the model and must not be changed."""


@runtime_checkable
class Intervention(Protocol):
    """Replaces the per-head output of some sites.

    Optional attributes, False by default: `needs_lse`, and `where_called`, True of one that has nothing to do in a pass
    that does not make the call.
    """

    def applies_to(self, site: AttentionSite) -> bool:
        """Return whether this intervention wants the calls of `site`."""

    def replace_output(self, call: AttentionCall) -> Float[Tensor, "sample head query channel"] | None:
        """Return the new output for the whole batch, or None to leave it."""


def hindrance(
    query: Shaped[Tensor, "..."],
    key: Shaped[Tensor, "..."],
    attn_mask: Shaped[Tensor, "..."] | None = None,
    dropout_p: float = 0.0,
    **others: Any,
) -> str:
    """Return why a fused call with these arguments cannot be studied, "" where nothing of them hinders it."""
    if query.is_nested or key.is_nested:
        return NESTED
    if is_mapped(query):
        return MAPPED
    if isinstance(attn_mask, CausalBias):  # its numbers are not those of the mask that it stands for
        return MASK
    return DROPS if dropout_p else ""


def attention_call(
    site: AttentionSite,
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample key_head key channel"],
    value: Float[Tensor, "sample key_head key value_channel"],
    output: Float[Tensor, "sample head query value_channel"],
    lse: Float[Tensor, "sample head query"] | None,
    scale: float | None,
    attn_mask: Shaped[Tensor, "..."] | None,
    is_causal: bool,
) -> AttentionCall:
    """Return the call of a fused or announced attention, with one key head per query head."""
    if key.shape[1] != query.shape[1]:  # grouped-query attention: guests see one key head per query head
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    return AttentionCall(site, query, key, value, output, lse, scale, attn_mask, is_causal)


def fused_call(
    site: AttentionSite,
    folded: Folded,
    named: Mapping[str, Any],
    run: Callable[[], Float[Tensor, "..."]],
    *,
    wants_lse: bool,
) -> tuple[AttentionCall, Float[Tensor, "..."]]:
    """Return the call of a fused attention with the arguments `named`, which `run` makes, and what it returned.

    Its images and heads are `folded`.
    """
    query, key, value = named["query"], named["key"], named["value"]
    mask, causal, scale = named.get("attn_mask"), named.get("is_causal", False), named.get("scale")
    output, lse = None, None
    if wants_lse and not folded.changes and len(key) == len(query):
        output, lse = same_kernel_with_lse(query, key, value, scale, mask, causal) or (None, None)
    if output is None:
        output = run()
    query, key, value, mask = as_cast(query, key, value, mask)  # the function was given these, and cast them
    if mask is not None and folded.changes:
        mask = folded.apart(mask.expand(*query.shape[:-1], key.shape[-2]))
    # One learned key may serve all images of a batch.
    key, value = (z.expand(len(query), *z.shape[1:]) if len(z) == 1 else z for z in (key, value))
    query, key, value = (folded.apart(tensor) for tensor in (query, key, value))
    return attention_call(site, query, key, value, folded.apart(output), lse, scale, mask, causal), output


def call_of_weights(
    site: AttentionSite,
    weights: Float[Tensor, "sample head query key"],
    values: Float[Tensor, "sample head key value_channel"],
    output: Float[Tensor, "sample head query value_channel"],
    lse: Float[Tensor, "sample head query"] | None,
) -> AttentionCall:
    """Return the call of attention that is written by hand."""
    dtype = torch.promote_types(weights.dtype, torch.float32)
    query = weights.to(dtype).log().clamp_min(LEAST_LOG)
    key = torch.eye(query.shape[-1], dtype=dtype, device=query.device).expand(*query.shape[:2], -1, -1)
    return AttentionCall(site, query, key, values, output, lse, 1.0, None, False, True, weights.dtype == dtype)


def observing(guests: Iterable[Any], *, after: bool) -> list[Callable[[AttentionCall], None]]:
    """Return what observers, or functions of a call, are shown calls by: those before interventions, or `after`."""
    chosen = [guest for guest in guests if bool(getattr(guest, "after_interventions", False)) is after]
    return [getattr(guest, "observe", guest) for guest in chosen]


def where_called(guest: Intervention) -> bool:
    """Return whether a pass need not make the calls that `guest` changes."""
    return getattr(guest, "where_called", False)
