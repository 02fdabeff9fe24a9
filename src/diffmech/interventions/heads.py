"""What can stand in for one head's output: nothing, its mean, another image's output, or blind attention.

Each intervention is a small value: the head, and what else it needs to know. All four act on the per-head output o_h,
(query, channel), before the output projection. Zero, mean and resample ablation are the usual three of mechanistic
interpretability (Wang et al. 2023; Chan et al. 2022 for resampling); uniform attention keeps the head's values and
takes away its choice: p_ij = 1/N.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffmech.attention.sites import AttentionSite, HeadId, resolve_heads
from diffmech.attention.tap import AttentionCall
from diffmech.errors import ConfigError, StoreError


@dataclass(frozen=True)
class ReferenceOutputs:
    """Clean head outputs of reference images at one timestep, by site.

    mean[site] is (head, query, channel); bank[site] is (reference, head, query, channel).
    """

    timestep: int
    mean: dict[str, Tensor]
    bank: dict[str, Tensor]


@dataclass(frozen=True)
class HeadPairs:
    """The heads that one kind of intervention replaces in one call: pair k is head `heads[k]` of batch row `rows[k]`.

    `sources[k]` is the reference row it is replaced by; only resampling reads it.
    """

    rows: Tensor
    heads: Tensor
    sources: Tensor


@dataclass(frozen=True)
class ZeroHead:
    """The head writes nothing."""

    method: ClassVar[str] = "zero"
    head: HeadId

    def __str__(self) -> str:
        return f"{self.method} {self.head}"

    @staticmethod
    def replacement(call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None) -> Tensor:
        """Return the new outputs (pair, query, channel)."""
        return call.output.new_zeros(len(pairs.rows), *call.output.shape[2:])


@dataclass(frozen=True)
class MeanHead:
    """The head writes its mean over the reference images at the same timestep and query."""

    method: ClassVar[str] = "mean"
    head: HeadId

    def __str__(self) -> str:
        return f"{self.method} {self.head}"

    @staticmethod
    def replacement(call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None) -> Tensor:
        """Return the new outputs (pair, query, channel)."""
        return _stored(call, None if reference is None else reference.mean, "mean")[pairs.heads]


@dataclass(frozen=True)
class ResampleHead:
    """The head writes what it wrote for another image, row `source` of the reference bank, at the same timestep."""

    method: ClassVar[str] = "resample"
    head: HeadId
    source: int

    def __str__(self) -> str:
        return f"{self.method} {self.head} from reference {self.source}"

    @staticmethod
    def replacement(call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None) -> Tensor:
        """Return the new outputs (pair, query, channel)."""
        bank = _stored(call, None if reference is None else reference.bank, "bank")
        return bank[pairs.sources, pairs.heads]


@dataclass(frozen=True)
class UniformAttention:
    """The head attends to every key alike: the mean of its values over the keys it may see."""

    method: ClassVar[str] = "uniform"
    head: HeadId

    def __str__(self) -> str:
        return f"{self.method} {self.head}"

    @staticmethod
    def replacement(call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None) -> Tensor:
        """Return the new outputs (pair, query, channel)."""
        value = call.value[pairs.rows, pairs.heads]
        queries = call.output.shape[2]
        visible = _visible_keys(call, pairs)
        if visible is None:
            return value.mean(dim=1, keepdim=True).expand(-1, queries, -1)
        # A query that may see no key gets 0, as from the fused kernels.
        weights = visible.to(value.dtype)
        return (weights / weights.sum(-1, keepdim=True).clamp(min=1)) @ value


HeadIntervention = ZeroHead | MeanHead | ResampleHead | UniformAttention

_BY_METHOD: dict[str, Callable[..., HeadIntervention]] = {
    kind.method: kind for kind in (ZeroHead, MeanHead, ResampleHead, UniformAttention)
}


def replace_heads(method: str, heads: Iterable[HeadId], *, source: int | None = None) -> tuple[HeadIntervention, ...]:
    """Return one intervention of `method` per head; no heads, no intervention. `source` is the row for "resample".

    Raises ConfigError for a method that does not exist and for resampling without a source.
    """
    if method not in _BY_METHOD:
        raise ConfigError(f"{method!r} is not an ablation method; expected one of {', '.join(_BY_METHOD)}")
    if method != ResampleHead.method:
        return tuple(_BY_METHOD[method](head) for head in heads)
    if source is None:
        raise ConfigError("resample needs the reference row whose output is used")
    return tuple(ResampleHead(head, source) for head in heads)


def to_dict(intervention: HeadIntervention) -> dict[str, Any]:
    """Return an intervention as plain values: {"method": "zero", "head": "down1.0.self.h03"}."""
    plain: dict[str, Any] = {"method": intervention.method, "head": str(intervention.head)}
    return plain | ({"source": intervention.source} if isinstance(intervention, ResampleHead) else {})


def from_dict(plain: dict[str, Any], sites: Iterable[AttentionSite] | None = None) -> HeadIntervention:
    """Return the intervention that `to_dict` was given; with `sites`, its head must be one of theirs.

    Raises ConfigError for unknown methods and keys, malformed heads, and heads that `sites` lack (naming the nearest).
    """
    extra = sorted(set(plain) - {"method", "head", "source"})
    if extra or not {"method", "head"} <= set(plain):
        raise ConfigError(f"an intervention has the keys method and head (and source, for resample); found {plain}")
    head = HeadId.parse(plain["head"]) if sites is None else resolve_heads([plain["head"]], sites)[0]
    return replace_heads(plain["method"], [head], source=plain.get("source"))[0]


def _stored(call: AttentionCall, stored: dict[str, Tensor] | None, what: str) -> Tensor:
    if stored is None or call.site.name not in stored:
        raise StoreError(
            f"the reference outputs hold no {what} of {call.site.name}; make them with the same model and methods"
        )
    outputs = stored[call.site.name]
    if outputs.shape[-3:] != call.output.shape[1:]:
        raise StoreError(
            f"the reference {what} of {call.site.name} has shape {tuple(outputs.shape[-3:])}, the model's output "
            f"{tuple(call.output.shape[1:])}; make the reference with the same model and image size"
        )
    return outputs


def _visible_keys(call: AttentionCall, pairs: HeadPairs) -> Tensor | None:
    """Return which keys each query may see, (pair, query, key) bool, or None where all may be seen."""
    if call.attn_mask is None and not call.is_causal:
        return None
    batch, heads, queries, _ = call.output.shape
    keys = call.key.shape[2]
    visible = torch.ones(queries, keys, dtype=torch.bool, device=call.output.device)
    if call.is_causal:
        visible = visible.tril()
    if call.attn_mask is not None:
        mask = call.attn_mask
        # An additive mask hides a key by minus infinity, or by the lowest number of its type.
        seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        visible = visible & seen
    return visible.expand(batch, heads, queries, keys)[pairs.rows, pairs.heads]
