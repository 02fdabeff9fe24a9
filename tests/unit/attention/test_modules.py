"""The modules of a model are those of torch, and a hook is spared only where nothing can attend."""

import pytest
import torch
from torch import nn

from diffmech.attention.modules import QUIET, may_attend, modules_by_path
from diffmech.attention.tap import AttentionTap


class Attending(nn.Linear):
    """A layer of torch in which somebody attends."""

    def forward(self, tokens):
        return torch.softmax(tokens @ tokens.mT, -1) @ super().forward(tokens)


def tapped(model, tokens):
    with torch.no_grad(), AttentionTap(model) as tap:
        model(tokens)
    return tap.tapped


def test_modules_are_those_of_torch_in_its_order():
    shared = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.ModuleDict({"b": nn.Sequential(shared, nn.ModuleList([shared, nn.Linear(4, 4)])), "a": shared})
    model["b"].absent = None
    model["b"].register_module("none", None)
    assert list(modules_by_path(model).items()) == list(model.named_modules())


def test_a_layer_of_torch_that_was_derived_or_patched_is_seen_by_its_own_name():
    tokens = torch.randn(2, 5, 4)
    assert tapped(nn.Sequential(nn.ReLU(), Attending(4, 4)), tokens) == {"1.self"}
    patched = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    patched[1].forward = lambda tokens: torch.softmax(tokens @ tokens.mT, -1) @ tokens
    assert tapped(patched, tokens) == {"1.self"}


@pytest.mark.parametrize("pooled", [nn.Softmax, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.Bilinear])
def test_layers_that_make_weights_or_products_get_a_hook(pooled):
    assert pooled not in QUIET
    assert not may_attend(nn.Linear(2, 2))


def test_attention_in_a_hook_of_a_quiet_layer_belongs_to_what_runs_it():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)))
    model[0][0].register_forward_hook(lambda layer, given, out: torch.softmax(out @ out.mT, -1) @ out)
    assert tapped(model, torch.randn(2, 5, 4)) == {"0.self"}
