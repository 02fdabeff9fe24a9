"""Every family on a GPU, in half precision: the same bits under a tap, no further waiting, and exact statistics."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffmech.attention.calls import AttentionCall
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import HeadId, find_sites
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.tap import AttentionTap
from diffmech.attention.text_tokens import token_ranges
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import MeanHead, ReferenceOutputs, UniformAttention, ZeroHead
from diffmech.testing import (
    FAMILIES,
    assert_same_up_to_rounding,
    evaluate,
    example_grid,
    example_inputs,
    tiny_model,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
on_each_family = pytest.mark.parametrize("family", FAMILIES)
in_each_precision = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
Run = Callable[[], Tensor]


def moved(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to("cuda", dtype if value.is_floating_point() else value.dtype)
    return {name: moved(part, dtype) for name, part in value.items()} if isinstance(value, dict) else value


def prepare(family: str, dtype: torch.dtype) -> tuple[nn.Module, Run, dict[str, TokenRanges]]:
    model = tiny_model(family)
    inputs = example_inputs(model)
    ranges = token_ranges(model, lambda: evaluate(model, inputs))
    model.to("cuda", dtype)
    inputs = moved(inputs, dtype)
    return model, lambda: evaluate(model, inputs), ranges


def statistics(model: nn.Module, ranges: dict[str, TokenRanges]) -> StatisticsObserver:
    grid = example_grid(model)
    return StatisticsObserver({} if grid is None else {site.name: grid for site in find_sites(model)}, ranges)


def waits(run: Run) -> list[str]:
    """Run a warm pass and return what it waited for, as torch tells it."""
    run()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [str(each.message) for each in told if "called a synchronizing CUDA operation" in str(each.message)]


@on_each_family
@in_each_precision
def test_the_output_is_the_same_bit_for_bit_with_the_tap_on(family, dtype):
    model, run, ranges = prepare(family, dtype)
    plain = run()
    assert plain.isfinite().all()
    assert torch.equal(plain, run())  # or nothing could be said about taps
    with AttentionTap(model, [statistics(model, ranges)]):
        assert torch.equal(plain, run())
    assert torch.equal(plain, run())


@on_each_family
def test_a_watched_pass_waits_for_no_more_than_a_plain_one(family):
    model, run, ranges = prepare(family, torch.bfloat16)
    plain = waits(run)
    with AttentionTap(model, [statistics(model, ranges)]):
        assert len(waits(run)) == len(plain)


@on_each_family
@in_each_precision
def test_statistics_equal_those_of_a_float64_softmax(family, dtype):
    model, run, ranges = prepare(family, dtype)
    calls: list[AttentionCall] = []
    observer = statistics(model, ranges)
    with AttentionTap(model, [calls.append, observer]):
        run()
    assert observer.results.keys() == {call.site.name for call in calls}
    for call in calls:
        name, mask, found = call.site.name, call.attn_mask, observer.results[call.site.name]
        scores = call.scale * call.query.double() @ call.key.double().mT
        log_p = (scores if mask is None else scores + mask.double()).log_softmax(-1).clamp_min(-1e4)
        p = log_p.exp()
        rows = slice(*ranges[name].image) if name in ranges else slice(None)
        entropy, received = -(p * log_p)[:, :, rows].sum(-1).mean(-1), p[:, :, rows].mean(-2) * p.shape[-1]
        # An entropy is a mean of ln p, and p is exp of a difference of scores: errors are in roundings of those.
        size = max(1.0, float(scores.abs().max()))
        assert_same_up_to_rounding(found.entropy, entropy, scale=size)
        assert_same_up_to_rounding(found.received, received, scale=size * float(received.max()))
        output = call.output[:, :, rows].double()
        assert_same_up_to_rounding(found.output_mean, output.mean(-2), scale=float(output.abs().max()))


def test_rows_of_one_batch_have_heads_of_their_own_replaced():
    model, run, _ = prepare("sd1", torch.float16)
    sites = find_sites(model)
    plain, first = run(), sites[0]
    calls: list[AttentionCall] = []
    with AttentionTap(model, [calls.append]):
        run()
    outputs = {call.site.name: call.output for call in calls}
    reference = ReferenceOutputs(500, {name: output[0] for name, output in outputs.items()}, outputs)
    for replaced in (ZeroHead, UniformAttention, MeanHead):
        plan = AblationPlan([[], [replaced(HeadId(first.name, 1))]], sites, reference=reference, device="cuda")
        with AttentionTap(model, interventions=[plan], sites=sites):
            output = run()
        assert torch.equal(output[0], plain[0]), replaced
        assert not torch.equal(output[1], plain[1]), replaced
        off = plan.distance_off().tolist()
        assert off[0] == 0
        assert 0 < off[1] < math.inf
