"""Products and softmaxes that are told apart: attention, what comes after linear attention, and heads in odd places."""

import math

import pytest
import torch
from layouts import SIZE, WIDTH
from test_odd_attention import HEADS, TOKENS, Odd, Talking, apart, by_head, denoiser, joined, scores
from torch import Tensor, nn
from torch.nn import functional

from diffmech.attention.import_check import check_denoiser
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.survey import attention_sites
from diffmech.attention.tap import AttentionTap, announce
from diffmech.errors import ModelError
from diffmech.testing import assert_same_up_to_rounding


class Linear(nn.Module):
    """Linear attention, a softmax over the channels of queries and one over the places of keys; separate layers."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        q, k, v = (by_head(layer(tokens)) for layer in (self.to_q, self.to_k, self.to_v))
        context = torch.einsum("bhnd,bhne->bhde", k.softmax(-2), v)
        mixed = torch.einsum("bhnd,bhde->bhne", q.softmax(-1), context)
        return x + self.to_out(joined(mixed)).mT.reshape(x.shape)


class LinearOnImages(nn.Module):
    """The same on images, head by head, with convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Conv2d(WIDTH, WIDTH, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2).chunk(HEADS, 1) for layer in (self.to_q, self.to_k, self.to_v))
        mixed = [(k.softmax(2) @ v.mT).mT @ q.softmax(1) for q, k, v in zip(q, k, v, strict=True)]
        return x + self.to_out(torch.cat(mixed, 1).reshape(x.shape))


class LinearByMatrices(Linear):
    """The same without a layer of torch: every projection is a product with a parameter."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        q, k, v = (by_head(tokens @ layer.weight) for layer in (self.to_q, self.to_k, self.to_v))
        mixed = (k.softmax(-2).mT @ v).mT @ q.softmax(-1).mT
        return x + (mixed.mT.transpose(1, 2).flatten(2) @ self.to_out.weight).mT.reshape(x.shape)


class Mixture(nn.Module):
    """Each pixel a mixture of vectors of the whole image, which is no attention of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.vectors = nn.Conv2d(WIDTH, 4, 1), nn.Linear(WIDTH, 4 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        vectors = self.vectors(x.mean((2, 3))).unflatten(1, (4, WIDTH))
        return x + torch.einsum("bkhw,bkc->bchw", self.gate(x).softmax(1), vectors)


@pytest.mark.parametrize("linear", [Linear, LinearOnImages, LinearByMatrices], ids=lambda layer: layer.__name__)
def test_linear_attention_after_linear_attention_is_left_out_too(linear: type[nn.Module]) -> None:
    checked = check_denoiser(denoiser(linear, linear, Mixture, Odd), "odd")
    assert checked["attention_calls"] == 1
    assert set(checked["attention_left_out"]) == {"layers.0", "layers.1", "layers.2"}


class Summed(Linear):
    """Attention whose products with values nobody follows."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        q, k, v = (by_head(layer(tokens)) for layer in (self.to_q, self.to_k, self.to_v))
        summed = (v[:, :, None] * scores(q, k).softmax(-1)[..., None]).sum(-2)
        return x + self.to_out(joined(summed)).mT.reshape(x.shape)


@pytest.mark.parametrize("linear", [Linear, LinearOnImages, LinearByMatrices], ids=lambda layer: layer.__name__)
def test_attention_that_cannot_be_followed_is_named_after_linear_attention_too(linear: type[nn.Module]) -> None:
    with pytest.raises(ModelError, match=r"layers\.1: a softmax of scores whose product"):
        check_denoiser(denoiser(linear, Summed, Odd), "odd")


class TalkingByLayer(Odd):
    """Heads that mix their scores by a linear layer over an axis of heads that stands last."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = nn.Linear(HEADS, HEADS)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        mixed = self.talk(scores(q, k).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return joined(self.note(mixed.softmax(-1)) @ v)


class TalkingByEinsum(TalkingByLayer):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        mixed = torch.einsum("bhij,hg->bgij", scores(q, k), self.talk.weight)
        return joined(self.note(mixed.softmax(-1)) @ v)


class TalkingWithOneKeyHead(Talking):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (z[..., : WIDTH // HEADS] for z in (k, v))
        mixed = self.talk(torch.einsum("bhid,bjd->bhij", by_head(q), k))
        return joined(torch.einsum("bhij,bjd->bhid", self.note(mixed.softmax(-1)), v))


@pytest.mark.parametrize("layer", [Talking, TalkingByLayer, TalkingByEinsum, TalkingWithOneKeyHead])
def test_heads_that_mix_their_scores_are_seen(layer: type[Odd]) -> None:
    checked = check_denoiser(denoiser(Linear, layer), "odd")
    assert checked["attention_calls"] == 1
    assert list(checked["attention_left_out"]) == ["layers.0"]


class Remembering(Odd):
    """Weights that are normalised by hand, of keys and values that no image changes."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = (nn.Parameter(torch.randn(HEADS, 5, WIDTH // HEADS)) for _ in range(2))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        loud = scores(by_head(q + k), self.keys + by_head(v).mean(2, keepdim=True)).exp()
        return joined(self.note(loud / loud.sum(-1, keepdim=True)) @ self.values)


def test_weights_without_a_softmax_are_seen_with_values_that_no_image_changes_too() -> None:
    assert check_denoiser(denoiser(Remembering), "odd")["attention_calls"] == 1


class QueriesBeforeHeads(Odd):
    """Heads that share one key head and stand behind the queries, by einsum."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (z[..., : WIDTH // HEADS] for z in (k, v))
        p = (torch.einsum("bihd,bjd->bihj", q.unflatten(-1, (HEADS, -1)), k) / 2).softmax(-1)
        self.note(p.transpose(1, 2))
        return torch.einsum("bihj,bjd->bihd", p, v).flatten(2)


class HeadsLast(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (z[..., : WIDTH // HEADS] for z in (k, v))
        p = (torch.einsum("bihd,bjd->bijh", q.unflatten(-1, (HEADS, -1)), k) / 2).softmax(2)
        self.note(p.permute(0, 3, 1, 2))
        return torch.einsum("bijh,bjd->bihd", p, v).flatten(2)


class QueriesBeforeHeadsByMatmul(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (z[:, None, :, : WIDTH // HEADS] for z in (k, v))
        p = (q.unflatten(-1, (HEADS, -1)) @ k.mT / 2).softmax(-1)
        self.note(p.transpose(1, 2))
        return (p @ v).flatten(2)


class Powers(Odd):
    """Values are mixed by the square of the weights."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        p = scores(q, k).softmax(-1)
        return joined(self.note(p @ p) @ v)


class Announcing(Odd):
    """Announces what is seen by itself."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        self.note(apart(scores(q, k)))
        out = functional.scaled_dot_product_attention(q, k, v)
        return joined(announce(self, q, k, v, out.transpose(1, 2).transpose(1, 2)))


def compare_entropies(layer: type[Odd]) -> None:
    """Require one site of `HEADS` heads, with the entropies that the layer notes, of three images."""
    model, x_t, steps = denoiser(layer), torch.randn(3, 1, SIZE, SIZE), torch.arange(3)
    assert check_denoiser(model, "odd")["attention_calls"] == 1
    (site,) = attention_sites(model.module, lambda: model.predict_noise(x_t[:1], steps[:1]))
    observer = StatisticsObserver()
    with AttentionTap(model.module, [observer], sites=[site], whole=True):
        model.predict_noise(x_t, steps)
    truth = model.module.layers[0].truth[-1]
    assert (site.kind, site.heads) == ("self", HEADS)
    assert_same_up_to_rounding(observer.results[site.name].entropy, truth, scale=math.log(TOKENS))


@pytest.mark.parametrize(
    "layer",
    [QueriesBeforeHeads, HeadsLast, QueriesBeforeHeadsByMatmul, Powers, Announcing],
    ids=lambda each: each.__name__,
)
def test_what_mixes_the_values_is_seen_once_with_its_own_heads(layer: type[Odd]) -> None:
    compare_entropies(layer)


def test_fused_attention_is_seen_behind_a_function_that_stands_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lambda *given: fused(*(z + 0 for z in given)))
    assert check_denoiser(denoiser(Odd, Powers), "odd")["attention_calls"] == 2


class QueriesAndHeadsInOneAxis(Odd):
    """Multi-query attention with rows (query, head), over 4 x 4 tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.interpolate(super().forward(functional.avg_pool2d(x, 2)), scale_factor=2)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (z[..., : WIDTH // HEADS] for z in (k, v))
        rows = q.reshape(len(q), -1, WIDTH // HEADS)
        return self.attend(rows, k, v).view(q.shape)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.bmm(torch.bmm(q, k.mT).mul(0.5).softmax(-1), v)


class QueriesAndHeadsInOneAxisFused(QueriesAndHeadsInOneAxis):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


class RelativeValues(Odd):
    """A second product of the weights, with values by relative position (Shaw et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.relative = nn.Parameter(torch.randn(TOKENS, TOKENS, WIDTH // HEADS))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        p = scores(q, k).softmax(-1)
        return joined(p @ v + self.by_place(p))

    def by_place(self, p: Tensor) -> Tensor:
        return torch.einsum("bhij,ijd->bhid", p, self.relative)


class RelativeValuesByMatmul(RelativeValues):
    def by_place(self, p: Tensor) -> Tensor:
        return (p.permute(2, 0, 1, 3).flatten(1, 2) @ self.relative).unflatten(1, p.shape[:2]).permute(1, 2, 0, 3)


class Amplified(Odd):
    """Weights that sum to 1, some of them a little below 0."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined((1.3 * scores(q, k).softmax(-1) - 0.3 / TOKENS) @ v)


class OneMore(Odd):
    """A softmax with one more term in its denominator, here a small one."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        loud = (scores(q, k) + 5).exp()
        return joined((loud / (1 + loud.sum(-1, keepdim=True))) @ v)


class Difference(Odd):
    """The difference of two softmaxes that one made (Ye et al. 2024)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        first, second = torch.cat([scores(q, k), scores(k, q)], 1).softmax(-1).chunk(2, 1)
        return joined((first - 0.4 * second) @ v)


class Copied(Odd):
    """Announces a copy of what fused attention returned."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined(announce(self, q, k, v, functional.scaled_dot_product_attention(q, k, v).clone()))


class Nested(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            torch.nested.as_nested_tensor(list(by_head(z).transpose(1, 2)), layout=torch.jagged).transpose(1, 2)
            for z in (q, k, v)
        )
        return torch.stack(list(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).unbind())).flatten(2)


class Sparse(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.bmm(scores(q, k).softmax(-1).to_sparse(), v)


class EverySecond(Odd):
    """Half of the tokens, which are no grid."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (by_head(z)[:, :, ::2] for z in (q, k, v))
        return joined(functional.scaled_dot_product_attention(q, k, v).repeat_interleave(2, 2))


REFUSED = {
    QueriesAndHeadsInOneAxis: f"{HEADS} consecutive rows of what its one head writes are one token",
    QueriesAndHeadsInOneAxisFused: f"{HEADS} consecutive rows of what its one head writes are one token",
    RelativeValues: "values that differ by query",
    RelativeValuesByMatmul: "values that differ by query",
    Amplified: "some of its weights are below 0",
    OneMore: r"its weights sum to 0\.99.* over the keys instead of 1",
    Difference: "its weights do not sum to 1",
    Copied: "announced a copy of what scaled_dot_product_attention returned",
    Nested: "a nested tensor",
    Sparse: "a sparse tensor",
    EverySecond: "the 32 queries of layers.0.self are no halving",
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layer", REFUSED, ids=lambda each: each.__name__)
def test_what_cannot_be_studied_is_named_with_its_cause(layer: type[Odd]) -> None:
    with pytest.raises(ModelError, match=f"^odd: .*{REFUSED[layer]}"):
        check_denoiser(denoiser(layer), "odd")
