"""Attention together with its log-sum-exp: the only file that touches torch's private operators.

The fused kernels behind `scaled_dot_product_attention` already hold lse_i = logsumexp_j s_ij (FlashAttention, Dao et
al. 2022); the public function throws it away. Where that very kernel can be asked directly, output and lse come from
one call and the output is bit-identical by construction; elsewhere the public function runs and the lse is summed
beside it, tile by tile.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

# The fused attention itself, by which it is known also where a file of the user's puts something around it.
FUSED = torch._C._nn.scaled_dot_product_attention

# One tile of scores: 4 MiB of float32, which the cores share. Smaller tiles fit their caches better but cost more
# calls: of 2^16 to 2^20 elements this is the fastest on one and two cores, a tenth to a quarter over 2^18.
TILE_ELEMENTS = 2**20

# What FlashAttention takes, which gives the lse of a call that another kernel of a GPU answers (cuDNN's, on Hopper).
HALF, MOST_CHANNELS, MULTIPLE, AMPERE = (torch.float16, torch.bfloat16), 256, 8, (8, 0)

# torch.nn.attention.SDPBackend; as integers because `_fused_sdp_choice` returns integers
FLASH, EFFICIENT, CUDNN = 1, 2, 3

# By device, type, shapes and strides of a call: whether cuDNN gives the same bits where it is asked for the lse too.
_cudnn_gives_both: dict[tuple[Any, ...], bool] = {}


def attention_with_lse(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample key_head key channel"],
    value: Float[Tensor, "sample key_head key value_channel"],
    scale: float | None = None,
    attn_mask: Shaped[Tensor, "..."] | None = None,
    is_causal: bool = False,
) -> tuple[Float[Tensor, "sample head query value_channel"], Float[Tensor, "sample head query"]]:
    """Return attention's output and log-sum-exp in nats.

    The output equals that of `scaled_dot_product_attention` bit for bit.
    """
    fused = same_kernel_with_lse(query, key, value, scale, attn_mask, is_causal)
    if fused is not None:
        return fused
    output = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attn_mask, is_causal=is_causal, scale=scale
    )
    return output, logsumexp_scores(query, key, scale, attn_mask, is_causal)


def same_kernel_with_lse(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample key_head key channel"],
    value: Float[Tensor, "sample key_head key value_channel"],
    scale: float | None = None,
    attn_mask: Shaped[Tensor, "..."] | None = None,
    is_causal: bool = False,
) -> tuple[Float[Tensor, "sample head query value_channel"], Float[Tensor, "sample head query"]] | None:
    """Return output and lse from the kernel that `scaled_dot_product_attention` would run, or None where it has none.

    None also where torch would first change the arguments (autocast, padded head sizes, boolean masks) or where a
    gradient is wanted: then only the public function is sure to give the same output.
    """
    tensors = (query, key, value)
    plain = all(type(tensor) is Tensor and tensor.dim() == 4 for tensor in tensors)
    wants_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if not plain or wants_gradient or torch.is_autocast_enabled(query.device.type) or query.shape[1] != key.shape[1]:
        return None
    if attn_mask is not None and (attn_mask.dtype != query.dtype or attn_mask.requires_grad):
        return None
    try:
        choice = torch._fused_sdp_choice(
            query, key, value, attn_mask=attn_mask, dropout_p=0.0, is_causal=is_causal, scale=scale
        )
        if query.device.type == "cpu" and choice == FLASH:
            output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale
            )
        elif query.device.type == "cuda" and attn_mask is None and query.shape[-1] % 8 == 0 and choice == FLASH:
            output, lse = torch.ops.aten._scaled_dot_product_flash_attention(
                query, key, value, 0.0, is_causal, False, scale=scale
            )[:2]
        elif query.device.type == "cuda" and attn_mask is None and choice == EFFICIENT:
            output, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
                query, key, value, None, True, 0.0, is_causal, scale=scale
            )[:2]
        elif query.device.type == "cuda" and attn_mask is None and choice == CUDNN:
            return _cudnn_with_lse(query, key, value, scale, is_causal)
        else:
            return None
    except (AttributeError, TypeError):  # another release of torch: private operators come and go
        return None
    return output, lse[..., : query.shape[-2]]  # the efficient kernel pads the lse to a multiple of 32


def _cudnn_with_lse(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample key_head key channel"],
    value: Float[Tensor, "sample key_head key value_channel"],
    scale: float | None,
    is_causal: bool,
) -> tuple[Float[Tensor, "sample head query value_channel"], Float[Tensor, "sample head query"]] | None:
    """Return output and lse from cuDNN's kernel, None where asking for the lse changes the output.

    cuDNN chooses a kernel by what it is asked for, so that equal bits have to be seen: by the first call of each kind,
    which is why that one takes several times as long.
    """

    def ask(wants_lse: bool) -> tuple[Tensor, Tensor]:
        output, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(
            query, key, value, None, wants_lse, 0.0, is_causal, False, scale=scale
        )[:2]
        return output, lse

    call = (query.device, query.dtype, is_causal, *((z.shape, z.stride()) for z in (query, key, value)))
    if call not in _cudnn_gives_both:
        try:
            output, lse = ask(True)
        except RuntimeError:
            _cudnn_gives_both[call] = False
            return None
        plain = functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale)
        rows = lse.reshape(query.shape[:-1])
        tiles = logsumexp_scores(query[:, :, :1], key, scale) if not is_causal else rows[:, :, :1]
        near = torch.allclose(rows[:, :, :1], tiles, rtol=1e-3, atol=1e-3)
        _cudnn_gives_both[call] = near and torch.equal(output, plain)
    if not _cudnn_gives_both[call]:
        return None
    output, lse = ask(True)
    return output, lse.reshape(query.shape[:-1])


def logsumexp_scores(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample key_head key channel"],
    scale: float | None = None,
    attn_mask: Shaped[Tensor, "..."] | None = None,
    is_causal: bool = False,
) -> Float[Tensor, "sample head query"]:
    """Return lse_i = logsumexp_j (scale q_i.k_j + mask_ij), in float32 or float64.

    Scores exist only as blocks of a few queries by all keys, or, of queries and keys in half precision on a GPU, within
    a fused kernel. A query that may see no key has lse = -inf.
    """
    with torch.no_grad():
        fused = None
        if query.device.type == "cuda" and attn_mask is None and not is_causal:
            fused = _fused_logsumexp(query, key, scale)
        if fused is not None:
            return fused
        blocks = [scores.logsumexp(-1) for _, scores in score_tiles(query, key, scale, attn_mask, is_causal)]
        return torch.cat(blocks, -1)


def _fused_logsumexp(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample key_head key channel"],
    scale: float | None,
) -> Float[Tensor, "sample head query"] | None:
    """Return the lse from FlashAttention's kernel for GPUs, which sums in float32, None where it does not serve."""
    channels = query.shape[-1]
    fits = query.dtype in HALF and channels <= MOST_CHANNELS and channels % MULTIPLE == 0
    # It wants channels side by side, and multiples of 16 bytes between all else.
    aligned = all(z.stride(-1) == 1 and all(step % MULTIPLE == 0 for step in z.stride()[:-1]) for z in (query, key))
    if not fits or not aligned or query.shape[1] != key.shape[1]:
        return None
    if torch.cuda.get_device_capability(query.device) < AMPERE:
        return None
    try:
        # Values do not matter: the keys have the right shape.
        lse: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, key, scale=scale)[1]
    except (AttributeError, TypeError):  # another release of torch
        return None
    return lse[..., : query.shape[-2]]


def is_identity(key: Float[Tensor, "... key channel"]) -> bool:
    """Return whether the keys are the unit vectors, the same for all: then queries are scores."""
    *leading, keys, channels = key.shape
    if keys != channels or any(length > 1 and key.stride(axis) for axis, length in enumerate(leading)):
        return False
    one = key[(0,) * len(leading)] if key.numel() else key
    return one.dim() == 2 and torch.equal(one, torch.eye(keys, dtype=key.dtype, device=key.device))


def score_tiles(
    query: Float[Tensor, "sample head query channel"],
    key: Float[Tensor, "sample key_head key channel"],
    scale: float | None = None,
    attn_mask: Shaped[Tensor, "..."] | None = None,
    is_causal: bool = False,
    first: int = 0,
) -> Iterator[tuple[slice, Float[Tensor, "sample head tile key"]]]:
    """Yield a slice of queries and their scores, in float32 or float64.

    `first` is the position of the first query, which a causal mask needs.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    batch, heads, queries, channels = query.shape
    keys = key.shape[-2]
    if key.shape[1] != heads:  # grouped-query attention: each key head serves several query heads
        key = key.repeat_interleave(heads // key.shape[1], dim=1)
    scaled = query.to(dtype) * (1 / math.sqrt(channels) if scale is None else scale)
    given, transposed = is_identity(key), key.to(dtype).transpose(-1, -2)
    mask = None if attn_mask is None else attn_mask.expand(batch, heads, queries, keys)
    tile = max(1, TILE_ELEMENTS // (batch * heads * keys))
    for start in range(0, queries, tile):
        rows = slice(start, min(start + tile, queries))
        scores = scaled[:, :, rows].clone() if given else scaled[:, :, rows] @ transposed
        if is_causal:  # aligned at the first query and the first key, as scaled_dot_product_attention has it
            positions = first + torch.arange(start, rows.stop, device=query.device)
            future = torch.arange(keys, device=query.device) > positions[:, None]
            scores.masked_fill_(future, -math.inf)
        if mask is not None:
            block = mask[:, :, rows]
            scores = scores.masked_fill_(~block, -math.inf) if block.dtype == torch.bool else scores.add_(block)
        yield rows, scores


def is_mapped(tensor: Shaped[Tensor, "..."]) -> bool:
    """Return whether a tensor is one of `torch.vmap`, whose batch nobody sees."""
    return bool(torch._C._functorch.is_batchedtensor(tensor))


def as_cast(*tensors: Any) -> list[Any]:
    """Return tensors as autocast, where it is on, hands them to a fused attention: floating ones in its type."""
    device = next(tensor for tensor in tensors if tensor is not None).device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if t is not None and t.is_floating_point() else t for t in tensors]
