"""Softmaxes that are written back, tried or added; a batch that holds more than images; places that are few."""

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from layouts import SIZE, WIDTH
from odd_layers import HEADS, TOKENS, Net, Odd, by_head, denoiser, joined, scores
from test_followed_products import compare_entropies
from test_odd_attention import apart
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from diffmech.attention.import_check import check_denoiser
from diffmech.errors import ModelError
from diffmech.models.denoiser import Denoiser


class WrittenBack(Odd):
    """The softmax of either half of the heads stands in the place of their scores, to save memory."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (by_head(z).flatten(0, 1) for z in (q, k, v))
        similar = torch.einsum("b i d, b j d -> b i j", q, k)
        half = len(similar) // 2
        for some in (slice(half, None), slice(half)):
            similar[some] = similar[some].softmax(dim=-1)
        self.note(similar.unflatten(0, (-1, HEADS)))
        return joined(self.weigh(similar, v).unflatten(0, (-1, HEADS)))

    def weigh(self, p: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("b i j, b j d -> b i d", p, v)


class CopiedBack(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        p = scores(q, k)
        return joined(self.note(p.copy_(p.softmax(-1))) @ v)


class HeadByHead(Odd):
    """Scores of each head are written into an empty tensor, and outputs into another one."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        similar = torch.empty(*q.shape[:3], TOKENS)
        for head in range(HEADS):
            similar[:, head] = scores(q[:, head], k[:, head])
        return joined(self.note(similar.softmax(-1)) @ v)


class IntoGiven(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (by_head(z).flatten(0, 1) for z in (q, k, v))
        similar, out = torch.empty(len(q), TOKENS, TOKENS), torch.empty_like(v)
        torch.bmm(q, k.mT, out=similar)
        p = similar.softmax(-1)
        self.note(p.unflatten(0, (-1, HEADS)))
        torch.bmm(p, v, out=out)
        return joined(out.unflatten(0, (-1, HEADS)))


class NearFirst(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined(self.note(functional.softmin(torch.cdist(q, k), dim=-1)) @ v)


class PlacesAndContent(Odd):
    """A softmax of places is added to one of content, by a share of each head (d'Ascoli et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.share, self.places = (nn.Parameter(torch.randn(HEADS, *more)) for more in ((1, 1), (TOKENS, TOKENS)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        share = self.share.sigmoid()
        both = share * self.places.softmax(-1).expand(len(q), -1, -1, -1), (1 - share) * scores(q, k).softmax(-1)
        return joined(self.note(self.added(*both)) @ v)

    def added(self, places: Tensor, content: Tensor) -> Tensor:
        return places + content


class ContentAndPlaces(PlacesAndContent):
    def added(self, places: Tensor, content: Tensor) -> Tensor:
        return content + places


class Tried(Odd):
    """A kernel that a CPU has not is tried before attention by hand."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        try:
            with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
                return joined(functional.scaled_dot_product_attention(q, k, v))
        except RuntimeError:
            return joined(self.note(scores(q, k).softmax(-1)) @ v)


class TriedWithMask(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        self.note(apart(scores(q, k)))
        try:
            return joined(functional.scaled_dot_product_attention(q, k, v, attn_mask=torch.zeros(3, 3)))
        except RuntimeError:
            return joined(functional.scaled_dot_product_attention(q, k, v))


FOUND = [
    *(WrittenBack, CopiedBack, HeadByHead, IntoGiven, NearFirst, PlacesAndContent, ContentAndPlaces),
    *(Tried, TriedWithMask),
]


@pytest.mark.filterwarnings("ignore:(Memory|Flash|Mem|CuDNN|Efficient).*:UserWarning")
@pytest.mark.parametrize("layer", FOUND, ids=lambda each: each.__name__)
def test_what_mixes_the_values_is_found_and_nothing_beside_it(layer: type[Odd]) -> None:
    compare_entropies(layer)
    assert check_denoiser(denoiser(layer, Odd), "odd")["attention_left_out"] == {}


class WrittenBackAndSummed(WrittenBack):
    def weigh(self, p: Tensor, v: Tensor) -> Tensor:
        return (p.unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)


class Neighbours(Odd):
    """Each place with the 3 x 3 places around it, by einsum."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        near = (functional.unfold(z.mT.unflatten(-1, (SIZE, SIZE)), 3, padding=1) for z in (k, v))
        k, v = (z.unflatten(1, (-1, 9)).permute(0, 3, 2, 1) for z in near)
        return torch.einsum("bnk,bnkd->bnd", torch.einsum("bnd,bnkd->bnk", q, k).softmax(-1), v)


class Causal(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.bias = causal_lower_right(TOKENS, TOKENS)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(functional.scaled_dot_product_attention(*map(by_head, (q, k, v)), attn_mask=self.bias))


class CausalInPass(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.bias = causal_lower_right(TOKENS, TOKENS)
        return joined(functional.scaled_dot_product_attention(*map(by_head, (q, k, v)), attn_mask=self.bias))


class OverTheBatch(nn.Module):
    """torch's own layer, whose tokens stand first unless it is told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return x + self.mha(tokens, tokens, tokens)[0].mT.reshape(x.shape)


class AsManyWords(Odd):
    """As many learned tokens as places are attended to."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(TOKENS, WIDTH))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        _, k, v = self.project(self.words.expand_as(k)).chunk(3, -1)
        return super().mix(q, k, v)


class OfChannels(Odd):
    """Attention over the four channels of each head."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (by_head(z).mT for z in (q, k, v))
        return joined(functional.scaled_dot_product_attention(q, k, v).mT)


REFUSED = {
    WrittenBackAndSummed: "a softmax of scores whose product with values is not made by matmul",
    Neighbours: "whose values are each query's own",
    Causal: "its mask is a CausalBias",
    CausalInPass: r"a pass fails when it is watched \(RuntimeError: .*tensors of classes of their own",
    OverTheBatch: "depends on the others in its batch .*batch_first",
    AsManyWords: "other tokens than the image's, of which the module that attends says is_cross_attention = True",
    OfChannels: "attention over channels",
}


@pytest.mark.parametrize("layer", REFUSED, ids=lambda each: each.__name__)
def test_a_refusal_names_what_it_is(layer: type[nn.Module]) -> None:
    with pytest.raises(ModelError, match=f"^odd: .*{REFUSED[layer]}"):
        check_denoiser(denoiser(layer), "odd")


class Folded(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (by_head(z).flatten(0, 1) for z in (q, k, v))
        return joined((scores(q, k).softmax(-1) @ v).unflatten(0, (-1, HEADS)))


class GuidedWithin(nn.Module):
    """Gives its network every image twice, one after the other, so that passes stand where heads of an image do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(Folded())

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        told, untold = (
            self.net(x_t.repeat_interleave(2, 0), timestep.repeat_interleave(2)).unflatten(0, (-1, 2)).unbind(1)
        )
        return 2 * told - untold


def test_passes_of_guidance_in_one_batch_are_no_heads() -> None:
    torch.manual_seed(0)
    network = GuidedWithin().eval().requires_grad_(False)
    guided = Denoiser(network, DDPMScheduler(100), (1, SIZE, SIZE), forward=lambda x, t, _: network(x, t))
    with pytest.raises(
        ModelError, match=r"odd: net\.layers\.0\.self runs within net, which is given 2 maps of each image"
    ):
        check_denoiser(guided, "odd")


@pytest.mark.parametrize("seed", range(3))
def test_few_places_behind_many_layers_of_a_u_net_are_studied(seed: int) -> None:
    torch.manual_seed(seed)
    kinds = ["DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]
    network = UNet2DModel(
        16,
        1,
        1,
        down_block_types=kinds,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
        block_out_channels=(16, 32, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
    )
    network.eval().requires_grad_(False)
    small = Denoiser(network, DDPMScheduler(100), (1, 16, 16), forward=lambda x, t, _: network(x, t).sample)
    assert check_denoiser(small, "small")["attention_calls"] == 4
