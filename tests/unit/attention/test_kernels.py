"""Output and log-sum-exp agree with torch's public attention and with float64 softmax, whatever the kernel."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diffmech.attention.kernels import (
    TILE_ELEMENTS,
    attention_with_lse,
    logsumexp_scores,
    same_kernel_with_lse,
    score_tiles,
)
from diffmech.testing import assert_same_up_to_rounding


def tensors(queries: int, keys: int, channels: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(queries + keys)
    return tuple(
        torch.randn(2, tokens, 3, channels, generator=generator).transpose(1, 2).to(dtype)
        for tokens in (queries, keys, keys)
    )


def exact_lse(query: Tensor, key: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    scores = scale * query.double() @ key.double().transpose(-1, -2)
    return (scores if mask is None else scores + mask).logsumexp(-1)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (64, 64), (256, 12), (100, 333)])
def test_the_output_is_that_of_the_public_function_and_the_lse_is_exact(queries, keys):
    q, k, v = tensors(queries, keys)
    for scale in (None, 0.7):
        output, lse = attention_with_lse(q, k, v, scale)
        assert torch.equal(output, functional.scaled_dot_product_attention(q, k, v, scale=scale))
        expected = exact_lse(q, k, 1 / math.sqrt(8) if scale is None else scale)
        assert_same_up_to_rounding(lse, expected)
        assert_same_up_to_rounding(lse, logsumexp_scores(q, k, scale))


def test_the_private_kernel_is_used_here_and_agrees_with_the_public_fallback(monkeypatch):
    q, k, v = tensors(64, 64)
    assert same_kernel_with_lse(q, k, v) is not None
    fused = attention_with_lse(q, k, v)
    monkeypatch.delattr(torch, "_fused_sdp_choice")  # a release of torch without private operators
    assert same_kernel_with_lse(q, k, v) is None
    public = attention_with_lse(q, k, v)
    assert torch.equal(fused[0], public[0])
    assert_same_up_to_rounding(fused[1], public[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_keep_the_output_and_give_the_lse_in_at_least_float32(dtype):
    q, k, v = tensors(64, 64, dtype=dtype)
    output, lse = attention_with_lse(q, k, v)
    assert torch.equal(output, functional.scaled_dot_product_attention(q, k, v))
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_same_up_to_rounding(lse, exact_lse(q, k, 1 / math.sqrt(8)))


def test_masks_and_causality_are_respected_with_and_without_the_private_kernel():
    q, k, v = tensors(20, 20)
    allowed = torch.ones(20, 20, dtype=torch.bool).tril()
    bias = torch.zeros(20, 20).masked_fill(~allowed, -math.inf)
    expected = exact_lse(q, k, 1 / math.sqrt(8), bias)
    for arguments in ({"is_causal": True}, {"attn_mask": bias}, {"attn_mask": allowed}):
        output, lse = attention_with_lse(q, k, v, **arguments)
        assert torch.equal(output, functional.scaled_dot_product_attention(q, k, v, **arguments))
        assert_same_up_to_rounding(lse, expected)
        assert_same_up_to_rounding(logsumexp_scores(q, k, **arguments), expected)


def test_a_query_that_may_see_no_key_has_an_lse_of_minus_infinity():
    q, k, _ = tensors(4, 4)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    assert logsumexp_scores(q, k, attn_mask=nothing).eq(-math.inf).all()


def test_wanting_a_gradient_leaves_the_public_function_in_charge():
    q, k, v = tensors(16, 16)
    q.requires_grad_()
    assert same_kernel_with_lse(q, k, v) is None
    output, lse = attention_with_lse(q, k, v)
    output.sum().backward()
    assert q.grad is not None
    assert not lse.requires_grad
    with torch.no_grad():
        assert same_kernel_with_lse(q, k, v) is not None


def test_autocast_leaves_the_public_function_in_charge():
    q, k, v = tensors(16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = attention_with_lse(q, k, v)
        assert torch.equal(output, functional.scaled_dot_product_attention(q, k, v))
        assert output.dtype == torch.bfloat16


def test_scores_exist_only_as_tiles():
    q, k, _ = tensors(2000, 2000)
    sizes, covered = [], []
    for rows, scores in score_tiles(q, k):
        sizes.append(scores.numel())
        covered.extend(range(rows.start, rows.stop))
    assert covered == list(range(2000))
    assert max(sizes) <= TILE_ELEMENTS


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [8, 20, 40, 64, 128, 160])
def test_on_a_gpu_the_output_is_that_of_the_public_function_and_the_lse_is_exact(dtype, channels):
    for queries, keys in ((200, 77), (256, 256)):
        q, k, v = (tensor.cuda() for tensor in tensors(queries, keys, channels, dtype))
        output, lse = attention_with_lse(q, k, v)
        assert torch.equal(output, functional.scaled_dot_product_attention(q, k, v))
        expected = exact_lse(q, k, 1 / math.sqrt(channels))
        assert lse.shape == expected.shape
        assert_same_up_to_rounding(lse, expected)
        assert_same_up_to_rounding(logsumexp_scores(q, k), expected)


@pytest.mark.gpu
@on_a_gpu
def test_on_a_gpu_masks_and_causality_are_respected():
    q, k, v = (tensor.cuda() for tensor in tensors(64, 64, 64, torch.bfloat16))
    future = torch.ones(64, 64, dtype=torch.bool, device="cuda").triu(1)
    bias = torch.zeros(64, 64, dtype=torch.bfloat16, device="cuda").masked_fill(future, -math.inf)
    expected = exact_lse(q, k, 1 / math.sqrt(64), bias.double())
    for arguments in ({"is_causal": True}, {"attn_mask": bias}, {"attn_mask": bias == 0}):
        output, lse = attention_with_lse(q, k, v, **arguments)
        assert torch.equal(output, functional.scaled_dot_product_attention(q, k, v, **arguments))
        assert_same_up_to_rounding(lse, expected)
