"""How torch's kernels give the log-sum-exp: which one answers, whether asking it changes bits, and what it takes."""

import math
from typing import Any

import torch
from clock import timed
from torch.nn import functional

from diffmech.attention.kernels import attention_with_lse, logsumexp_scores

CHOICES = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}


def asked(tokens: int, channels: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Return what is known of one call of 2 images and 8 heads."""
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(2, tokens, 8, channels, device=device, dtype=dtype).transpose(1, 2) for _ in range(3)
    )
    with torch.no_grad():
        expected = functional.scaled_dot_product_attention(query, key, value)
        output, lse = attention_with_lse(query, key, value)
        exact = (query.double() @ key.double().mT / math.sqrt(channels)).logsumexp(-1)
        found: dict[str, Any] = {
            "choice": CHOICES.get(torch._fused_sdp_choice(query, key, value), "?"),
            "same_bits": torch.equal(expected, output),
            "lse_error": float((lse.double() - exact).abs().max()),
            "plain_ms": timed(lambda: functional.scaled_dot_product_attention(query, key, value), device).median,
            "with_lse_ms": timed(lambda: attention_with_lse(query, key, value), device).median,
            "lse_ms": timed(lambda: logsumexp_scores(query, key), device).median,
        }
        if device == "cuda" and dtype != torch.float32:
            found |= _with_cudnn(query, key, value, expected, exact)
    return found


def _with_cudnn(query: Any, key: Any, value: Any, expected: Any, exact: Any) -> dict[str, Any]:
    """Whether cuDNN's kernel, asked for its log-sum-exp, gives the same output as unasked, and how exact that is."""
    try:
        output, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, True)[:2]
        alone = torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, None, False)[0]
    except (RuntimeError, TypeError, AttributeError) as error:
        return {"cudnn": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"}
    error = float((lse.reshape(exact.shape).double() - exact).abs().max())
    same = torch.equal(output, alone)
    return {"cudnn_same_bits": same, "cudnn_is_public": torch.equal(alone, expected), "cudnn_lse_error": error}
