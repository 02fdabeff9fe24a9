"""Planted heads attend as their role says, in closed form, and matter as it says."""

import pytest
import torch
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import find_sites
from diffmech.attention.tap import AttentionTap
from diffmech.config.models import PLANTED_ROLES, PlantedCircuit
from diffmech.planted.images import draw_images, places
from diffmech.planted.network import CHAIN, CHANNELS, HEAD_WIDTH, stem_features
from diffmech.planted.roles import (
    FAR,
    LINE_WIDTH,
    LOCAL_WIDTH,
    MIRROR_WIDTH,
    POINT_WIDTH,
    ROLES,
    shuffled_layers,
)
from diffmech.testing import assert_same_up_to_rounding

SIZE = 20
Y, X = (grid.reshape(-1).double() for grid in torch.meshgrid(*[torch.arange(SIZE)] * 2, indexing="ij"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    drawn, _, _ = draw_images(range(500, 508), 0, SIZE, symmetric=True)
    return torch.tensor(drawn, dtype=torch.float32)[:, None]


@pytest.fixture(scope="module")
def maps(network, circuit, images) -> dict[str, Tensor]:
    """Return attention (sample, query, key) of each role in float64."""
    calls: list[AttentionCall] = []
    with torch.no_grad(), AttentionTap(network, [calls.append]):
        network(images, torch.full((len(images),), 40))
    found = {}
    for call, layer in zip(calls, shuffled_layers(circuit), strict=True):
        scores = call.query.double() @ call.key.double().transpose(-1, -2) / HEAD_WIDTH**0.5
        found |= {role: scores.softmax(-1)[:, head] for head, role in enumerate(layer)}
    return found


def bell(square: Tensor, width: float) -> Tensor:
    """Return attention that falls off with the square distance in pixels, normalised over keys."""
    return (-square / (2 * width**2)).softmax(-1)


def square_distance(y: Tensor, x: Tensor) -> Tensor:
    return (y[:, None] - Y) ** 2 + (x[:, None] - X) ** 2


def expected(role: str) -> Tensor:
    where = places(SIZE)
    nowhere = torch.zeros(SIZE**2)
    spot = torch.full_like(Y, where.spot[0]), torch.full_like(X, where.spot[1])
    return {
        "local": lambda: bell(square_distance(Y, X), LOCAL_WIDTH),
        "dead_local": lambda: bell(square_distance(Y, X), LOCAL_WIDTH),
        "mirror": lambda: bell(square_distance(Y, SIZE - 1 - X), MIRROR_WIDTH),
        "global": lambda: (FAR * square_distance(Y, X) / SIZE**2).softmax(-1),
        "uniform": lambda: torch.full((SIZE**2, SIZE**2), 1 / SIZE**2).double(),
        "sink": lambda: bell(square_distance(*spot), POINT_WIDTH),
        "dead_sink": lambda: bell(square_distance(*spot), POINT_WIDTH),
        "positional": lambda: bell((nowhere[:, None] + Y - where.row) ** 2, LINE_WIDTH),
        "pair_first": lambda: bell((nowhere[:, None] + X - where.columns[0]) ** 2, LINE_WIDTH),
        "pair_second": lambda: bell((nowhere[:, None] + X - where.columns[1]) ** 2, LINE_WIDTH),
    }[role]()


@pytest.mark.parametrize("role", [r for r in PLANTED_ROLES if r not in ("edge", "texture", "semantic", *CHAIN)])
def test_attention_is_the_closed_form_of_its_role_whatever_the_image(role, maps):
    torch.testing.assert_close(maps[role], expected(role).expand_as(maps[role]), atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("role", ["edge", "texture", "semantic"])
def test_attention_to_content_is_a_softmax_of_the_feature_and_peaks_where_it_does(role, maps, images):
    column = {"edge": "edge", "texture": "texture", "semantic": "blob"}[role]
    feature = stem_features(images)[..., CHANNELS.index(column)]
    peak = feature.argmin(-1) if role == "semantic" else feature.argmax(-1)
    assert torch.equal(maps[role][:, 0].argmax(-1), peak)
    assert len(set(peak.tolist())) > 4
    # the same for every query, up to the rounding of scores of up to a hundred, which the softmax hands on to weights
    assert_same_up_to_rounding(maps[role], maps[role][:, :1].expand_as(maps[role]), roundings=1000)


def test_the_semantic_head_looks_into_the_dip(maps):
    _, masks, _ = draw_images(range(500, 508), 0, SIZE, symmetric=True)
    inside = (maps["semantic"][:, 0].numpy() * masks.reshape(8, -1)).sum(-1)
    assert inside.mean() > 10 * masks.mean()


def test_every_role_is_planted_once_and_heads_are_found_by_their_names(network, circuit):
    layers = shuffled_layers(circuit)
    assert sorted(role for layer in layers for role in layer) == sorted(set(PLANTED_ROLES) - set(CHAIN))
    assert sorted(PLANTED_ROLES) == sorted(ROLES)
    assert [(site.name, site.kind, site.heads) for site in find_sites(network)] == [
        ("block00.self", "self", 6),
        ("block01.self", "self", 7),
    ]


def test_another_seed_shuffles_the_heads():
    assert shuffled_layers(PlantedCircuit(seed=1)) != shuffled_layers(PlantedCircuit(seed=2))


def test_dead_heads_attend_but_write_exactly_nothing(network, circuit):
    for layer, block in zip(shuffled_layers(circuit), network.blocks, strict=True):
        for head, role in enumerate(layer):
            columns = block["attn"].to_out.weight[:, head * HEAD_WIDTH : (head + 1) * HEAD_WIDTH]
            assert bool((columns == 0).all()) == role.startswith("dead")


def test_it_denoises(network, images):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    share = 0.8
    noisy = share**0.5 * images + (1 - share) ** 0.5 * noise
    with torch.no_grad():
        restored = network(noisy, torch.full((len(images),), 147))
    untouched = (noisy / share**0.5 - images).square().mean()
    assert (restored - images).square().mean() < 0.5 * untouched
