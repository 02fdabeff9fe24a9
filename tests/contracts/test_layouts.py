"""Attention written by hand is seen as the fused one is: without an adapter, in every layout, and without a trace."""

import pytest
import torch
from layouts import LAYOUTS, SIZE, Net
from softmax_counts import softmaxes
from torch import Tensor, nn
from watching import sites_and_ranges

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.survey import attention_sites, check_tappable
from diffmech.attention.tap import AttentionTap
from diffmech.testing import assert_same_up_to_rounding

each_layout = pytest.mark.parametrize("layout", LAYOUTS)
# How many tokens without a place stand (before, after) those of the image, and how many of them no query belongs to.
EXTRA = {
    "torch's and a bias": ((0, 1), (0, 1)),
    "remembering": ((4, 0), (4, 0)),
    "time token": ((1, 0), (0, 0)),
    "class token and registers": ((1, 3), (0, 0)),
    "class token and memory": ((3, 0), (2, 0)),
}


@pytest.fixture(autouse=True)
def _without_the_fast_path_of_torchs_layer(request):
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def build(layout: str) -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    net = Net(LAYOUTS[layout]).eval().requires_grad_(False)
    return net, torch.randn(3, 1, SIZE, SIZE), torch.tensor([1, 50, 99])


@each_layout
def test_entropy_is_that_of_float64_and_the_output_the_same_bit_for_bit(layout: str) -> None:
    net, x_t, steps = build(layout)
    plain, truth = net(x_t, steps), net.truth()
    sites, ranges = sites_and_ranges(net, lambda: net(x_t[:1], steps[:1]), lambda tokens: tokens == SIZE**2)
    observer = StatisticsObserver(ranges=ranges)
    with AttentionTap(net, [observer], sites=sites):
        assert torch.equal(plain, net(x_t, steps))
    assert torch.equal(plain, net(x_t, steps))
    assert len(sites) == len(truth) == sum(len(getattr(layer, "blocks", [layer])) for layer in net.layers)
    assert {name: found.extra for name, found in ranges.items()} == {
        site.name: EXTRA[layout][0] for site in sites if layout in EXTRA
    }
    assert all(found.memory == EXTRA[layout][1] for found in ranges.values())
    for site, expected in zip(sites, truth, strict=True):
        assert site.kind == "self"
        assert site.heads == expected.shape[1]
        found = observer.results[site.name].entropy
        assert_same_up_to_rounding(found, expected, scale=float(expected.max()))
    assert min(float(entropies.min()) for entropies in truth) < 3.5  # of 4.16: attention that does something


@each_layout
def test_one_pass_of_many_images_is_many_passes_of_one(layout: str) -> None:
    net, x_t, steps = build(layout)
    sites, ranges = sites_and_ranges(net, lambda: net(x_t[:1], steps[:1]), lambda tokens: tokens == SIZE**2)
    observer = StatisticsObserver(ranges=ranges)
    with AttentionTap(net, [observer], sites=sites):
        net(x_t, steps)
        together = {name: found.entropy for name, found in observer.results.items()}
        for image in range(3):
            net(x_t[image : image + 1], steps[image : image + 1])
            for name, found in observer.results.items():
                assert_same_up_to_rounding(found.entropy[0], together[name][image], scale=1)


@each_layout
def test_there_are_as_many_sites_as_softmaxes(layout: str) -> None:
    net, x_t, steps = build(layout)
    sites = attention_sites(net, lambda: net(x_t[:1], steps[:1]))
    by_exponentials = layout == "masked"  # has no softmax to count
    assert softmaxes(lambda: net(x_t, steps)) == (0 if by_exponentials else len(sites))


class Silence:
    def __init__(self, site: str, head: int) -> None:
        self.site, self.head = site, head

    def applies_to(self, site: AttentionSite) -> bool:
        return site.name == self.site

    def replace_output(self, call: AttentionCall) -> Tensor:
        output = call.output.clone()
        output[1, self.head] = 0
        return output


@each_layout
def test_one_head_of_one_image_can_be_silenced_as_by_its_columns_of_the_projection(layout: str) -> None:
    net, x_t, steps = build(layout)
    sites = attention_sites(net, lambda: net(x_t[:1], steps[:1]))
    last = sites[-1]
    with AttentionTap(net, interventions=[Silence(last.name, last.heads - 1)], sites=sites):
        silenced = net(x_t, steps)
    plain = net(x_t, steps)
    layer = net.layers[-1]
    projection = layer.mha.out_proj if hasattr(layer, "mha") else layer.proj
    width = projection.weight.shape[1] // last.heads
    projection.weight[:, -width:] = 0  # heads stand one after the other
    by_hand = net(x_t, steps)
    assert torch.equal(silenced[0], plain[0])
    assert_same_up_to_rounding(silenced[1], by_hand[1])
    assert (silenced[1] != plain[1]).any()


def test_linear_attention_beside_full_is_named_and_left_out() -> None:
    class Linear(nn.Module):
        """softmax over the channels of queries and the places of keys; their product with values comes first."""

        timed = False

        def __init__(self) -> None:
            super().__init__()
            self.to_qkv = nn.Conv2d(16, 48, 1)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (z.reshape(len(x), 2, 8, -1) for z in self.to_qkv(x).chunk(3, dim=1))
            context = torch.einsum("b h d n, b h e n -> b h d e", k.softmax(dim=-1), v)
            return x + torch.einsum("b h d e, b h d n -> b h e n", context, q.softmax(dim=-2)).reshape(x.shape)

    torch.manual_seed(0)
    net = Net(LAYOUTS["helped"]).eval().requires_grad_(False)
    net.layers[0] = Linear()
    report = check_tappable(net, lambda: net(torch.randn(2, 1, SIZE, SIZE), torch.tensor([1, 2])))
    assert [site.module_path for site in report.sites] == ["layers.1.attend"]
    assert list(report.linear) == ["layers.0"]
    assert not report.untapped


class Odd(nn.Module):
    """Attention that is not what it seems; `how` says in which way."""

    timed = False

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.qkv = how, nn.Linear(16, 48)

    def forward(self, image: Tensor) -> Tensor:
        q, k, v = self.qkv(image.flatten(2).mT).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT
        if self.how == "over queries":
            out = scores.softmax(-2) @ v
        elif self.how == "gated":
            out = (scores.softmax(-1) * q.mean(-1, keepdim=True).sigmoid()) @ v
        else:
            out = (scores.softmax(-1)[..., None] * v[:, :, None]).sum(-2)
        return image + out.transpose(1, 2).flatten(2).mT.reshape(image.shape)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("over queries", "do not sum to 1"),
        ("gated", "do not sum to 1"),
        ("summed by hand", "not made by matmul"),
    ],
)
def test_what_is_no_attention_over_keys_is_refused_with_its_cause(how: str, reason: str) -> None:
    torch.manual_seed(0)
    net = Net(lambda: Odd(how)).eval().requires_grad_(False)
    report = check_tappable(net, lambda: net(torch.randn(2, 1, SIZE, SIZE), torch.tensor([1, 2])))
    assert list(report.untapped) == ["layers.0", "layers.1"]
    assert all(reason in text for text in report.untapped.values())
