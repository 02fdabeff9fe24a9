"""Sums of attention over the queries and keys of one part of a call, without ever holding the query x key map. Ours.

ln p_ij = scale q_i.k_j - lse_i for any subset of queries and keys. With x_i the position of query i, zero at the image
centre, two ways give the sums:

- blocked: blocks of ln p and p that stay in the caches are reduced as they come;
- fused: append one channel to the scaled query, a_i = [scale q_i, -lse_i], and to the key, b_j = [k_j, 1], so that
  ln p_ij = a_i.b_j. The key-wise moments sum_i p_ij [a_i, x_i, |x_i|^2] come from one flipped fused attention call
  (queries b, keys a; its log-sum-exp is ln sum_i p_ij), and hold every sum: -sum p ln p = -sum_j b_j.(sum_i p_ij a_i),
  and sum p |x_i - x_j|^2 = sum_j (C_j |x_j|^2 - 2 x_j.(sum_i p_ij x_i) + sum_i p_ij |x_i|^2).

Rows of p sum to one, so sum_ij p_ij lse_i and sum_ij p_ij |x_i|^2 are known beforehand. Fused moments carry them along
all the same: their rounding errors cancel those of the other terms (sharp heads have |lse| of some hundreds, and would
lose two digits), and kernels want a multiple of eight channels, so that they cost nothing.
`tiled_sums` follows the definitions literally, respects masks, and is the independent check.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from diffmech.attention.kernels import TILE_ELEMENTS, attention_with_lse, is_identity, score_tiles
from diffmech.attention.ranges import Tokens, count, within
from diffmech.attention.scratch import scratch

# Columns of `Grid.partners`: the query itself, its eight neighbours, and last (added there) its mirrored position.
NEIGHBOURHOOD = [(0, 0)] + [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


@dataclass(frozen=True)
class Grid:
    """Where tokens stand: `coordinates` are (y, x) from the image centre in units of the image side.

    `size` is (frames, height, width). `partners` are the tokens whose single entries are wanted, `present` is False
    outside.
    """

    size: tuple[int, int, int]
    coordinates: Float[Tensor, "token 2"]
    partners: Int[Tensor, "token 10"]
    present: Bool[Tensor, "token 10"]

    def squares(self, rows: slice) -> Float[Tensor, "query token"]:
        """Return the squared distance of some queries to all tokens, in image sides squared."""
        frames, height, width = self.size
        y, x = self.coordinates[rows].unsqueeze(-1).unbind(1)
        # Along each axis first: only their sum is as large as a block of probabilities.
        down = (y - self.coordinates[: height * width : width, 0]).square()
        across = (x - self.coordinates[:width, 1]).square()
        of_a_frame = down.unsqueeze(-1) + across.unsqueeze(-2)
        return of_a_frame.unsqueeze(1).expand(-1, frames, -1, -1).flatten(1)


@dataclass(frozen=True)
class Part:
    """The attention of some queries to some keys; with `grid`, both are all positions of one image (or video)."""

    query: Tokens
    key: Tokens
    grid: Grid | None = None


@dataclass(frozen=True)
class Sums:
    """Sums of p over one part, where p is normalised over all keys of the call.

    received: sum_i p_ij. entropy: -sum_ij p_ij ln p_ij, nats. square: sum_ij p_ij |x_i - x_j|^2.
    places: sum_i of p_ij at the query's own position, over the 3 x 3 positions around it (fewer at the border) and at
    its left-right mirror image. log_mass: sum_i m_i ln m_i, with m_i the attention of query i to the keys of this part;
    None where these are all keys, and m_i is one.
    """

    received: Float[Tensor, "sample head key"]
    entropy: Float[Tensor, "sample head"]
    square: Float[Tensor, "sample head"] | None = None
    places: Float[Tensor, "sample head 3"] | None = None
    log_mass: Float[Tensor, "sample head"] | None = None


def joined_sums(pieces: Sequence[Sums], axis: int) -> Sums:
    """Return the sums of all samples (`axis` 0) or heads (1) from those of some each, in order."""
    if len(pieces) == 1:
        return pieces[0]

    def join(values: Sequence[Tensor | None]) -> Tensor | None:
        present = [value for value in values if value is not None]
        return torch.cat(present, axis) if present else None

    received, entropy = (
        torch.cat(values, axis) for values in ([p.received for p in pieces], [p.entropy for p in pieces])
    )
    square, places = join([p.square for p in pieces]), join([p.places for p in pieces])
    return Sums(received, entropy, square, places, join([p.log_mass for p in pieces]))


@lru_cache(maxsize=64)
def make_grid(frames: int, height: int, width: int, device: torch.device, dtype: torch.dtype) -> Grid:
    """Return the grid of tokens in the order (frame, row, column); distances and partners are those within a frame."""
    axes = (torch.arange(length, device=device) for length in (frames, height, width))
    frame, y, x = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    start = frame * height * width
    partners, present = [], []
    for dy, dx in NEIGHBOURHOOD:
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        partners.append(start + torch.where(inside, (y + dy) * width + x + dx, 0))
        present.append(inside)
    partners.append(start + y * width + width - 1 - x)
    present.append(torch.ones_like(present[0]))
    # Centred, so that the squares in the distance cancel as little as possible.
    coordinates = torch.stack([(y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5], -1)
    size = (frames, height, width)
    return Grid(size, coordinates.to(dtype), torch.stack(partners, -1), torch.stack(present, -1))


def log_factors(
    query: Float[Tensor, "*head query channel"],
    key: Float[Tensor, "*head key channel"],
    scale: float,
    lse: Float[Tensor, "*head query"],
) -> tuple[Float[Tensor, "*head query channel+1"], Float[Tensor, "*head key channel+1"]]:
    """Return a and b with a_i.b_j = ln p_ij."""
    log_query = torch.cat([query.to(lse.dtype) * scale, -lse.unsqueeze(-1)], -1)
    ones = lse.new_ones(()).expand(*key.shape[:-1], 1)
    return log_query, torch.cat([key.to(lse.dtype), ones], -1)


def probability_tiles(
    query: Float[Tensor, "row query channel"],
    key: Float[Tensor, "row key channel"],
    scale: float,
    lse: Float[Tensor, "row query"],
) -> Iterator[tuple[slice, slice, Float[Tensor, "row query key"], Float[Tensor, "row query key"]]]:
    """Yield tiles of probabilities: which rows, which of their queries, log2 p and p.

    Rows are heads of samples, `lse` is in nats and of the type of the probabilities. The next tile takes the place of
    the last one.
    """
    # In powers of two: on a CPU torch's exp2 is four times as fast as its exp, and as exact.
    to_log2, given, turned = 1 / math.log(2), is_identity(key), key.to(lse.dtype).transpose(1, 2)
    count, queries, keys = *lse.shape, key.shape[1]
    tile = min(queries, max(1, TILE_ELEMENTS // keys))
    group = min(count, max(1, TILE_ELEMENTS // (tile * keys)))
    largest = max(TILE_ELEMENTS, group * tile * keys)  # all sites share blocks of one length
    buffers = [scratch([largest], lse.dtype, lse.device) for _ in range(2)]
    for first in range(0, queries, tile):
        some = slice(first, min(first + tile, queries))
        for start in range(0, count, group):
            rows = slice(start, min(start + group, count))
            shape = (rows.stop - start, some.stop - first, keys)
            log_p, p = (buffer[: math.prod(shape)].view(shape) for buffer in buffers)
            offset = lse[rows, some].unsqueeze(-1) * -to_log2
            if given:
                torch.add(offset, query[rows, some].to(lse.dtype), alpha=scale * to_log2, out=log_p)
            else:
                torch.baddbmm(offset, query[rows, some].to(lse.dtype), turned[rows], alpha=scale * to_log2, out=log_p)
            torch.exp2(log_p, out=p)
            yield rows, some, log_p, p


def blocked_sums(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample head key channel"],
    scale: float,
    lse: Float[Tensor, "sample head query"],
    grid: Grid | None,
    whole: bool = True,
) -> Sums:
    """Return the sums over all given queries and keys from tiles of probabilities that stay in the caches.

    `lse` is in nats and of the type to compute in. `whole` says that there are no other keys, so that each query's
    probabilities sum to one.
    """
    heads, count, keys = lse.shape[:2], math.prod(lse.shape[:2]), key.shape[2]
    received, entropy, log_mass = (lse.new_zeros(count, *shape) for shape in ([keys], [], []))
    square, entries = entropy.clone(), entropy.new_zeros(count, len(NEIGHBOURHOOD) + 1)
    squares = None
    for rows, some, log_p, p in probability_tiles(query.flatten(0, 1), key.flatten(0, 1), scale, lse.flatten(0, 1)):
        received[rows].add_(p.sum(1))
        if not whole:
            mass = p.sum(2)
            log_mass[rows].add_(torch.xlogy(mass, mass).sum(1))
        if grid is not None:
            if rows.start == 0 or squares is None:  # other queries than before
                squares = grid.squares(some).flatten()
            found = p.gather(-1, grid.partners[some].expand(len(p), -1, -1))
            entries[rows].add_((found * grid.present[some]).sum(1))
            square[rows].add_(p.flatten(1) @ squares)
        entropy[rows].sub_(log_p.mul_(p).sum((1, 2)), alpha=math.log(2))

    placed = grid is not None
    return Sums(
        received.unflatten(0, heads),
        entropy.unflatten(0, heads),
        square=square.unflatten(0, heads) if placed else None,
        places=_places(entries).unflatten(0, heads) if placed else None,
        log_mass=None if whole else log_mass.unflatten(0, heads),
    )


def fused_sums(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample head key channel"],
    scale: float,
    lse: Float[Tensor, "sample head query"],
    grid: Grid | None,
    whole: bool = True,
) -> Sums:
    """Return what `blocked_sums` does by one flipped fused call, whose extra memory grows with the tokens alone.

    The masses of a part that is not `whole` are the log-sum-exp of a second call.
    """
    log_query, log_key = log_factors(query, key, scale, lse)
    channels = log_key.shape[-1]
    moments, log_received = _moments(log_query, log_key, grid)
    received = log_received.exp()
    moments *= received.unsqueeze(-1)
    square, places, log_mass = None, None, None
    if grid is not None:
        products = (moments[..., channels : channels + 2] * grid.coordinates).sum((-1, -2))
        second = moments[..., channels + 2].sum(-1)
        square = (received * grid.coordinates.square().sum(-1)).sum(-1) - 2 * products + second
    entropy = -moments[..., :channels].mul_(log_key).sum(-1).sum(-1)  # in two steps: more exact where strided
    del moments
    if grid is not None:
        places = _near_places(log_query, log_key, grid.size)
    if not whole:
        padded_query, padded_key = (_padded(tensor, channels) for tensor in (log_query, log_key))
        log_masses = attention_with_lse(padded_query, padded_key, padded_key, scale=1.0)[1]
        log_mass = (log_masses.exp() * log_masses).sum(-1)
    return Sums(received, entropy, square, places, log_mass)


def _moments(
    log_query: Float[Tensor, "sample head query channel"],
    log_key: Float[Tensor, "sample head key channel"],
    grid: Grid | None,
) -> tuple[Float[Tensor, "sample head key moment"], Float[Tensor, "sample head key"]]:
    """Return the means of [a_i, x_i, |x_i|^2, zeros] over queries and ln sum_i p_ij."""
    beside = log_query.new_empty(log_query.shape[-2], 0)
    if grid is not None:
        beside = torch.cat([grid.coordinates, grid.coordinates.square().sum(-1, keepdim=True)], -1)
    channels = log_key.shape[-1]
    used = channels + beside.shape[-1]
    query, key = (_padded(tensor, used) for tensor in (log_key, log_query))
    beside = functional.pad(beside, (0, query.shape[-1] - used)).expand(*log_query.shape[:2], -1, -1)
    return attention_with_lse(query, key, torch.cat([log_query, beside], -1), scale=1.0)


def _padded(tensor: Float[Tensor, "... channel"], used: int) -> Float[Tensor, "... padded"]:
    """Return `tensor` with zeros up to a multiple of eight channels, as kernels want it, that is at least `used`."""
    return functional.pad(tensor, (0, -(-used // 8) * 8 - tensor.shape[-1]))


def _near_places(
    log_query: Float[Tensor, "sample head query channel"],
    log_key: Float[Tensor, "sample head key channel"],
    size: tuple[int, int, int],
) -> Float[Tensor, "sample head 3"]:
    """Return `Sums.places` from products of rows of the image with themselves and with the rows beside them."""
    query, key = (tensor.unflatten(2, size) for tensor in (log_query, log_key))
    height, width = size[1:]
    own, near, mirror = (log_query.new_zeros(log_query.shape[:2]) for _ in range(3))
    for dy in (-1, 0, 1):
        first, last = max(0, -dy), height - max(0, dy)
        log_p = query[..., first:last, :, :] @ key[..., first + dy : last + dy, :, :].transpose(-1, -2)
        for dx in (-1, 0, 1):
            found = log_p.diagonal(dx, -2, -1).exp().sum((-1, -2, -3))
            near += found
            own += found if dy == dx == 0 else 0
        if dy == 0:
            columns = torch.arange(width, device=log_p.device)
            mirror += log_p[..., columns, width - 1 - columns].exp().sum((-1, -2, -3))
    return torch.stack([own, near, mirror], -1)


def _places(entries: Float[Tensor, "... 10"]) -> Float[Tensor, "... 3"]:
    """Return own, near and mirrored from single entries at `Grid.partners`."""
    return torch.stack([entries[..., 0], entries[..., :-1].sum(-1), entries[..., -1]], -1)


def tiled_sums(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample key_head key channel"],
    scale: float,
    attn_mask: Shaped[Tensor, "..."] | None,
    is_causal: bool,
    parts: Sequence[Part],
) -> list[Sums]:
    """Return the sums of every part from explicit probabilities of a few queries at a time, by their definitions.

    Queries that a mask leaves without any key attend nowhere.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    lowest = torch.finfo(dtype).min
    zeros = torch.zeros(query.shape[:2], dtype=dtype, device=query.device)
    found = [
        Sums(
            received=zeros.new_zeros(*zeros.shape, count(part.key)),
            entropy=zeros.clone(),
            square=None if part.grid is None else zeros.clone(),
            places=None if part.grid is None else zeros.new_zeros(*zeros.shape, 3),
            log_mass=None if len(parts) == 1 else zeros.clone(),
        )
        for part in parts
    ]
    for rows, scores in score_tiles(query, key, scale, attn_mask, is_causal):
        log_p_of_all = scores.log_softmax(-1).nan_to_num(nan=lowest, neginf=lowest)  # finite, so that 0 ln 0 = 0
        for part, sums in zip(parts, found, strict=True):
            here = within(part.query, rows)
            if not count(here):
                continue
            log_p = log_p_of_all[:, :, here][..., part.key]
            p = log_p.exp()
            sums.received.add_(p.sum(-2))
            sums.entropy.sub_((p * log_p).sum((-1, -2)))
            if sums.log_mass is not None:
                mass = p.sum(-1)
                sums.log_mass.add_(torch.xlogy(mass, mass).sum(-1))
            if part.grid is not None and sums.square is not None and sums.places is not None:
                assert isinstance(part.query, slice)  # those of a grid follow each other
                first = max(rows.start - part.query.start, 0)
                inside = slice(first, first + p.shape[-2])
                sums.square.add_(p.flatten(2) @ part.grid.squares(inside).flatten())
                entries = p.gather(-1, part.grid.partners[inside].expand(*zeros.shape, -1, -1))
                sums.places.add_(_places((entries * part.grid.present[inside]).sum(-2)))
    return found
