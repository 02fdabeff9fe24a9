"""Attention in ways that a shape, a name or one pass does not tell: right numbers, or a refusal that says why."""

import math

import pytest
import torch
from layouts import SIZE, WIDTH
from odd_layers import HEADS, TOKENS, Odd, by_head, denoiser, joined, scores, whole, windows
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn import functional

from diffmech.attention.import_check import check_denoiser
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.survey import attention_sites
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.testing import assert_same_up_to_rounding


def apart(scored: Tensor) -> Tensor:
    """Return the softmax of scores, out of torch's sight."""
    return torch.from_numpy(softmax(scored.detach().double().numpy(), axis=-1))


class HeadsFirst(Odd):
    """(head, sample, ...), fused."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        self.note(apart(scores(q, k)))
        q, k, v = (z.transpose(0, 1) for z in (q, k, v))
        return joined(functional.scaled_dot_product_attention(q, k, v).transpose(0, 1))


class HeadsFirstByHand(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (by_head(z).transpose(0, 1) for z in (q, k, v))
        p = scores(q, k).softmax(-1)
        self.note(p.transpose(0, 1))
        return joined((p @ v).transpose(0, 1))


class HeadsFirstBiased(Odd):
    """A bias of each head, which stands before the images."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (by_head(z).transpose(0, 1) for z in (q, k, v))
        bias = torch.linspace(-2, 2, HEADS * TOKENS).reshape(HEADS, 1, 1, TOKENS).expand(-1, -1, TOKENS, -1)
        self.note(apart(scores(q, k) + bias).transpose(0, 1))
        return joined(functional.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(0, 1))


class OnImages(Odd):
    """Scores and products over both axes of the image, as score-based models write them."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.mT.unflatten(-1, (SIZE, SIZE)) for z in (q, k, v))
        w = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(WIDTH)
        w = w.flatten(3).softmax(-1)
        self.note(w.flatten(1, 2)[:, None])
        return torch.einsum("bhwij,bcij->bchw", w.unflatten(-1, (SIZE, SIZE)), v).flatten(2).mT


class OneKeyHead(Odd):
    """Many heads of queries, one of keys and values, by einsum."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (z[..., : WIDTH // HEADS] for z in (k, v))
        p = (torch.einsum("b h i d, b j d -> b h i j", by_head(q), k) * 0.5).softmax(-1)
        self.note(p)
        return joined(torch.einsum("b h i j, b j d -> b h i d", p, v))


class Talking(Odd):
    """Heads that mix their scores before the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = nn.Conv2d(HEADS, HEADS, 1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined(self.note(self.talk(scores(q, k)).softmax(-1)) @ v)


class Adapted(Odd):
    """Queries by weights that are put together while the network runs (a low-rank adapter, another precision)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.randn(shape) / 4) for shape in ((WIDTH, 2), (2, WIDTH)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weight = torch.eye(WIDTH, dtype=torch.float64).to(q.dtype) + self.a @ self.b
        q, k, v = map(by_head, (q @ weight, k, v))
        return joined(self.note(scores(q, k).softmax(-1)) @ v)


class SharedScores(Odd):
    """Scores of all heads alike, each with a temperature of its own."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heat = torch.tensor([0.25, 0.5, 1.0, 2.0])[:, None, None]
        return joined(self.note((scores(q, k)[:, None] * heat).softmax(-1)) @ by_head(v))


class Distances(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined(self.note((-torch.cdist(q, k)).softmax(-1)) @ v)


RIGHT = [
    *(HeadsFirst, HeadsFirstByHand, HeadsFirstBiased, OnImages, OneKeyHead, Talking, Adapted, SharedScores, Distances),
]


@pytest.mark.parametrize("layer", RIGHT, ids=lambda layer: layer.__name__)
@pytest.mark.parametrize("images", [1, 3, HEADS])
def test_entropies_are_those_of_float64_also_of_as_many_images_as_heads(layer: type[Odd], images: int) -> None:
    model = denoiser(layer, layer)
    check_denoiser(model, "odd")
    x_t, steps = torch.randn(images, 1, SIZE, SIZE), torch.arange(images)
    sites = attention_sites(model.module, lambda: model.predict_noise(x_t[:1], steps[:1]))
    plain = model.predict_noise(x_t, steps)
    for each in model.module.layers:
        each.truth.clear()
    observer = StatisticsObserver()
    with AttentionTap(model.module, [observer], sites=sites):
        assert torch.equal(plain, model.predict_noise(x_t, steps))
    assert len(sites) == 2
    for site, each in zip(sites, model.module.layers, strict=True):
        assert_same_up_to_rounding(observer.results[site.name].entropy, each.truth[-1], scale=math.log(TOKENS))


class WindowsAsHeads(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return whole(functional.scaled_dot_product_attention(*map(windows, (q, k, v))))


class WindowsFolded(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (windows(z).flatten(0, 1) for z in (q, k, v))
        return whole((scores(q, k).softmax(-1) @ v).unflatten(0, (-1, 4)))


class OverChannels(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.unflatten(1, (2, 2, 16)).mean((1, 2)).mT[:, None] for z in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v)[:, 0].mT
        return out.repeat(1, 4, 1)


class Pooled(Odd):
    """Attention over 4 x 4 tokens, as many as there are channels."""

    def forward(self, x: Tensor) -> Tensor:
        small = functional.avg_pool2d(x, 2)
        return x + functional.interpolate(super().forward(small), scale_factor=2)


class Dropping(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(functional.scaled_dot_product_attention(*map(by_head, (q, k, v)), dropout_p=0.1))


@torch.jit.script
def scripted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


class Scripted(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(scripted(*map(by_head, (q, k, v))))


class Operator(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(torch.ops.aten.scaled_dot_product_attention(*map(by_head, (q, k, v))))


class Mapped(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined(torch.vmap(functional.scaled_dot_product_attention)(q, k, v))


class Complex(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined((scores(q, k).softmax(-1).to(torch.complex64) @ v.to(torch.complex64)).real)


REFUSED = [
    ((WindowsAsHeads,), "windows or groups of tokens stand where heads are expected"),
    ((WindowsFolded,), "windows or groups of tokens stand where heads are expected"),
    ((Odd, WindowsAsHeads), r"layers\.1\.self has as heads hears of different places"),
    ((Odd, Pooled, OverChannels), "do not stand row by row"),
    ((Dropping,), r"drops attention at random \(dropout_p\) outside of training"),
    ((Odd, Scripted), r"layers\.1: a softmax runs in it on a way that cannot be seen"),
    ((Odd, Operator), r"layers\.1: a softmax runs in it on a way that cannot be seen"),
    ((Mapped,), r"runs under torch\.vmap"),
    ((Complex,), "complex numbers"),
]


@pytest.mark.parametrize(
    ("layers", "why"), REFUSED, ids=lambda each: None if isinstance(each, str) else each[-1].__name__
)
def test_what_is_not_what_it_seems_is_refused_with_its_cause(layers: tuple[type[Odd], ...], why: str) -> None:
    with pytest.raises(ModelError, match=f"odd: .*{why}"):
        check_denoiser(denoiser(*layers), "odd")


class GatedLater(Odd):
    """Weights that sum to 1 at some timesteps only."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined((scores(q, k).softmax(-1) * (1.0 if self.timestep[0] >= 40 else 0.5)) @ v)


def test_weights_are_looked_at_in_every_pass() -> None:
    model, x_t = denoiser(GatedLater), torch.randn(1, 1, SIZE, SIZE)
    check_denoiser(model, "odd")
    sites = attention_sites(model.module, lambda: model.predict_noise(x_t, 50))
    with AttentionTap(model.module, [StatisticsObserver()], sites=sites):
        model.predict_noise(x_t, 40)
        with pytest.raises(ModelError, match="do not sum to 1 over what they are multiplied with"):
            model.predict_noise(x_t, 3)


class Overflowing(GatedLater):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().mix(q / (self.timestep[0] >= 40), k, v)


def test_weights_that_are_no_numbers_are_not_said_to_be_another_softmax() -> None:
    model, x_t = denoiser(Overflowing), torch.randn(1, 1, SIZE, SIZE)
    sites = attention_sites(model.module, lambda: model.predict_noise(x_t, 50))
    seen: list[Tensor] = []
    with AttentionTap(model.module, [lambda call: seen.append(call.output)], sites=sites):
        model.predict_noise(x_t, 3)
    assert seen[0].isnan().all()


class Sharpened(Odd):
    """Below timestep 40 weights that sum to 1, some of which are negative, and an image whose are no numbers."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        p = scores(q, k).softmax(-1)
        if self.timestep[0] < 40:
            p = 3 * p - 2 / TOKENS
            p = torch.cat([p[:1] * torch.nan, p[1:]])
        return joined(p @ v)


def test_weights_that_are_no_numbers_hide_no_negative_ones() -> None:
    model, x_t = denoiser(Sharpened), torch.randn(2, 1, SIZE, SIZE)
    sites = attention_sites(model.module, lambda: model.predict_noise(x_t, 50))
    with (
        AttentionTap(model.module, [StatisticsObserver()], sites=sites),
        pytest.raises(ModelError, match="some of its weights are below 0"),
    ):
        model.predict_noise(x_t, 3)


class Half(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (0 * q, k, v))
        return joined((scores(q, k).bfloat16().softmax(-1) @ v.bfloat16()).float())


def test_weights_in_half_precision_give_no_more_than_the_largest_entropy() -> None:
    model, x_t = denoiser(Half), torch.randn(2, 1, SIZE, SIZE)
    sites = attention_sites(model.module, lambda: model.predict_noise(x_t[:1], 50))
    observer = StatisticsObserver()
    with AttentionTap(model.module, [observer], sites=sites):
        model.predict_noise(x_t, 50)
    found = observer.results[sites[0].name].entropy
    assert_same_up_to_rounding(found, torch.full_like(found, math.log(TOKENS)), scale=math.log(TOKENS))


class Remembered(Odd):
    """Attention to keys and values that are the same for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = (nn.Parameter(torch.randn(1, HEADS, 5, WIDTH // HEADS)) for _ in range(2))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.note(apart(scores(by_head(q), self.keys)))
        return joined(functional.scaled_dot_product_attention(by_head(q), self.keys, self.values))


def test_keys_that_all_images_share_are_those_of_each() -> None:
    model, x_t = denoiser(Remembered), torch.randn(3, 1, SIZE, SIZE)
    check_denoiser(model, "odd")
    sites = attention_sites(model.module, lambda: model.predict_noise(x_t[:1], 50))
    observer = StatisticsObserver()
    with AttentionTap(model.module, [observer], sites=sites):
        model.predict_noise(x_t, 50)
    truth = model.module.layers[0].truth[-1]
    assert sites[0].kind == "cross"
    assert_same_up_to_rounding(observer.results[sites[0].name].entropy, truth, scale=math.log(5))


class Elementwise(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        p = (q[..., None, :] * k[..., None, :, :]).sum(-1).softmax(-1)
        return joined((p[..., None] * v[..., None, :, :]).sum(-2))


def test_a_softmax_that_cannot_be_followed_is_named() -> None:
    checked = check_denoiser(denoiser(Odd, Elementwise), "odd")
    assert checked["attention_calls"] == 1
    assert "if it is attention, announce it" in checked["attention_left_out"]["layers.1"]
