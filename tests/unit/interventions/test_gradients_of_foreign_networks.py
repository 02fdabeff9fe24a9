"""Attribution of networks that save memory by checkpoints equals that of the plain one, or says what is in the way."""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from diffmech.attention.survey import attention_sites
from diffmech.errors import ModelError
from diffmech.interventions.attribution import attribute_heads
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.testing import assert_same_up_to_rounding

Run = Callable[[nn.Module, Tensor], Tensor]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = 2, nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(4 * x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.enter, self.leave, self.run = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1), run
        self.blocks = nn.ModuleList([Attention(), Attention()])

    def forward(self, x_t: Tensor) -> Tensor:
        x = self.enter(x_t)
        for block in self.blocks:
            x = x + self.run(block, x.flatten(2).mT).mT.reshape(x.shape)
        return self.leave(x)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return None, grad


def frozen(block: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return block(x)


def attributed(run: Run) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = Net(run).eval().requires_grad_(False)
    denoiser = Denoiser(net, DDPMScheduler(100), (1, 4, 4), forward=lambda x_t, steps, condition: net(x_t))
    x_t, noise = torch.randn(2, 2, 1, 4, 4).unbind()
    passes = Passes(50, (0, 1), x_t, noise, Condition.null(2, 0))
    sites = attention_sites(net, lambda: net(x_t[:1]))
    return attribute_heads(denoiser, sites, passes, method="zero", probes=1)


@pytest.mark.parametrize("reentrant", [True, False])
def test_torchs_checkpoints_are_taken_out_and_put_back(reentrant: bool) -> None:
    plain = attributed(lambda block, x: block(x))
    own = torch.utils.checkpoint.checkpoint
    for call in (
        lambda block, x: torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant),
        lambda block, x: checkpoint(block, x, use_reentrant=reentrant),  # a name of this file
    ):
        found = attributed(call)
        for name, estimates in plain.items():
            assert_same_up_to_rounding(found[name], estimates)
    assert torch.utils.checkpoint.checkpoint is checkpoint is own
    assert sys.modules[__name__].checkpoint is own


BOUND, BOUND_REENTRANT = (functools.partial(checkpoint, use_reentrant=way) for way in (False, True))  # not taken out


@pytest.mark.parametrize(
    "run", [Own.apply, frozen, BOUND, BOUND_REENTRANT], ids=["own", "no_grad", "bound", "reentrant"]
)
def test_what_lets_no_gradient_through_is_named_with_the_site(run: Run) -> None:
    with pytest.raises(
        ModelError,
        match=r"blocks\.0\.self: no gradient reaches what its heads write, nor at 1 other sites: its forward",
    ):
        attributed(run)


class Detour(Net):
    """A block of convolutions between both attentions, of which `way` decides what gradients see; others go round."""

    def __init__(self, way: Callable[[Run, Tensor], Tensor]) -> None:
        super().__init__(lambda block, x: block(x))
        self.between = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 8, 1))
        self.way = way

    def forward(self, x_t: Tensor) -> Tensor:
        x = self.enter(x_t)
        for block in self.blocks:
            x = x + block(x.flatten(2).mT).mT.reshape(x.shape)
            x = x + self.way(self.between, x)
        return self.leave(x)


def inferring(block: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        found = block(x)
    return found.clone()


def halved(block: nn.Module, x: Tensor) -> Tensor:
    return block(x.bfloat16().float())


LOSING = {"no_grad": frozen, "detach": lambda block, x: block(x.detach()), "inference_mode": inferring}


def detoured(way: Run, **more: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = Detour(way).eval().requires_grad_(False)
    denoiser = Denoiser(net, DDPMScheduler(100), (1, 4, 4), forward=lambda x_t, steps, condition: net(x_t))
    x_t, noise = torch.randn(2, 2, 1, 4, 4).unbind()
    sites = attention_sites(net, lambda: net(x_t[:1]))
    return attribute_heads(denoiser, sites, Passes(50, (0, 1), x_t, noise, Condition.null(2, 0)), method="zero", **more)


@pytest.mark.parametrize("more", [{"probes": 1}, {"steps": 1}], ids=["probes", "steps"])
@pytest.mark.parametrize("way", LOSING)
def test_gradients_that_lack_a_part_are_refused_though_others_go_round_it(way: str, more: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="gradients are not what the prediction changes by when their heads are moved"):
        detoured(LOSING[way], **more)


@pytest.mark.parametrize("way", [lambda block, x: block(x), halved], ids=["plain", "half precision"])
def test_gradients_of_a_network_that_rounds_no_more_than_its_precision_are_taken(way: Run) -> None:
    assert detoured(way, probes=1)


def test_modules_whose_contents_cannot_be_listed_do_no_harm() -> None:
    sys.modules["diffmech_odd"] = ModuleType("diffmech_odd")
    try:
        attributed(lambda block, x: checkpoint(block, x, use_reentrant=False))
    finally:
        del sys.modules["diffmech_odd"]
