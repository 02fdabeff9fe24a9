"""Tokens without a place are found by what does not change with the image, and nothing is guessed."""

from collections.abc import Callable, Iterable

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from diffmech.attention.calls import AttentionCall
from diffmech.attention.extra_tokens import extra_ranges
from diffmech.attention.import_check import check_denoiser
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import AttentionSite
from diffmech.attention.survey import attention_sites
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.models.denoiser import Denoiser

SIDE, WIDTH = 4, 8
PLACES = SIDE**2


class Mix(nn.Module):
    """Attention of two heads, of which nothing says that it is one, over tokens and learned keys before and after."""

    def __init__(self, memory: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.three = nn.Linear(WIDTH, 3 * WIDTH)
        self.memory = nn.ParameterList(nn.Parameter(torch.randn(1, 2, count, WIDTH // 2)) for count in memory)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        q, k, v = self.three(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        if other is not None:
            k, v = self.three(other).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)[1:]
        first, last = (each.expand(len(x), -1, -1, -1) for each in self.memory)
        k, v = (torch.cat([first, z, last], 2) for z in (k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Known(Mix):
    """The same, known as self-attention by its parts."""

    def __init__(self, memory: tuple[int, int] = (0, 0)) -> None:
        super().__init__(memory)
        self.heads, self.qkv = 2, self.three


class Net(nn.Module):
    """Layers of attention on the pixels of 4 x 4 images, and tokens before and after them."""

    def __init__(self, layers: Iterable[nn.Module], before: int = 0, after: int = 0, *, pooled: bool = False) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, WIDTH), nn.Linear(WIDTH, 1)
        self.extra, self.before, self.pooled = nn.Parameter(torch.randn(before + after, WIDTH)), before, pooled
        self.place = nn.Parameter(torch.randn(PLACES, WIDTH))
        self.layers = nn.ModuleList(layers)

    def forward(self, image: Tensor, timestep: Tensor | None = None) -> Tensor:
        x = self.enter(image.flatten(2).mT) + self.place
        extra = self.extra.expand(len(x), -1, -1) + (x.mean(1, keepdim=True) if self.pooled else 0)
        x = torch.cat([extra[:, : self.before], x, extra[:, self.before :]], 1)
        for layer in self.layers:
            x = x + layer(x)
        return self.leave(x[:, self.before : self.before + PLACES]).mT.reshape(image.shape)


def denoiser(net: nn.Module) -> Denoiser:
    net.eval().requires_grad_(False)
    return Denoiser(net, DDPMScheduler(100), (1, SIDE, SIDE), forward=lambda x, steps, condition: net(x, steps))


def found(net: nn.Module) -> tuple[list[AttentionSite], list[TokenRanges | None]]:
    """Return the sites of one pass and the ranges of each."""
    torch.manual_seed(0)
    tokens, image = {}, torch.randn(1, 1, SIDE, SIDE)

    def note(call: AttentionCall) -> None:
        tokens[call.site.name] = call.query.shape[-2], call.key.shape[-2]

    def run() -> Tensor:
        return net(image)

    sites = attention_sites(net, run, note)
    selves = {site.name: tokens[site.name] for site in sites if site.kind == "self"}
    ranges = extra_ranges(net, run, sites, selves, denoiser(net).has_grid)
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
    return sites, [ranges.get(site.name) for site in sites]


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 3), (2, 5)])
@pytest.mark.parametrize("build", [Mix, Known])
def test_tokens_at_either_end_are_found_at_the_first_attention_and_others_follow(build, before, after):
    sites, ranges = found(Net([build(), build(), build()], before, after))
    assert [site.kind for site in sites] == ["self"] * 3
    assert ranges == [TokenRanges((before, before + PLACES), extra=(before, after))] * 3


@pytest.mark.parametrize("memory", [(4, 0), (0, 1), (3, 2)])
@pytest.mark.parametrize("build", [Mix, Known])
def test_learned_keys_are_found_and_their_attention_is_self_attention(build, memory):
    sites, ranges = found(Net([build(memory), build()]))
    assert [site.name for site in sites] == ["layers.0.self", "layers.1.self"]
    assert ranges == [TokenRanges((memory[0], memory[0] + PLACES), extra=memory, memory=memory), None]


@pytest.mark.parametrize("build", [Mix, Known])
def test_learned_keys_before_a_class_token_have_no_query_and_the_class_token_has(build):
    sites, ranges = found(Net([build((2, 0)), build((2, 0))], before=1))
    assert [site.kind for site in sites] == ["self"] * 2
    assert ranges == [TokenRanges((3, 3 + PLACES), extra=(3, 0), memory=(2, 0))] * 2


def test_the_calls_of_a_module_with_learned_keys_are_counted_and_each_can_be_watched_alone():
    mix = Mix((4, 0))
    net = Net([mix, mix])
    sites, _ = found(net)
    assert [site.name for site in sites] == ["layers.0.self", "layers.0.self#2"]
    seen: list[str] = []
    with AttentionTap(net, [lambda call: seen.append(call.site.name)], sites=sites[1:]) as tap:
        net(torch.randn(2, 1, SIDE, SIDE))
    assert seen == ["layers.0.self#2"]
    assert tap.unclaimed == {"layers.0": 1}


def test_attention_to_more_keys_that_do_not_hear_of_the_image_stays_cross_attention():
    class Reader(Mix):
        def __init__(self) -> None:
            super().__init__()
            self.text = nn.Parameter(torch.randn(PLACES + 4, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, self.text.expand(len(x), -1, -1))

    sites, ranges = found(Net([Reader(), Mix((4, 0))]))  # with as many keys, of which only the second's are places
    assert [site.name for site in sites] == ["layers.0.cross", "layers.1.self"]
    assert ranges == [None, TokenRanges((4, 4 + PLACES), extra=(4, 0), memory=(4, 0))]


def test_where_all_tokens_are_places_nothing_is_run():
    def run() -> None:
        raise AssertionError

    sites = [AttentionSite("a.self", "a", "self", 2)]
    assert extra_ranges(nn.Identity(), run, sites, {"a.self": (16, 16)}, lambda tokens: tokens == 16) == {}


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        # A token that is the mean of the image changes with it, as places do.
        (
            lambda: Net([Mix()], before=1, pooled=True),
            "a grid of 4 x 4 and 1 more, but nothing tells which have no place: let",
        ),
        # Keys before the image and after it, of which one has a query.
        (
            lambda: Net([Known((2, 0))], after=1),
            r"layers.0.self has 17 queries and 19 keys, of which 16 change with the image, and nothing tells which of",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_by_name_at_the_import(net: Callable[[], nn.Module], reason: str):
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=reason):
        check_denoiser(denoiser(net()), "mine")


def test_the_import_says_how_many_extra_keys_each_site_has():
    torch.manual_seed(0)
    measured = check_denoiser(denoiser(Net([Mix((2, 0)), Mix()], before=0)), "mine")
    assert measured["extra_tokens"] == {"layers.0.self": 2}
    assert check_denoiser(denoiser(Net([Mix()])), "mine")["extra_tokens"] == {}
