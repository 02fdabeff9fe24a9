"""Exact statistics of attention, averaged over queries, without ever holding the query x key map. The method is ours.

Append one channel to the scaled query, a_i = [scale q_i, -lse_i], and to the key, b_j = [k_j, 1]. Then
a_i.b_j = ln p_ij, and with x_i the position of query i (zero at the image centre) the key-wise moments over queries

    M_j = sum_i p_ij [a_i, 1, x_i, |x_i|^2]

hold every average: received mass C_j = sum_i p_ij; mean entropy -1/N sum_j b_j.(sum_i p_ij a_i); mean squared distance
1/N sum_j (C_j |x_j|^2 - 2 x_j.(sum_i p_ij x_i) + sum_i p_ij |x_i|^2). The moments come from one flipped fused
attention call (queries b, keys a, values [a, 1, x, |x|^2]; its log-sum-exp is ln C_j) or from blocks of probabilities
that stay in the cache, whichever is faster. Single entries p_ij = exp(a_i.b_j) give self, neighbourhood and mirror
mass. `tiled_statistics` follows the definitions literally, takes masks, and is the independent check.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from diffmech.attention.kernels import TILE_ELEMENTS, attention_with_lse, logsumexp_scores, score_tiles
from diffmech.attention.tap import AttentionCall
from diffmech.errors import ModelError

Method = Literal["auto", "fused", "blocked"]

# Up to here blocks of probabilities beat the flipped fused call on a CPU (benchmarks/attention_statistics.py).
BLOCKED_KEYS = 512

# Columns of `_Grid.partners`: the query itself, its eight neighbours, and last (added there) its mirrored position.
NEIGHBOURHOOD = [(0, 0)] + [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


@dataclass(frozen=True)
class AttentionStatistics:
    """Averages over queries of one attention call; (sample, head) unless stated otherwise.

    entropy: nats, between 0 and ln(keys).
    position_information: mutual information between query position and key, nats.
    received: (sample, head, key), share of all attention times the number of keys, 1 where uniform.
    distance: root mean square attention distance as a fraction of the image side.
    self_mass, neighbourhood_mass, mirror_mass: attention on the query's own position, on the 3 x 3 positions around it
    (fewer at the border) and on its left-right mirror image.
    output_mean: (sample, head, channel), mean head output. output_norm: root mean square norm of the head output.
    The four spatial fields are None for cross-attention, whose keys are tokens.
    """

    entropy: Tensor
    position_information: Tensor
    received: Tensor
    output_mean: Tensor
    output_norm: Tensor
    distance: Tensor | None = None
    self_mass: Tensor | None = None
    neighbourhood_mass: Tensor | None = None
    mirror_mass: Tensor | None = None


class StatisticsObserver:
    """Observer that keeps the statistics of the latest call of every site in `results`, keyed by site name.

    `grids` gives (height, width) of the queries of self-attention sites; a site that it does not name is square.
    """

    needs_lse = True

    def __init__(self, grids: Mapping[str, tuple[int, int]] | None = None) -> None:
        self.grids = dict(grids or {})
        self.results: dict[str, AttentionStatistics] = {}

    def observe(self, call: AttentionCall) -> None:
        self.results[call.site.name] = attention_statistics(call, self.grids.get(call.site.name))


@torch.no_grad()
def attention_statistics(
    call: AttentionCall, grid: tuple[int, int] | None = None, method: Method = "auto"
) -> AttentionStatistics:
    """Return the statistics of `call`, computed in at least float32.

    `grid` is (height, width) of the queries of self-attention, square if None. Raises ModelError, naming the site, for
    joint attention and where the grid does not fit the number of tokens.
    """
    geometry = _geometry(call, grid)
    if call.attn_mask is not None or call.is_causal:
        return tiled_statistics(call, grid)
    dtype = torch.promote_types(call.query.dtype, torch.float32)
    lse = logsumexp_scores(call.query, call.key, call.scale) if call.lse is None else call.lse
    key = call.key.to(dtype)
    log_key = torch.cat([key, key.new_ones(1).expand(*key.shape[:-1], 1)], -1)
    values = _values(call.query.to(dtype) * call.scale, lse.to(dtype), geometry)
    if method == "auto":
        method = "blocked" if key.device.type == "cpu" and key.shape[-2] <= BLOCKED_KEYS else "fused"
    moments, entries = (_fused_moments if method == "fused" else _blocked_moments)(values, log_key, geometry)

    queries, channels = values.shape[-2], log_key.shape[-1]
    received = moments[..., channels]
    entropy = -(moments[..., :channels] * log_key).sum((-1, -2)) / queries
    distance = None
    if geometry is not None:
        x = geometry.coordinates.to(dtype)
        products = (moments[..., channels + 1 : -1] * x).sum((-1, -2))
        square = (received * x.square().sum(-1)).sum(-1) - 2 * products + moments[..., -1].sum(-1)
        distance = (square / queries).clamp_min(0).sqrt()
    return _finish(call, entropy.clamp_min(0), received / queries, distance, entries)


@torch.no_grad()
def tiled_statistics(call: AttentionCall, grid: tuple[int, int] | None = None) -> AttentionStatistics:
    """Return the statistics of `call` from explicit probabilities of a few queries at a time; masks are respected.

    Queries that a mask leaves without any key attend nowhere. Raises ModelError as `attention_statistics` does.
    """
    geometry = _geometry(call, grid)
    batch, heads, queries, _ = call.query.shape
    dtype = torch.promote_types(call.query.dtype, torch.float32)
    lowest = torch.finfo(dtype).min
    entropy, square = (torch.zeros(batch, heads, dtype=dtype, device=call.query.device) for _ in range(2))
    received = entropy.new_zeros(batch, heads, call.key.shape[-2])
    entries = None if geometry is None else entropy.new_zeros(batch, heads, geometry.partners.shape[1])
    for rows, scores in score_tiles(call.query, call.key, call.scale, call.attn_mask, call.is_causal):
        log_p = scores.log_softmax(-1).nan_to_num(nan=lowest, neginf=lowest)  # finite, so that 0 ln 0 = 0
        p = log_p.exp()
        entropy -= (p * log_p).sum((-1, -2))
        received += p.sum(-2)
        if geometry is not None and entries is not None:
            x = geometry.coordinates.to(dtype)
            vertical, horizontal = ((axis[rows, None] - axis).square() for axis in x.T)
            square += p.flatten(2) @ (vertical + horizontal).flatten()
            partners, present = geometry.partners[rows], geometry.present[rows]
            entries += (p.gather(-1, partners.expand(batch, heads, -1, -1)) * present).sum(-2)
    distance = None if geometry is None else (square / queries).sqrt()
    return _finish(call, entropy / queries, received / queries, distance, entries)


def _finish(
    call: AttentionCall, entropy: Tensor, share: Tensor, distance: Tensor | None, entries: Tensor | None
) -> AttentionStatistics:
    """Put the fields together; `share` (sample, head, key) sums to one, `entries` are summed over queries."""
    output = call.output.to(entropy.dtype)
    mass = None if entries is None else entries / call.query.shape[-2]
    return AttentionStatistics(
        entropy=entropy,
        position_information=-torch.xlogy(share, share).sum(-1) - entropy,
        received=share * share.shape[-1],
        output_mean=output.mean(-2),
        output_norm=(output.square().sum((-1, -2)) / output.shape[-2]).sqrt(),
        distance=distance,
        self_mass=None if mass is None else mass[..., 0],
        neighbourhood_mass=None if mass is None else mass[..., :-1].sum(-1),
        mirror_mass=None if mass is None else mass[..., -1],
    )


@dataclass(frozen=True)
class _Grid:
    """Where tokens stand: `coordinates` (token, 2) are (y, x) from the image centre in units of the image side.

    `partners` (token, 10) are the tokens whose single entries are wanted, `present` (token, 10) is False outside.
    """

    coordinates: Tensor
    partners: Tensor
    present: Tensor


def _geometry(call: AttentionCall, grid: tuple[int, int] | None) -> _Grid | None:
    """Return the grid of a self-attention call, None for cross-attention."""
    name, queries, keys = call.site.name, call.query.shape[-2], call.key.shape[-2]
    if call.site.kind == "joint":
        raise ModelError(f"{name} is joint attention over text and image; statistics need self- or cross-attention")
    if call.site.kind == "cross":
        return None
    side = math.isqrt(queries)
    height, width = (side, side) if grid is None else grid
    if height * width != queries or queries != keys:
        given = "a square grid" if grid is None else f"the grid {height} x {width}"
        raise ModelError(f"{name} has {queries} queries and {keys} keys, which {given} does not fit; give its grid")
    return _make_grid(height, width, call.query.device)


def _make_grid(height: int, width: int, device: torch.device) -> _Grid:
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    y, x = (axis.flatten() for axis in torch.meshgrid(y, x, indexing="ij"))
    partners, present = [], []
    for dy, dx in NEIGHBOURHOOD:
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        partners.append(torch.where(inside, (y + dy) * width + x + dx, 0))
        present.append(inside)
    partners.append(y * width + width - 1 - x)
    present.append(torch.ones_like(present[0]))
    # Centred, so that the squares in the distance cancel as little as possible.
    coordinates = torch.stack([(y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5], -1)
    return _Grid(coordinates, torch.stack(partners, -1), torch.stack(present, -1))


def _values(scaled_query: Tensor, lse: Tensor, geometry: _Grid | None) -> Tensor:
    """Return what is averaged over queries: [a_i, 1, x_i, |x_i|^2], (sample, head, query, channel)."""
    fixed = scaled_query.new_ones(scaled_query.shape[-2], 1)
    if geometry is not None:
        x = geometry.coordinates.to(scaled_query)
        fixed = torch.cat([fixed, x, x.square().sum(-1, keepdim=True)], -1)
    return torch.cat([scaled_query, -lse.unsqueeze(-1), fixed.expand(*scaled_query.shape[:2], -1, -1)], -1)


def _fused_moments(values: Tensor, log_key: Tensor, geometry: _Grid | None) -> tuple[Tensor, Tensor | None]:
    """Return the moments M_j (sample, head, key, channel) and the entries summed over queries, by one fused call."""
    log_query, channels = values[..., : log_key.shape[-1]], values.shape[-1]
    width = -(-channels // 8) * 8  # kernels want one number of channels for query, key and value, best a multiple of 8
    query, key, value = (
        functional.pad(tensor, (0, width - tensor.shape[-1])) for tensor in (log_key, log_query, values)
    )
    means, log_received = attention_with_lse(query, key, value, scale=1.0)
    moments = means[..., :channels] * log_received.exp().unsqueeze(-1)
    if geometry is None:
        return moments, None
    columns = [
        ((log_query * log_key[:, :, partner]).sum(-1).exp() * present).sum(-1)
        for partner, present in zip(geometry.partners.T, geometry.present.T, strict=True)
    ]
    return moments, torch.stack(columns, -1)


def _blocked_moments(values: Tensor, log_key: Tensor, geometry: _Grid | None) -> tuple[Tensor, Tensor | None]:
    """Return what `_fused_moments` does, from blocks of probabilities that fit a core's cache."""
    heads = values.shape[:2]
    values, keys = values.flatten(0, 1), log_key.flatten(0, 1).transpose(1, 2)
    log_query = values[..., : keys.shape[1]]
    count, queries, key_count = len(values), values.shape[1], keys.shape[2]
    tile = min(queries, max(1, TILE_ELEMENTS // key_count))
    group = min(count, max(1, TILE_ELEMENTS // (tile * key_count)))
    buffer = values.new_empty(group * tile * key_count)
    moments = values.new_zeros(count, values.shape[2], key_count)
    entries = None if geometry is None else values.new_zeros(count, geometry.partners.shape[1])
    for start in range(0, count, group):
        some = slice(start, min(start + group, count))
        for first in range(0, queries, tile):
            rows = slice(first, min(first + tile, queries))
            shape = (some.stop - start, rows.stop - first, key_count)
            p = buffer[: math.prod(shape)].view(shape)
            torch.bmm(log_query[some, rows], keys[some], out=p).exp_()
            moments[some].baddbmm_(values[some, rows].transpose(1, 2), p)
            if geometry is not None and entries is not None:
                found = p.gather(-1, geometry.partners[rows].expand(shape[0], -1, -1))
                entries[some] += (found * geometry.present[rows]).sum(1)
    return moments.transpose(1, 2).unflatten(0, heads), None if entries is None else entries.unflatten(0, heads)
