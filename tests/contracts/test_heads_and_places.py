"""Windows are no heads, and tokens stand row by row on the image: else a refusal says why; what is right stays."""

import pytest
import torch
from layouts import SIZE, WIDTH
from odd_layers import HEADS, TOKENS, Odd, by_head, denoiser, joined, scores, whole, windows
from torch import Tensor, nn
from torch.nn import functional

from diffmech.attention.import_check import check_denoiser
from diffmech.errors import ModelError


def by_column(z: Tensor) -> Tensor:
    """Return (column x head, row, channel) of each image, as axial attention has it."""
    z = z.unflatten(1, (SIZE, SIZE)).transpose(1, 2).unflatten(-1, (HEADS, -1))
    return z.transpose(2, 3).flatten(1, 2)


class Columns(Odd):
    """Axial attention along columns, as many heads as columns x heads."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (by_column(z).flatten(0, 1) for z in (q, k, v))
        out = (scores(q, k).softmax(-1) @ v).unflatten(0, (-1, SIZE, HEADS))
        return out.permute(0, 3, 1, 2, 4).flatten(3).flatten(1, 2)


class Stripe(Odd):
    """Windows of two rows, all columns."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.unflatten(1, (4, -1)) for z in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v).flatten(1, 2)


class Neighbourhood(Odd):
    """Each place attends to the 3 x 3 places around it: places stand where heads do."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        near = (functional.unfold(z.mT.unflatten(-1, (SIZE, SIZE)), 3, padding=1) for z in (k, v))
        k, v = (z.unflatten(1, (-1, 9)).permute(0, 3, 2, 1) for z in near)
        return ((q[:, :, None] @ k.mT / 4).softmax(-1) @ v)[:, :, 0]


class PooledWindows(Odd):
    """Windows of 4 x 4 queries with the 2 x 2 pooled keys of each."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pooled = (functional.avg_pool2d(z.mT.unflatten(-1, (SIZE, SIZE)), 2).flatten(2).mT for z in (k, v))
        k, v = (z.unflatten(1, (2, 2, 2, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2) for z in pooled)
        return whole(functional.scaled_dot_product_attention(windows(q), k, v))


PLACES = torch.arange(TOKENS).reshape(SIZE, SIZE)
SNAKE = torch.cat([row.flip(0) if index % 2 else row for index, row in enumerate(PLACES)])


class InOrder(Odd):
    """Tokens in another order of places."""

    order = PLACES.flatten()

    def forward(self, x: Tensor) -> Tensor:
        back = torch.argsort(self.order)
        return super().forward(x.flatten(2)[:, :, self.order].reshape(x.shape)).flatten(2)[:, :, back].reshape(x.shape)


class Snake(InOrder):
    order = SNAKE


class Mirrored(InOrder):
    order = PLACES.flip(1).flatten()


class InWindows(InOrder):
    order = PLACES.reshape(2, 4, 2, 4).transpose(1, 2).flatten()


class InSmallWindows(InOrder):
    order = PLACES.reshape(4, 2, 4, 2).transpose(1, 2).flatten()


class Morton(InOrder):
    order = PLACES.reshape(2, 2, 2, 2, 2, 2).permute(0, 3, 1, 4, 2, 5).flatten()


def turned(z: Tensor) -> Tensor:
    return z.unflatten(1, (SIZE, SIZE)).transpose(1, 2).flatten(1, 2)


class QueriesByColumn(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return turned(super().mix(turned(q), k, v))


class QueriesByColumnByHand(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (turned(q), k, v))
        return turned(joined(scores(q, k).softmax(-1) @ v))


class Latents(Odd):
    """As many learned queries as places read the image; what they bring goes to all places alike."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(TOKENS, WIDTH))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().mix(self.latents.expand_as(q), k, v).mean(1, keepdim=True).expand_as(q)


class LatentsByHand(Latents):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (self.latents + 0 * q, k, v))
        return joined(scores(q, k).softmax(-1) @ v).mean(1, keepdim=True).expand(-1, TOKENS, -1)


class Chosen(Odd):
    """The 16 tokens of the highest score attend to each other, in the order of their places or `by_score`."""

    by_score = False

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        chosen = v[..., 0].topk(16, -1).indices
        chosen = chosen if self.by_score else chosen.sort(-1).values
        chosen = chosen[..., None].expand(-1, -1, WIDTH)
        return v.scatter(1, chosen, super().mix(*(z.gather(1, chosen) for z in (q, k, v))))


class ChosenByScore(Chosen):
    by_score = True


WINDOWS = [Columns, Stripe, Neighbourhood, PooledWindows]
ORDERS = [Snake, Mirrored, InWindows, InSmallWindows, Morton, Chosen, ChosenByScore]
REFUSED = [
    *(((layer,), "windows or groups of tokens stand where heads are expected") for layer in WINDOWS),
    *(((Odd, layer), r"layers\.1\.(self|cross) has as heads hears of different places") for layer in WINDOWS),
    *(((layer,), "do not stand row by row on the image") for layer in ORDERS),
    *(((Odd, layer), r"layers\.1\.self do not stand row by row on the image") for layer in ORDERS),
    ((Odd, QueriesByColumn), r"the queries of layers\.1\.self do not stand row by row"),
    ((Odd, QueriesByColumnByHand), r"the queries of layers\.1\.self do not stand row by row|where their outputs go"),
    ((Latents,), r"the queries of layers\.0\.self .*learned queries, .* is_cross_attention = True"),
    ((Odd, LatentsByHand), r"the queries of layers\.1\.self .*learned queries, .* is_cross_attention = True"),
]


@pytest.mark.parametrize(
    ("layers", "why"), REFUSED, ids=lambda each: None if isinstance(each, str) else each[-1].__name__
)
def test_what_only_seems_heads_or_places_is_refused_with_its_cause(layers: tuple[type[Odd], ...], why: str) -> None:
    with pytest.raises(ModelError, match=f"odd: .*{why}"):
        check_denoiser(denoiser(*layers), "odd")


class AtPlaces(Odd):
    """Queries of places alone, whatever the image shows."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(TOKENS, WIDTH))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().mix(self.places.expand_as(q), k, v)


class AtPlacesByHand(AtPlaces):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (self.places + 0 * q, k, v))
        return joined(scores(q, k).softmax(-1) @ v)


class FromPlacesAlone(AtPlaces):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return Odd.mix(self, self.places.expand_as(q), self.places.flip(0).expand_as(k), v)


class ByHand(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = map(by_head, (q, k, v))
        return joined(scores(q, k).softmax(-1) @ v)


class PooledQuery(Odd):
    """One query, the mean of all, for all places."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().mix(q.mean(1, keepdim=True), k, v).expand_as(q)


class PooledKeys(Odd):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (functional.avg_pool2d(z.mT.unflatten(-1, (SIZE, SIZE)), 4).flatten(2).mT for z in (k, v))
        return super().mix(q, k, v)


class Told(Latents):
    is_cross_attention = True


class Blurred(nn.Module):
    """A block of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.silu(2 * self.first(x)))


class Without(Odd):
    """Attention with nothing beside it: all that comes behind has heard of everything."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "layers",
    [
        *((layer,) for layer in (AtPlaces, AtPlacesByHand, FromPlacesAlone, PooledQuery, PooledKeys, Told)),
        *((Odd, layer) for layer in (AtPlaces, AtPlacesByHand, FromPlacesAlone, PooledQuery, PooledKeys, Told)),
        (*[Blurred] * 8, Odd, Blurred, ByHand),
        (Odd, ByHand, Odd, ByHand),
        (Without, Odd),
    ],
    ids=lambda layers: "-".join(layer.__name__ for layer in layers),
)
def test_what_hears_little_of_its_place_is_not_refused(layers: tuple[type[nn.Module], ...], seed: int) -> None:
    assert check_denoiser(denoiser(*layers, seed=seed), "odd")["attention_calls"]
