"""What can stand in for one head's output: nothing, less of it, its mean, its output elsewhere, or blind attention.

Each intervention is a small value: the head, and what else it needs to know. All act on the per-head output o_h,
(query, channel), before the output projection. Zero, mean and resample ablation are the usual three of mechanistic
interpretability (Wang et al. 2023; Chan et al. 2022 for resampling); uniform attention keeps the head's values and
takes away its choice: p_ij = 1/N. Patching puts in what the head wrote in another pass (Vig et al. 2020, Meng et al.
2022). A dose says how far the output goes: 0 is exactly the identity, 1 the whole intervention; doses are ours.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from numbers import Real
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffmech.attention.calls import LEAST_LOG, AttentionCall
from diffmech.attention.sites import AttentionSite, HeadId, resolve_heads
from diffmech.errors import ConfigError, StoreError

# The source of a patch that is another row of the very batch.
BATCH = "batch"


@dataclass(frozen=True)
class ReferenceOutputs:
    """Clean head outputs of other passes at one timestep, by site.

    mean and bank are both of the reference images of the domain that is replayed; pooled[site] is the mean over those
    of all domains. recorded is of whole passes: under a name for patches, under an integer timestep for the same
    samples at that timestep.
    """

    timestep: int
    mean: Mapping[str, Float[Tensor, "_head _query _channel"]]
    bank: Mapping[str, Float[Tensor, "reference _head _query _channel"]]
    recorded: Mapping[str | int, Mapping[str, Float[Tensor, "_row _head _query _channel"]]] = field(
        default_factory=dict
    )
    pooled: Mapping[str, Float[Tensor, "_head _query _channel"]] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadPairs:
    """The heads that one kind of intervention replaces in one call: pair k is head `heads[k]` of batch row `rows[k]`.

    `sources[k]` is the row of the reference or of the recorded pass `origin` that it takes, `doses[k]` its dose; only
    the kinds that have them read them.
    """

    rows: Int[Tensor, "pair"]
    heads: Int[Tensor, "pair"]
    sources: Int[Tensor, "pair"]
    doses: Float[Tensor, "pair"] | None = None
    origin: str | int = BATCH


@dataclass(frozen=True)
class ZeroHead:
    """The head writes nothing."""

    method: ClassVar[str] = "zero"
    head: HeadId

    def __str__(self) -> str:
        return f"{self.method} {self.head}"

    @staticmethod
    def replacement(
        call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
    ) -> Float[Tensor, "pair query channel"]:
        """Return the new outputs."""
        return call.output.new_zeros(len(pairs.rows), *call.output.shape[2:])


@dataclass(frozen=True)
class MeanHead:
    """The head writes its mean over the reference images of the image's own domain, at the same timestep and query."""

    method: ClassVar[str] = "mean"
    head: HeadId

    def __str__(self) -> str:
        return f"{self.method} {self.head}"

    @staticmethod
    def replacement(
        call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
    ) -> Float[Tensor, "pair query channel"]:
        """Return the new outputs."""
        return _stored(call, None if reference is None else reference.mean, "mean")[pairs.heads]


@dataclass(frozen=True)
class PooledMeanHead:
    """The head writes its mean over the reference images of all domains, which takes the domain's mark away too."""

    method: ClassVar[str] = "mean_pooled"
    head: HeadId

    def __str__(self) -> str:
        return f"{self.method} {self.head}"

    @staticmethod
    def replacement(
        call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
    ) -> Float[Tensor, "pair query channel"]:
        """Return the new outputs."""
        return _stored(call, None if reference is None else reference.pooled, "pooled mean")[pairs.heads]


@dataclass(frozen=True)
class ResampleHead:
    """The head writes what it wrote for another image of the domain, row `source` of the bank, at the same timestep."""

    method: ClassVar[str] = "resample"
    head: HeadId
    source: int

    def __str__(self) -> str:
        return f"{self.method} {self.head} from reference {self.source}"

    @staticmethod
    def replacement(
        call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
    ) -> Float[Tensor, "pair query channel"]:
        """Return the new outputs."""
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
    def replacement(
        call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
    ) -> Float[Tensor, "pair query channel"]:
        """Return the new outputs."""
        value = call.value[pairs.rows, pairs.heads]
        queries = call.output.shape[2]
        visible = _visible_keys(call, pairs)
        if visible is None:
            return value.mean(dim=1, keepdim=True).expand(-1, queries, -1)
        # A query that may see no key gets 0, as from the fused kernels.
        weights = visible.to(value.dtype)
        return (weights / weights.sum(-1, keepdim=True).clamp(min=1)) @ value


@dataclass(frozen=True)
class ScaleHead:
    """The head writes its own output times 1 - dose: unchanged at 0, nothing at 1, its opposite at 2."""

    method: ClassVar[str] = "scale"
    head: HeadId
    dose: float

    def __post_init__(self) -> None:
        _check_dose(self)

    def __str__(self) -> str:
        return f"{self.method} {self.head} by {1 - self.dose:g}"

    @staticmethod
    def replacement(
        call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
    ) -> Float[Tensor, "pair query channel"]:
        """Return the new outputs."""
        output = call.output[pairs.rows, pairs.heads]
        return output * (1 - _doses(pairs)).to(output.dtype)


@dataclass(frozen=True)
class PatchHead:
    """The head writes what it wrote in the pass `source`: (1 - dose) of its own output and dose of that one.

    `source` names recorded outputs, or is "batch", the pass that is running; `row` is the row of them, None the row of
    the same sample.
    """

    method: ClassVar[str] = "patch"
    head: HeadId
    source: str
    dose: float = 1.0
    row: int | None = None

    def __post_init__(self) -> None:
        _check_dose(self)

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        return f"{self.method} {self.head} from {self.source}{row}" + (
            "" if self.dose == 1 else f", dose {self.dose:g}"
        )

    @staticmethod
    def replacement(
        call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
    ) -> Float[Tensor, "pair query channel"]:
        """Return the new outputs."""
        output = call.output[pairs.rows, pairs.heads]
        # lerp is exact at both ends, and where both outputs are equal.
        return torch.lerp(output, _recorded(call, pairs, reference), _doses(pairs).to(output.dtype))


@dataclass(frozen=True)
class SwapTimestep:
    """The head writes what it wrote for the same sample at another timestep."""

    method: ClassVar[str] = "swap_timestep"
    head: HeadId
    timestep: int

    def __post_init__(self) -> None:
        if isinstance(self.timestep, bool) or not isinstance(self.timestep, int) or self.timestep < 0:
            raise ConfigError(
                f"{self.method} {self.head}: {self.timestep!r} is no timestep; give an integer, 0 = clean"
            )

    def __str__(self) -> str:
        return f"{self.method} {self.head} to its output at timestep {self.timestep}"

    @staticmethod
    def replacement(
        call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
    ) -> Float[Tensor, "pair query channel"]:
        """Return the new outputs."""
        return _recorded(call, pairs, reference)


HeadIntervention = (
    ZeroHead | MeanHead | PooledMeanHead | ResampleHead | UniformAttention | ScaleHead | PatchHead | SwapTimestep
)

# Those that a head alone, or a head and a reference row, make complete: the methods of an ablation.
_BY_METHOD: dict[str, Callable[..., HeadIntervention]] = {
    kind.method: kind for kind in (ZeroHead, MeanHead, PooledMeanHead, ResampleHead, UniformAttention)
}
_KINDS: dict[str, Any] = {**_BY_METHOD} | {kind.method: kind for kind in (ScaleHead, PatchHead, SwapTimestep)}


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


def to_config(intervention: HeadIntervention) -> dict[str, Any]:
    """Return an intervention as plain values: {"method": "scale", "head": "down1.0.self.h03", "dose": 0.5}."""
    return {"method": intervention.method, **asdict(intervention), "head": str(intervention.head)}


def from_config(
    plain: Mapping[str, Any], sites: Iterable[AttentionSite] | None = None, *, timesteps: int | None = None
) -> HeadIntervention:
    """Return the intervention that `to_config` was given; with `sites`, its head must be one of theirs.

    `timesteps` is the length of the schedule, which a timestep must lie in. Raises ConfigError for unknown methods and
    keys, malformed heads, heads that `sites` lack (naming the nearest), doses that are not finite.
    """
    kind = _KINDS.get(str(plain.get("method")))
    if "method" not in plain or "head" not in plain:
        raise ConfigError(f"an intervention has the keys method and head; found {dict(plain)}")
    if kind is None:
        raise ConfigError(f"{plain['method']!r} is not an intervention; expected one of {', '.join(_KINDS)}")
    taken = fields(kind)
    needed = {each.name for each in taken if each.default is MISSING}
    given = {name: value for name, value in plain.items() if name != "method"}
    if not needed <= set(given) <= {each.name for each in taken}:
        raise ConfigError(
            f"{plain['method']} has the keys method, {', '.join(each.name for each in taken)}; found {dict(plain)}"
        )
    head = HeadId.parse(plain["head"]) if sites is None else resolve_heads([plain["head"]], sites)[0]
    found: HeadIntervention = kind(**given | {"head": head})
    if isinstance(found, SwapTimestep) and timesteps is not None and found.timestep >= timesteps:
        raise ConfigError(f"{found}: timestep {found.timestep} is outside the schedule, 0 to {timesteps - 1}")
    return found


def _check_dose(intervention: ScaleHead | PatchHead) -> None:
    dose = intervention.dose
    if not isinstance(dose, Real) or not math.isfinite(dose):
        raise ConfigError(
            f"{intervention.method} {intervention.head}: the dose {dose!r} is not a finite number; "
            "give one, 0 = unchanged, 1 = the whole intervention"
        )


def _doses(pairs: HeadPairs) -> Float[Tensor, "pair 1 1"]:
    assert pairs.doses is not None
    return pairs.doses[:, None, None]


def _recorded(
    call: AttentionCall, pairs: HeadPairs, reference: ReferenceOutputs | None
) -> Float[Tensor, "pair query channel"]:
    """Return what the heads wrote in the recorded pass."""
    if pairs.origin == BATCH:
        return call.output[pairs.sources, pairs.heads]
    passes = {} if reference is None else reference.recorded
    outputs = passes.get(pairs.origin, {}).get(call.site.name)
    what = f"the pass {pairs.origin!r}" if isinstance(pairs.origin, str) else f"timestep {pairs.origin}"
    if outputs is None:
        known = ", ".join(str(name) for name in passes) or "none"
        raise StoreError(f"no head outputs of {call.site.name} are recorded of {what}; recorded are: {known}")
    if outputs.shape[1:] != call.output.shape[1:]:
        raise StoreError(
            f"the patch source at {call.site.name}, {what}, has shape {tuple(outputs.shape[1:])}, the model's output "
            f"{tuple(call.output.shape[1:])}; record it with the same model, image size and number of tokens"
        )
    return outputs[pairs.sources, pairs.heads].to(call.output.dtype)


def _stored(call: AttentionCall, stored: Mapping[str, Tensor] | None, what: str) -> Tensor:
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


def _visible_keys(call: AttentionCall, pairs: HeadPairs) -> Bool[Tensor, "pair query key"] | None:
    """Return which keys each query may see, or None where all may be seen.

    However a mask is written: a key is hidden that an additive mask puts so far below the best one of its query that
    its weight is 0 in float32, or, of attention written by hand, whose weight is 0.
    """
    if call.zeros_hide:
        seen = call.query[pairs.rows, pairs.heads] > LEAST_LOG
        return None if bool(seen.all()) else seen
    if call.attn_mask is None and not call.is_causal:
        return None
    batch, heads, queries, _ = call.output.shape
    keys = call.key.shape[2]
    visible = torch.ones(queries, keys, dtype=torch.bool, device=call.output.device)
    if call.is_causal:
        visible = visible.tril()
    if call.attn_mask is not None:
        mask = call.attn_mask
        if mask.dtype != torch.bool:
            best = (torch.where(visible, mask, -math.inf) if call.is_causal else mask).amax(-1, keepdim=True)
            mask = mask > best + LEAST_LOG
        visible = visible & mask
    return visible.expand(batch, heads, queries, keys)[pairs.rows, pairs.heads]
