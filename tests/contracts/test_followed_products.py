"""Products and softmaxes that are told apart: attention, what comes after linear attention, and heads in odd places."""

import pytest
import torch
from test_odd_attention import HEADS, WIDTH, Odd, Talking, by_head, denoiser, joined, scores
from torch import Tensor, nn

from diffmech.attention.import_check import check_denoiser
from diffmech.errors import ModelError


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
