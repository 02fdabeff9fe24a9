"""Watching never waits for the device: on the meta device, where tensors have no values, whoever asks for one fails.

A GPU works behind the program. Whoever looks at a value in the middle of a pass waits for all that is still to be done,
and the GPU then waits for the program.
"""

import pytest
import torch
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.kernels import score_tiles
from diffmech.attention.sites import HeadId, find_sites
from diffmech.attention.statistics import StatisticsObserver, attention_statistics
from diffmech.attention.tap import AttentionTap
from diffmech.attention.text_tokens import token_ranges
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import UniformAttention, ZeroHead
from diffmech.testing import FAMILIES, evaluate, example_grid, example_inputs, tiny_model

META = torch.device("meta")


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    """Torch knows no autocast for the meta device, and raises where it is asked whether it is on."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)


def moved(value: object) -> object:
    if isinstance(value, Tensor):
        return value.to(META)
    return {name: moved(part) for name, part in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_is_looked_at_in_the_middle_of_a_pass(family):
    model = tiny_model(family)
    inputs, grid = example_inputs(model), example_grid(model)
    ranges = token_ranges(model, lambda: evaluate(model, inputs))
    model.to(META)
    sites = find_sites(model)
    observer = StatisticsObserver({} if grid is None else {site.name: grid for site in sites}, ranges)
    expected = evaluate(model, moved(inputs))
    with AttentionTap(model, [observer]):
        assert evaluate(model, moved(inputs)).shape == expected.shape
    assert observer.results
    assert all(found.entropy.device == META for found in observer.results.values())


def test_no_replaced_head_is_looked_at_either():
    model = tiny_model("sd1").to(META)
    site = find_sites(model)[0]
    rows = [[ZeroHead(HeadId(site.name, 0))], [UniformAttention(HeadId(site.name, 1))]]
    plan = AblationPlan(rows, find_sites(model), device=META)
    with AttentionTap(model, interventions=[plan], sites=find_sites(model)):
        evaluate(model, moved(example_inputs(model)))
    assert plan.distance_off().shape == (2,)


def test_as_many_keys_as_channels_are_no_reason_to_look():
    """Unit vectors for keys stand for attention written by hand; those of a model are none, whatever their shape."""
    query = torch.empty(1, 2, 16, 16, device=META)
    assert len(list(score_tiles(query, query))) == 1
    call = AttentionCall(find_sites(tiny_model("dit"))[0], query, query, query, query, None, 0.25, None, False)
    assert attention_statistics(call).entropy.shape == (1, 2)
