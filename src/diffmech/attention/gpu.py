"""Statistics of one attention call by three GPU kernels, where Triton and the call allow it. Ours.

The ways of `attention.sums` are made of torch's operators. On a GPU blocks of scores then travel through its memory
several times, and the flipped fused call computes in float32, without tensor cores; averages take some thirty launches
more. Here scores are computed once, on tensor cores in the type of the inputs, exactly as attention computes them, and
stay in registers (`attention.gpu_kernels`); the log-sum-exp is that of attention itself, so that there is nothing to
normalise and no value to multiply with: less work than attention. A call takes three launches and no wait for the GPU.

A flipped flash call in half precision would need no kernel of ours, but it costs more than attention, has neither
single entries nor parts, and rounds its moments to 8 bits: of random heads at 1,024 to 2,304 tokens in bfloat16 its
entropy is off by 7e-5 to 7e-3 of the largest, that of torch's operators by 6e-7 to 1e-5 (benchmarks/gpu_kernel.py).

What the kernels are not for (masks, causal calls, float64, many channels) is left to the other ways, as is everything
where they cannot be compiled. The first call of every kind of kernel is compared with the other ways.
"""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from diffmech.attention.calls import AttentionCall
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sums import Part, make_grid

logger = logging.getLogger(__name__)

# By their names in `AttentionStatistics`.
Fields = dict[str, Float[Tensor, "..."]]

# By the type of queries and keys, how many channels fit a program. Float32 has no tensor cores, if it is to be float32,
# and operands are in registers then.
MOST_CHANNELS = {torch.float32: 64, torch.bfloat16: 256, torch.float16: 256}

# What two ways may differ by, as a share of the largest value of a field or of what is below if that is more: scores
# are added up in another order, and in TF32 where torch was allowed it. Kernels compiled wrongly are further off.
AGREEMENT = 0.05
LEAST = {"entropy": 1.0, "position_information": 1.0, "part_entropy": 1.0, "distance": 0.1}

# By kind of kernel, whether it may be used; those that are not in it were not tried yet.
_usable: dict[Hashable, bool] = {}


@dataclass(frozen=True)
class Blocks:
    """How many keys a program holds, how many queries it takes at a time and in all; `stages` are loaded ahead.

    `rows` is how many queries a program takes of which single entries are wanted. Chosen by shape alone and never by
    timing: sums depend on them, and numbers must not depend on a busy GPU. Nor do they depend on samples and heads.
    """

    keys: int
    queries: int
    chunk: int
    rows: int
    warps: int
    stages: int


def blocks_of(call: AttentionCall) -> Blocks:
    """Return the blocks for a call.

    128 keys by 64 queries are 64 scores for each of the 128 threads of a program, beside which probabilities still fit
    the registers. Chunks are long enough for keys to be loaded seldom, and short enough that one image fills a GPU.
    """
    queries, channels, keys = *call.query.shape[2:], call.key.shape[2]
    chunk = 256 if keys <= 128 or queries <= 512 else 512 if queries <= 2048 else 1024
    widest = max(channels, call.output.shape[3])
    rows = 64 if widest <= 64 else 32 if widest <= 128 else 16
    if call.query.dtype == torch.float32:
        return Blocks(keys=32, queries=32, chunk=chunk, rows=rows // 2, warps=8, stages=1)
    held, stages = 64 if keys <= 64 else 128, 3 if channels <= 128 else 2
    return Blocks(keys=held, queries=64, chunk=chunk, rows=rows, warps=4, stages=stages)


def power_of_two(number: int) -> int:
    """Return the least power of two that is no less than `number`, and at least 16, as tensor cores want it."""
    return max(16, 1 << (number - 1).bit_length())


def widths(channels: int) -> tuple[int, int]:
    """Return two powers of two, the second perhaps 0, that hold all channels: 40 take 32 and 16 rather than 64.

    Both ways are read alike and take as many instructions a step (733 and 728 at 40 channels, 744 and 783 at 80, for an
    H100), but two powers take less of the tensor cores (6 products for 8, 10 for 16) and of the shared memory, of which
    160 channels as 256 would leave room for one program at a time.
    """
    padded = power_of_two(channels)
    rest = power_of_two(max(1, channels - padded // 2))
    return (padded // 2, rest) if padded > 16 and rest < padded // 2 else (padded, 0)


def common_unit(*tensors: Shaped[Tensor, "..."]) -> int:
    """Return 8 where channels follow each other and all other strides are multiples of 8 numbers, else 1.

    Half precision is then read 16 bytes at a time. Triton itself asks only whether a stride is a multiple of 16
    numbers, which that of 40 channels from head to head is not. Compiled for an H100 without this, such keys and
    queries are read number by number and not ahead (no `cp.async`), and `rows` keeps 2.9 kB per thread outside its
    registers.
    """
    along = all(tensor.stride(-1) == 1 for tensor in tensors)
    return 8 if along and not any(step % 8 for tensor in tensors for step in tensor.stride()[:-1]) else 1


def strides_in(unit: int, tensor: Shaped[Tensor, "..."]) -> tuple[int, ...]:
    """Return the strides of a tensor, all but that of channels in units."""
    *others, channels = tensor.stride()
    return (*(step // unit for step in others), channels)


def pieces_of(tokens: slice, total: int, length: int) -> int:
    """Return the number of pieces of `length` that the tokens before, of and after the image are cut into."""
    return sum(-(-some // length) for some in (tokens.start, tokens.stop - tokens.start, total - tokens.stop))


@lru_cache(maxsize=64)
def places_of(size: tuple[int, int, int], device: torch.device) -> Float[Tensor, "3 padded"]:
    """Return y, x and y^2 + x^2 of all tokens of (frames, height, width), and zeros up to whole blocks of queries."""
    places = make_grid(*size, device, torch.float32).coordinates
    table = torch.cat([places, places.square().sum(-1, keepdim=True)], -1).T
    return functional.pad(table, (0, -len(places) % 128)).contiguous()


def fits(call: AttentionCall) -> bool:
    """Return whether the kernels are for calls such as this."""
    tensors = (call.query, call.key)
    return (
        call.attn_mask is None
        and not call.is_causal
        and all(type(tensor) is Tensor and tensor.dtype == call.query.dtype for tensor in tensors)
        and call.query.shape[:2] == call.key.shape[:2]
        and call.query.shape[-1] <= MOST_CHANNELS.get(call.query.dtype, 0)
        and call.output.shape[-1] <= max(MOST_CHANNELS.values())
        and 0 not in (*call.query.shape, *call.key.shape, *call.output.shape)
        and call.output.dtype in MOST_CHANNELS
    )


def kernel_statistics(
    call: AttentionCall,
    parts: Sequence[Part],
    lse: Float[Tensor, "sample head query"],
    ranges: TokenRanges | None,
    otherwise: Callable[[], Mapping[str, Float[Tensor, "..."] | None]],
) -> Fields | None:
    """Return the fields of `AttentionStatistics`, or None where another way must be taken.

    `lse` is in nats. `otherwise` gives the fields in another way, for a comparison. A kernel that cannot be compiled or
    disagrees is not asked again, and a warning says why.
    """
    if not fits(call):
        return None
    query, shown = call.query, call.output.shape[-1]
    kind = (query.device, query.dtype, query.shape[-1], shown, len(parts), parts[0].grid is None, blocks_of(call))
    if not _usable.get(kind, True):
        return None
    try:
        found = launched(call, parts, lse, ranges)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a compiler, a driver, a GPU that nobody here has seen
        _refuse(kind, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        return None
    if kind not in _usable:
        difference = disagreement(found, otherwise())
        if difference is not None:
            _refuse(kind, difference)
            return None
        _usable[kind] = True
    return found


def launched(
    call: AttentionCall,
    parts: Sequence[Part],
    lse: Float[Tensor, "sample head query"],
    ranges: TokenRanges | None,
) -> Fields:
    """Return the fields of `AttentionStatistics` from the kernels, whatever the device. Raises ImportError."""
    from diffmech.attention import gpu_kernels

    query, key, output, grid = call.query, call.key, call.output, parts[0].grid
    lse = lse if lse.stride(-1) == 1 else lse.contiguous()
    (samples, heads, queries, channels), keys, shown = query.shape, key.shape[2], output.shape[3]
    joint, asking, total = len(parts) > 1, len(parts) > 2, samples * heads
    size = blocks_of(call)
    of_query, of_key = parts[0].query, parts[0].key
    assert isinstance(of_query, slice)  # those of the image, or all, follow each other
    assert isinstance(of_key, slice)
    images = (of_query.start, of_query.stop, of_key.start, of_key.stop)
    blocks = pieces_of(of_key, keys, size.keys)
    chunks, pieces = (pieces_of(of_query, queries, length) for length in (size.chunk, size.rows))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=query.device)

    received, sums, found = empty(total, chunks, keys), empty(total, 2, chunks * blocks), empty(total, 6, pieces)
    output_sums, masses = empty(total, pieces, shown), empty(total, blocks, queries) if joint else lse
    share, scalars, mean = empty(samples, heads, keys), empty(7, samples, heads), empty(samples, heads, shown)
    rest = empty(samples, heads, keys) if asking else share
    by_part = empty(2, samples, heads, len(parts)) if joint else share
    main, second = widths(channels)
    unit = common_unit(query, key, output)
    of_pairs = (*strides_in(unit, query), *strides_in(unit, key), *lse.stride()[:2])
    lengths = (queries, keys, *images)
    places = lse if grid is None else places_of(grid.size, query.device)
    height, width = (1, 1) if grid is None else grid.size[1:]
    flags = {"PLACED": grid is not None, "JOINT": joint, "UNIT": unit}
    aligned = of_query.start % 16 == of_query.stop % 16 == 0
    padded = {"OUTPUT": shown, "OUTPUT_PADDED": power_of_two(shown)}
    with torch.cuda.device(query.device) if query.is_cuda else nullcontext():
        gpu_kernels.pairs[(total * chunks * blocks,)](
            query, key, lse, places, received, sums, masses, *of_pairs, places.stride(0), call.scale, heads,
            *lengths, blocks, chunks, size.chunk,
            CHANNELS=channels, MAIN=main, REST=second, KEYS=size.keys, QUERIES=size.queries, ALIGNED=aligned,
            PRECISION="ieee", num_warps=size.warps, num_stages=size.stages, **flags,
        )  # fmt: skip
        gpu_kernels.rows[(total * pieces,)](
            query, key, lse, output, masses, found, output_sums, *of_pairs, *strides_in(unit, output), call.scale,
            heads, *lengths, blocks, pieces, size.keys, height, width,
            CHANNELS=channels, PADDED=power_of_two(channels), QUERIES=size.rows, num_warps=4, **flags, **padded,
        )  # fmt: skip
        gpu_kernels.finish[(total,)](
            received, sums, found, output_sums, share, rest, scalars, by_part, mean, total, *lengths, blocks, chunks,
            pieces, size.keys, size.chunk, size.rows,
            JOINT=joint, ASKING=asking, num_warps=4, **padded,
        )  # fmt: skip

    entropy, information, norm, *spatial = scalars.unbind()
    fields: Fields = {
        "entropy": entropy,
        "position_information": information,
        "received": share,
        "output_mean": mean,
        "output_norm": norm,
    }
    if grid is not None:
        fields |= dict(zip(("distance", "self_mass", "neighbourhood_mass", "mirror_mass"), spatial, strict=True))
    if joint:
        fields |= {"part_mass": by_part[0], "part_entropy": by_part[1]}
    return fields | ({f"received_from_{ranges.rest}": rest} if ranges and asking else {})


def disagreement(found: Fields, expected: Mapping[str, Float[Tensor, "..."] | None]) -> str | None:
    """Return in words which field two ways do not agree in, or None."""
    for name, mine in found.items():
        theirs = expected[name]
        assert theirs is not None
        if name == "part_entropy":  # of a part without mass it is a quotient of two roundings
            mine, theirs = mine * found["part_mass"], theirs * found["part_mass"]
        scale = theirs.nan_to_num().abs().max().clamp_min(LEAST.get(name, 1e-6))
        if not torch.allclose(mine / scale, theirs / scale, rtol=0, atol=AGREEMENT, equal_nan=True):
            most, largest = (mine - theirs).abs().max(), theirs.abs().max()
            return f"they are {float(most):.3g} off in {name}, whose largest value is {float(largest):.3g}"
    return None


def _refuse(kind: Hashable, reason: str) -> None:
    """Take the other ways for calls of this kind from now on, and say so once."""
    if False not in _usable.values():
        logger.warning("the GPU kernels of attention statistics are not used, slower ways are: %s", reason)
    _usable[kind] = False
