"""Attention computed by hand takes part in everything by one call, which costs nothing where no tap is open."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.survey import check_tappable
from diffmech.attention.tap import AttentionTap, announce
from diffmech.errors import ModelError
from diffmech.testing import assert_same_up_to_rounding

SCALE = 0.4


class HandWritten(nn.Module):
    """Softmax attention spelt out; it is no site that `find_sites` would recognise."""

    def __init__(self, key_heads: int = 2) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8, bias=False)
        self.key_heads = key_heads

    def forward(self, x: Tensor) -> Tensor:
        q = self.mix(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = q[:, : self.key_heads]
        probabilities = (SCALE * q @ k.transpose(-1, -2)).softmax(-1)
        output = announce(self, q, k, k, probabilities @ k, scale=SCALE)
        return output.transpose(1, 2).flatten(2)


class Recognised(HandWritten):
    """The same under names that `find_sites` knows, so that its heads can be chosen before any run."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.heads = self.mix, 2


class Fused(Recognised):
    """The same attention by torch's own function: what the tap sees without being told."""

    def forward(self, x: Tensor) -> Tensor:
        q = self.to_q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return functional.scaled_dot_product_attention(q, q, q, scale=SCALE).transpose(1, 2).flatten(2)


class ZeroHead:
    def __init__(self, site: str, head: int) -> None:
        self.site, self.head = site, head

    def applies_to(self, site: AttentionSite) -> bool:
        return site.name == self.site

    def replace_output(self, call: AttentionCall) -> Tensor:
        output = call.output.clone()
        output[:, self.head] = 0
        return output


def build(kind: type[nn.Module], **arguments: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.ModuleDict({"layer": kind(**arguments)}), torch.randn(2, 16, 8)


def test_an_announced_call_is_watched_like_any_other_and_changes_nothing():
    fused, x = build(Fused)
    expected = StatisticsObserver()
    with AttentionTap(fused, [expected]):
        fused["layer"](x)
    for kind in (HandWritten, Recognised):
        model, x = build(kind)
        plain = model["layer"](x)
        found = StatisticsObserver()
        with AttentionTap(model, [found]) as tap:
            assert torch.equal(model["layer"](x), plain)
        assert tap.tapped == {"layer.self"}
        assert not tap.untapped
        assert not tap.unclaimed
        mine, theirs = found.results["layer.self"], expected.results["layer.self"]
        for name in ("entropy", "received", "distance", "output_norm"):
            assert_same_up_to_rounding(getattr(mine, name), getattr(theirs, name))


@pytest.mark.parametrize("kind", [HandWritten, Recognised])
def test_interventions_replace_an_announced_output(kind):
    model, x = build(kind)
    with AttentionTap(model, interventions=[ZeroHead("layer.self", 1)]):
        ablated = model["layer"](x)
    plain = model["layer"](x)
    assert (ablated[..., 4:] == 0).all()
    assert torch.equal(ablated[..., :4], plain[..., :4])


def test_without_a_tap_the_output_itself_comes_back():
    model, _ = build(HandWritten)
    q, output = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    assert announce(model["layer"], q, q, q, output) is output
    other, _ = build(Fused)
    with AttentionTap(other) as tap:  # nor where the open tap is on another model
        assert announce(model["layer"], q, q, q, output) is output
    assert not tap.tapped
    with AttentionTap(model, sites=[]):  # nor where the site is not among the chosen ones
        assert announce(model["layer"], q, q, q, output) is output


class OwnKernel(Recognised):
    """Attention by a function that nobody can look into; `scale` is what it announces."""

    def __init__(self, key_heads: int = 2, scale: float = SCALE) -> None:
        super().__init__()
        self.key_heads, self.scale = key_heads, scale

    def forward(self, x: Tensor) -> Tensor:
        q = self.to_q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = q[:, : self.key_heads]
        output = torch.from_numpy(attend(q.detach().numpy(), k.detach().numpy()))
        return announce(self, q, k, k, output, scale=self.scale).transpose(1, 2).flatten(2)


def attend(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    p = np.exp(SCALE * q @ k.swapaxes(-1, -2))
    return np.asarray(p / p.sum(-1, keepdims=True) @ k)


def test_what_nobody_can_look_into_is_seen_where_it_announces_itself_and_named_where_it_does_not():
    model, x = build(OwnKernel)
    assert check_tappable(model, lambda: model["layer"](x)).tapped == ("layer.self",)

    class Silent(Recognised):
        def forward(self, x: Tensor) -> Tensor:
            q = self.to_q(x).detach().numpy()[:, None]
            return torch.from_numpy(attend(q, q))[:, 0]

    silent, x = build(Silent)
    assert list(check_tappable(silent, lambda: silent["layer"](x)).untapped) == ["layer.self"]


def test_an_announcement_that_does_not_give_the_output_is_refused():
    for kind, arguments in ((OwnKernel, {"scale": 1.0}), (Misannounced, {})):
        model, x = build(kind, **arguments)
        report = check_tappable(model, lambda model=model, x=x: model["layer"](x))
        assert "differs by" in report.untapped["layer.self"]
        with pytest.raises(ModelError, match="a scale or a bias is missing"):
            report.require_all()


class Misannounced(Recognised):
    """Followed without being told, and told wrongly."""

    def forward(self, x: Tensor) -> Tensor:
        q = SCALE**0.5 * self.to_q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return announce(self, q, q, q, (q @ q.mT).softmax(-1) @ q).transpose(1, 2).flatten(2)


def test_grouped_query_attention_is_announced_with_its_own_number_of_key_heads():
    model, x = build(OwnKernel, key_heads=1)
    calls: list[AttentionCall] = []
    with AttentionTap(model, [calls.append]):
        model["layer"](x)
    (call,) = calls
    assert call.key.shape == call.value.shape == (2, 2, 16, 4)
    exact = (SCALE * call.query.double() @ call.key.double().transpose(-1, -2)).softmax(-1) @ call.value.double()
    assert_same_up_to_rounding(call.output, exact)


def test_a_second_announcement_of_one_forward_is_a_site_of_its_own():
    class Twice(OwnKernel):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))

    model, x = build(Twice)
    with AttentionTap(model) as tap:
        model["layer"](x)
    assert [site.name for site in tap.sites] == ["layer.self", "layer.self#2"]


def test_an_announcement_from_inside_a_module_that_is_known_as_attention_belongs_to_that():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.qkv, self.inner = 2, nn.Linear(8, 24), HandWritten()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    model, x = build(Outer)
    assert check_tappable(model, lambda: model["layer"](x)).tapped == ("layer.self",)


@pytest.mark.unchecked
@pytest.mark.parametrize("wrong", ["output", "value", "query"])
def test_shapes_that_do_not_fit_are_refused_by_the_site_name(wrong):
    model, _ = build(Recognised)
    tensors = {name: torch.zeros(1, 2, 3, 4) for name in ("query", "key", "value", "output")}
    tensors[wrong] = torch.zeros(1, 3, 5, 4)
    with AttentionTap(model), pytest.raises(ModelError, match=r"layer.self announced .*expected \(sample, 2 heads"):
        announce(model["layer"], **tensors)


def test_guests_of_an_announced_call_may_attend_themselves():
    model, x = build(Recognised)

    def attend(call: AttentionCall) -> None:
        functional.scaled_dot_product_attention(call.query, call.key, call.value)

    with AttentionTap(model, [attend]) as tap:
        model["layer"](x)
    assert not tap.unclaimed
