"""Exact statistics of attention, averaged over queries, without ever holding the query x key map. The method is ours.

Received attention, entropy, distance and single entries are sums of p over queries and keys, which `attention.sums`
has from blocks of probabilities that stay in the cache or from one flipped fused attention call, whichever is faster.
On a GPU kernels of our own have all of it at once (`attention.gpu`). Masked and causal calls go through
`tiled_statistics`, which follows the definitions literally.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.gpu import kernel_statistics
from diffmech.attention.joint import joined_received, joint_parts, joint_statistics
from diffmech.attention.kernels import logsumexp_scores, same_kernel_with_lse
from diffmech.attention.ranges import TokenRanges, count
from diffmech.attention.sums import (
    Part,
    Sums,
    blocked_sums,
    fused_sums,
    joined_sums,
    make_grid,
    tiled_sums,
)
from diffmech.errors import ModelError

# Copies of queries and keys that are held at a time, 4 MiB each in float32.
COPIED_ELEMENTS = 2**20

Method = Literal["auto", "fused", "blocked"]

# (height, width), or (frames, height, width) of a video.
GridSize = tuple[int, ...]


@dataclass(frozen=True)
class AttentionStatistics:
    """Averages over queries of one attention call.

    entropy: nats, between 0 and ln(keys).
    position_information: mutual information between query position and key, nats.
    received: share of all attention times the number of keys, 1 where uniform.
    distance: root mean square attention distance as a fraction of the image side.
    self_mass, neighbourhood_mass, mirror_mass: attention on the query's own position, on the 3 x 3 positions around it
    (fewer at the border) and on its left-right mirror image, all within the query's frame.
    output_mean: mean head output. output_norm: root mean square norm of the head output.
    The four spatial fields are None for cross-attention, whose keys are tokens. Attention of image tokens and others,
    text or extra ones, in one softmax is averaged over image queries, spatial fields over image keys, and alone has the
    last four fields (see `attention.joint`), of which one tells what queries beside the image look at.
    """

    entropy: Float[Tensor, "sample head"]
    position_information: Float[Tensor, "sample head"]
    received: Float[Tensor, "sample head key"]
    output_mean: Float[Tensor, "sample head channel"]
    output_norm: Float[Tensor, "sample head"]
    distance: Float[Tensor, "sample head"] | None = None
    self_mass: Float[Tensor, "sample head"] | None = None
    neighbourhood_mass: Float[Tensor, "sample head"] | None = None
    mirror_mass: Float[Tensor, "sample head"] | None = None
    part_mass: Float[Tensor, "sample head part"] | None = None
    part_entropy: Float[Tensor, "sample head part"] | None = None
    received_from_text: Float[Tensor, "sample head key"] | None = None
    received_from_extra: Float[Tensor, "sample head key"] | None = None


class StatisticsObserver:
    """Observer that keeps the statistics of the latest call of every site in `results`, keyed by site name.

    `grids` gives (height, width) or (frames, height, width) of the image queries of a site; one that it does not name
    is square. `ranges` tells the image tokens of every site that has others beside them (see `attention.ranges`).
    """

    needs_lse = True

    def __init__(
        self, grids: Mapping[str, GridSize] | None = None, ranges: Mapping[str, TokenRanges] | None = None
    ) -> None:
        self.grids = dict(grids or {})
        self.ranges = dict(ranges or {})
        self.results: dict[str, AttentionStatistics] = {}

    def observe(self, call: AttentionCall) -> None:
        name = call.site.name
        self.results[name] = attention_statistics(call, self.grids.get(name), ranges=self.ranges.get(name))


@torch.no_grad()
def attention_statistics(
    call: AttentionCall,
    grid: GridSize | None = None,
    method: Method = "auto",
    ranges: TokenRanges | None = None,
) -> AttentionStatistics:
    """Return the statistics of `call`, computed in at least float32.

    `grid` is (height, width) or (frames, height, width) of the image's queries; a square if None. `ranges` tells which
    tokens are the image's where others stand beside them. Raises ModelError, naming the site, where the grid or the
    `ranges` do not fit the tokens.
    """
    if call.attn_mask is not None or call.is_causal:
        return tiled_statistics(call, grid, ranges)
    dtype = torch.promote_types(call.query.dtype, torch.float32)
    parts = _parts(call, grid, ranges, dtype)
    lse = _logsumexp(call) if call.lse is None else call.lse.to(dtype)
    if method != "auto":
        return _by_sums(call, parts, lse, method, ranges)
    # Blocks beat the flipped call on every CPU tried (benchmarks/attention_statistics.py).
    other: Method = "blocked" if lse.device.type == "cpu" else "fused"
    found = None
    if lse.is_cuda:
        found = kernel_statistics(call, parts, lse, ranges, lambda: vars(_by_sums(call, parts, lse, other, ranges)))
    return _by_sums(call, parts, lse, other, ranges) if found is None else AttentionStatistics(**found)


def _logsumexp(call: AttentionCall) -> Float[Tensor, "sample head query"]:
    """Return the lse of a call that brings none."""
    fused = None
    if call.query.is_cuda:  # a fused kernel has it sooner than tiles do, whatever the values
        fused = same_kernel_with_lse(call.query, call.key, call.key, call.scale)
    return logsumexp_scores(call.query, call.key, call.scale) if fused is None else fused[1]


def _by_sums(
    call: AttentionCall,
    parts: Sequence[Part],
    lse: Float[Tensor, "sample head query"],
    method: Method,
    ranges: TokenRanges | None,
) -> AttentionStatistics:
    """Return the statistics from sums over every part."""
    # A few at a time, in turns of equal size: of long sequences, copies of all queries and keys would be most of the
    # memory. Fused calls append a channel to those of a few heads; blocks copy nothing of a single sample.
    summed, axis = (fused_sums, 1) if method == "fused" else (blocked_sums, 0)
    copied = math.prod(lse.shape[:2]) * max(lse.shape[2], call.key.shape[2]) * (call.query.shape[3] + 1)
    at_once = math.ceil(lse.shape[axis] / math.ceil(copied / COPIED_ELEMENTS))
    turns = zip(*(tensor.split(at_once, axis) for tensor in (call.query, call.key, lse)), strict=True)
    pieces = [_part_sums(summed, parts, turn, call.scale) for turn in turns]
    return _statistics(call, parts, [joined_sums(found, axis) for found in zip(*pieces, strict=True)], ranges)


def _part_sums(
    summed: Callable[..., Sums], parts: Sequence[Part], tensors: tuple[Tensor, Tensor, Tensor], scale: float
) -> list[Sums]:
    """Return what `summed` gives for every part of the query, key and log-sum-exp of some samples or heads."""
    query, key, lse = tensors
    return [
        summed(query[:, :, p.query], key[:, :, p.key], scale, lse[:, :, p.query], p.grid, whole=len(parts) == 1)
        for p in parts
    ]


@torch.no_grad()
def tiled_statistics(
    call: AttentionCall, grid: GridSize | None = None, ranges: TokenRanges | None = None
) -> AttentionStatistics:
    """Return the statistics of `call` from explicit probabilities of a few queries at a time; masks are respected.

    Queries that a mask leaves without any key attend nowhere. Raises ModelError as `attention_statistics` does.
    """
    parts = _parts(call, grid, ranges, torch.promote_types(call.query.dtype, torch.float32))
    sums = tiled_sums(call.query, call.key, call.scale, call.attn_mask, call.is_causal, parts)
    return _statistics(call, parts, sums, ranges)


def _parts(call: AttentionCall, grid: GridSize | None, ranges: TokenRanges | None, dtype: torch.dtype) -> list[Part]:
    """Return the parts of attention with `ranges`, or the one part that other attention is."""
    name, kind, queries, keys = call.site.name, call.site.kind, call.query.shape[-2], call.key.shape[-2]
    everything = slice(0, queries), slice(0, keys)
    if kind == "cross":
        return [Part(*everything)]
    if kind == "joint" and ranges is None:
        raise ModelError(
            f"{name} is joint attention and nothing says which of its {keys} tokens are text; give its token ranges"
        )
    if ranges is not None:
        if (ranges.queries, ranges.keys) != (queries, keys):
            raise ModelError(
                f"{name} has {queries} queries and {keys} keys, which the token ranges image {ranges.image}, text "
                f"{ranges.text} and {sum(ranges.extra)} extra keys do not fit; give its own token ranges"
            )
        queries = keys = count(ranges.of_image("query"))
    side = math.isqrt(queries)
    size = (side, side) if grid is None else grid
    if math.prod(size) != queries or queries != keys:
        given = "a square grid" if grid is None else f"the grid {' x '.join(map(str, grid))}"
        what = f"queries and {keys} keys" if ranges is None else "image tokens"
        raise ModelError(f"{name} has {queries} {what}, which {given} does not fit; give its grid")
    frames, height, width = (1, *size) if len(size) == 2 else size
    placed = make_grid(frames, height, width, call.query.device, dtype)
    return [Part(*everything, placed)] if ranges is None else joint_parts(ranges, placed)


def _statistics(
    call: AttentionCall, parts: Sequence[Part], sums: Sequence[Sums], ranges: TokenRanges | None
) -> AttentionStatistics:
    """Turn sums into averages: over all queries, or over the image's where others stand beside them."""
    joint = len(parts) > 1
    rows, keys = parts[0].query, call.key.shape[-2]
    queries = count(rows)
    image = slice(0, 2 if joint else 1)  # the parts of the image's queries
    entropy = torch.stack([found.entropy for found in sums[image]]).sum(0).clamp_min(0) / queries
    received = joined_received(sums[image], parts[image], keys) if joint else sums[0].received
    share = received / queries
    distance, mass = None, None
    if sums[0].square is not None and sums[0].places is not None:
        # Beside other keys, those of the image get a part of the mass only.
        weight = sums[0].received.sum(-1).clamp_min(torch.finfo(share.dtype).tiny) if joint else queries
        distance = (sums[0].square / weight).clamp_min(0).sqrt()
        mass = sums[0].places / queries
    output = call.output[:, :, rows].to(entropy.dtype)
    only_joint = joint_statistics(sums, parts, keys) if joint else None
    from_rest = {ranges.rest: only_joint.received_from_rest} if ranges and only_joint else {}
    return AttentionStatistics(
        entropy=entropy,
        position_information=-torch.xlogy(share, share).sum(-1) - entropy,
        received=share * keys,
        output_mean=output.mean(-2),
        output_norm=torch.linalg.vector_norm(output, dim=(-1, -2)) / math.sqrt(queries),
        distance=distance,
        self_mass=None if mass is None else mass[..., 0],
        neighbourhood_mass=None if mass is None else mass[..., 1],
        mirror_mass=None if mass is None else mass[..., 2],
        part_mass=None if only_joint is None else only_joint.part_mass,
        part_entropy=None if only_joint is None else only_joint.part_entropy,
        received_from_text=from_rest.get("text"),
        received_from_extra=from_rest.get("extra"),
    )
