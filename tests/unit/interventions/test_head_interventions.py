"""The four replacements in closed form, their names, and their way to a file and back."""

import math

import pytest
import torch

from diffmech.attention.calls import AttentionCall, call_of_weights
from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.errors import ConfigError, StoreError
from diffmech.interventions.heads import (
    HeadPairs,
    MeanHead,
    ReferenceOutputs,
    ResampleHead,
    UniformAttention,
    ZeroHead,
    from_config,
    replace_heads,
    to_config,
)
from diffmech.testing import assert_same_up_to_rounding

SITE = AttentionSite("mid.0.self", "mid_block.attentions.0", "self", 3)
HEAD = HeadId("mid.0.self", 1)
PAIRS = HeadPairs(torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([1, 0]))


def attention_call(mask: torch.Tensor | None = None, is_causal: bool = False) -> AttentionCall:
    """Two images, three heads, four queries and keys, five channels."""
    source = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 4, 5, generator=source)
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal)
    return AttentionCall(SITE, query, key, value, output, None, 5**-0.5, mask, is_causal)


def attention_without_choice(call: AttentionCall) -> torch.Tensor:
    """Attention with queries of zero: every visible key weighs the same. An independent way to uniform attention."""
    return torch.nn.functional.scaled_dot_product_attention(
        torch.zeros_like(call.query), call.key, call.value, attn_mask=call.attn_mask, is_causal=call.is_causal
    )


def test_uniform_attention_is_the_mean_of_the_values() -> None:
    call = attention_call()
    found = UniformAttention.replacement(call, PAIRS, None)
    expected = call.value[PAIRS.rows, PAIRS.heads].mean(1, keepdim=True).expand(-1, 4, -1)
    assert_same_up_to_rounding(found, expected)
    assert_same_up_to_rounding(found, attention_without_choice(call)[PAIRS.rows, PAIRS.heads])


@pytest.mark.parametrize("kind", ["causal", "boolean", "additive"])
def test_uniform_attention_covers_only_the_keys_that_may_be_seen(kind: str) -> None:
    visible = torch.tensor([True, True, False, True]).expand(4, 4)
    masks = {"causal": None, "boolean": visible, "additive": torch.zeros(4, 4).masked_fill(~visible, -torch.inf)}
    call = attention_call(masks[kind], is_causal=kind == "causal")
    found = UniformAttention.replacement(call, PAIRS, None)
    assert_same_up_to_rounding(found, attention_without_choice(call)[PAIRS.rows, PAIRS.heads])


@pytest.mark.parametrize("lowest", [-math.inf, torch.finfo(torch.float32).min, -1e9, -1e4])
@pytest.mark.parametrize("way", ["mask", "causal too", "by hand"])
def test_uniform_attention_is_the_same_however_a_mask_is_written(lowest: float, way: str) -> None:
    visible = torch.tensor([True, True, False, True]).expand(4, 4)
    if way == "causal too":
        visible = visible.tril()
    mask = torch.tensor([0.0, -3.0, 0.0, 2.0]).masked_fill(~visible, lowest)
    expected = UniformAttention.replacement(attention_call(visible), PAIRS, None)
    call = attention_call(mask, is_causal=way == "causal too")
    if way == "by hand":
        weights = (call.scale * call.query @ call.key.mT + mask).softmax(-1)
        call = call_of_weights(SITE, weights, call.value, call.output, None)
    assert torch.equal(UniformAttention.replacement(call, PAIRS, None), expected)


def test_uniform_attention_of_small_weights_in_half_precision_covers_all_keys() -> None:
    call = attention_call()
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0]).half().expand(2, 3, 4, 4)  # of scores 20 below the first
    found = UniformAttention.replacement(call_of_weights(SITE, weights, call.value, call.output, None), PAIRS, None)
    assert torch.equal(found, UniformAttention.replacement(call, PAIRS, None))


def test_mean_and_resample_read_the_right_head_and_reference() -> None:
    call = attention_call()
    bank = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    reference = ReferenceOutputs(100, {SITE.name: bank.mean(0)}, {SITE.name: bank})
    assert torch.equal(MeanHead.replacement(call, PAIRS, reference), torch.stack([bank.mean(0)[2], bank.mean(0)[1]]))
    assert torch.equal(ResampleHead.replacement(call, PAIRS, reference), torch.stack([bank[1, 2], bank[0, 1]]))


def test_mean_without_a_reference_is_an_error_that_names_the_site() -> None:
    with pytest.raises(
        StoreError,
        match=r"the reference outputs hold no mean of mid\.0\.self; make them with the same model and methods",
    ):
        MeanHead.replacement(attention_call(), PAIRS, None)


def test_a_reference_of_another_image_size_is_an_error_with_both_shapes() -> None:
    reference = ReferenceOutputs(100, {SITE.name: torch.zeros(3, 16, 5)}, {})
    with pytest.raises(
        StoreError, match=r"\(3, 16, 5\), the model's output \(3, 4, 5\); make the reference with the same"
    ):
        MeanHead.replacement(attention_call(), PAIRS, reference)


@pytest.mark.parametrize("method", ["zero", "mean", "resample", "uniform"])
def test_interventions_survive_the_way_to_plain_values_and_back(method: str) -> None:
    (intervention,) = replace_heads(method, [HEAD], source=3)
    assert from_config(to_config(intervention), [SITE]) == intervention
    assert str(intervention).startswith(f"{method} mid.0.self.h01")


def test_an_intervention_prints_as_its_method_and_head() -> None:
    assert str(ZeroHead(HeadId("down1.0.self", 3))) == "zero down1.0.self.h03"


def test_no_heads_give_no_interventions() -> None:
    assert replace_heads("mean", []) == ()


def test_an_unknown_head_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'mid\.0\.self\.h07'.*nearest: mid\.0\.self\.h0"):
        from_config({"method": "zero", "head": "mid.0.self.h07"}, [SITE])


def test_unknown_methods_and_keys_are_errors() -> None:
    with pytest.raises(ConfigError, match="'erase' is not an ablation method"):
        replace_heads("erase", [HEAD])
    with pytest.raises(ConfigError, match="keys method and head"):
        from_config({"method": "zero", "heads": "mid.0.self.h01"})
    with pytest.raises(ConfigError, match=r"'erase' is not an intervention; expected one of zero, .*, swap_timestep"):
        from_config({"method": "erase", "head": "mid.0.self.h01"})
    with pytest.raises(ConfigError, match="scale has the keys method, head, dose; found"):
        from_config({"method": "scale", "head": "mid.0.self.h01"})
    with pytest.raises(ConfigError, match="needs the reference row"):
        replace_heads("resample", [HEAD])
