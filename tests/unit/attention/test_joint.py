"""Image tokens beside text or extra ones: every part equals plain float64 sums over the full map, in every way."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diffmech.attention.calls import AttentionCall
from diffmech.attention.kernels import attention_with_lse
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import AttentionSite
from diffmech.attention.statistics import AttentionStatistics, attention_statistics, tiled_statistics
from diffmech.errors import ModelError
from diffmech.testing import assert_same_up_to_rounding

GRID = (4, 6)
IMAGE_FIRST = TokenRanges(image=(0, 24), text=(24, 31))
TEXT_FIRST = TokenRanges(image=(7, 31), text=(0, 7))
OTHERS = {
    "image first": IMAGE_FIRST,
    "text first": TEXT_FIRST,
    "class token and registers": TokenRanges(image=(1, 25), extra=(1, 6)),
    "memory": TokenRanges(image=(7, 31), extra=(7, 0), memory=(7, 0)),
    "memory and bias": TokenRanges(image=(6, 30), extra=(6, 1), memory=(6, 1)),
    "memory and a class token": TokenRanges(image=(7, 31), extra=(7, 0), memory=(6, 0)),
}
each_order = pytest.mark.parametrize("ranges", [IMAGE_FIRST, TEXT_FIRST], ids=["image first", "text first"])
each_company = pytest.mark.parametrize("ranges", OTHERS.values(), ids=OTHERS.keys())
WAYS = {
    "fused": lambda call, ranges: attention_statistics(call, GRID, "fused", ranges),
    "blocked": lambda call, ranges: attention_statistics(call, GRID, "blocked", ranges),
    "tiled": lambda call, ranges: tiled_statistics(call, GRID, ranges),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


def joint_call(sharpness: float = 1.0, scale: float = 0.37, queries: int = 31, **changes: Any) -> AttentionCall:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 31, 3, 8, generator=generator).transpose(1, 2) for _ in range(3))
    query = sharpness * query[:, :, :queries]
    mask, causal = changes.get("attn_mask"), changes.get("is_causal", False)
    output, lse = attention_with_lse(query, key, value, scale, mask, causal)
    site = AttentionSite("joint07", "transformer_blocks.7.attn", "joint", 3)
    return dataclasses.replace(AttentionCall(site, query, key, value, output, lse, scale, None, False), **changes)


def probabilities(call: AttentionCall) -> Tensor:
    """The map, written out in float64 with numpy-like sums alone."""
    scores = call.scale * torch.einsum("bhid,bhjd->bhij", call.query.double(), call.key.double())
    if call.attn_mask is not None:
        bias = call.attn_mask
        scores = scores + (torch.where(bias, 0.0, -math.inf) if bias.dtype == torch.bool else bias)
    if call.is_causal:
        scores = scores.masked_fill(torch.arange(31) > torch.arange(scores.shape[-2])[:, None], -math.inf)
    weight = torch.exp(scores - scores.amax(-1, keepdim=True))
    return weight / weight.sum(-1, keepdim=True)


def where(names: tuple[str, ...], *, image: bool) -> list[int]:
    return [index for index, name in enumerate(names) if (name == "image") == image]


def dense_statistics(call: AttentionCall, ranges: TokenRanges) -> AttentionStatistics:
    """The definitions over the full map, with plain loops over parts and positions."""
    p, (height, width) = probabilities(call), GRID
    image, others = where(ranges.names("query"), image=True), where(ranges.names("query"), image=False)
    image_keys, other_keys = where(ranges.names("key"), image=True), where(ranges.names("key"), image=False)
    of_image, of_others, within = p[:, :, image], p[:, :, others], p[:, :, image][..., image_keys]
    plogp = -torch.special.xlogy(of_image, of_image)
    share = of_image.mean(-2)
    mass, spread = [], []
    for queries in [image, others] if others else [image]:
        for keys in (image_keys, other_keys):
            part = p[:, :, queries][..., keys]
            m = part.sum(-1)
            inside = part / m.clamp_min(1e-300).unsqueeze(-1)
            mass.append(m.mean(-1))
            h = -torch.special.xlogy(inside, inside).sum(-1)
            spread.append((m * h).sum(-1) / m.sum(-1).clamp_min(1e-300))
    # Order of the loops above: image->image, image->others, others->image, others->others.
    square, own, near, mirror = (torch.zeros(24, 24, dtype=torch.float64) for _ in range(4))
    for i in range(24):
        for j in range(24):
            (y, x), (v, u) = divmod(i, width), divmod(j, width)
            square[i, j] = ((y - v) / height) ** 2 + ((x - u) / width) ** 2
            own[i, j] = i == j
            near[i, j] = abs(y - v) <= 1 and abs(x - u) <= 1
            mirror[i, j] = y == v and u == width - 1 - x
    own, near, mirror = ((within * weight).sum((-1, -2)) / 24 for weight in (own, near, mirror))
    output = (p @ call.value.double())[:, :, image]
    entropy = plogp.sum(-1).mean(-1)
    return AttentionStatistics(
        entropy=entropy,
        position_information=-torch.special.xlogy(share, share).sum(-1) - entropy,
        received=share * 31,
        output_mean=output.mean(-2),
        output_norm=output.square().sum(-1).mean(-1).sqrt(),
        distance=((within * square).sum((-1, -2)) / within.sum((-1, -2))).sqrt(),
        self_mass=own,
        neighbourhood_mass=near,
        mirror_mass=mirror,
        part_mass=torch.stack(mass, -1),
        part_entropy=torch.stack(spread, -1),
        **({f"received_from_{ranges.rest}": of_others.mean(-2) * 31} if others else {}),
    )


def assert_same(found: AttentionStatistics, expected: AttentionStatistics) -> None:
    for field in dataclasses.fields(AttentionStatistics):
        mine, theirs = getattr(found, field.name), getattr(expected, field.name)
        assert (mine is None) == (theirs is None), field.name
        if mine is not None:  # position information is the difference of two entropies of some nats
            assert_same_up_to_rounding(mine.double(), theirs.double(), scale=max(1, float(theirs.abs().max())))


@each_way
@each_company
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 8.0])
def test_joint_statistics_equal_those_of_the_float64_map(way, ranges, sharpness):
    call = joint_call(sharpness, queries=ranges.queries)
    assert_same(way(call, ranges), dense_statistics(call, ranges))


@each_company
@pytest.mark.parametrize("kind", ["padding", "additive", "causal"])
def test_masked_and_causal_joint_attention_is_exact(ranges, kind):
    generator = torch.Generator().manual_seed(1)
    if kind == "causal":
        call = joint_call(is_causal=True, queries=ranges.queries)
    elif kind == "padding":
        allowed = torch.ones(2, 1, 1, 31, dtype=torch.bool)
        allowed[0, ..., where(ranges.names("key"), image=False)[2:]] = False
        call = joint_call(attn_mask=allowed, queries=ranges.queries)
    else:
        mask = torch.randn(2, 3, ranges.queries, 31, generator=generator)
        call = joint_call(attn_mask=mask, queries=ranges.queries)
    assert_same(attention_statistics(call, GRID, ranges=ranges), dense_statistics(call, ranges))


@each_way
@each_order
def test_a_part_that_gets_almost_no_attention_keeps_its_digits(way, ranges):
    """Text keys so loud that image keys get less than a millionth: entropy within the part is still that of float64."""
    call = joint_call()
    call.key[:, :, slice(*ranges.text), 0] += 60
    call.query[..., 0] = 1
    call = dataclasses.replace(call, lse=None)
    expected = dense_statistics(call, ranges)
    assert expected.part_mass[..., 0].max() < 1e-6
    found = way(call, ranges)
    # Weights are differences of scores of some 60, whose rounding, 4e-6, is multiplied by as many.
    torch.testing.assert_close(found.part_entropy.double(), expected.part_entropy, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.distance.double(), expected.distance, atol=1e-3, rtol=1e-3)


@each_way
@each_order
def test_uniform_joint_attention_shares_by_the_number_of_tokens(way, ranges):
    found = way(joint_call(sharpness=0.0), ranges)
    shares = torch.tensor([24 / 31, 7 / 31, 24 / 31, 7 / 31]).expand(2, 3, 4)
    assert_same_up_to_rounding(found.part_mass, shares)
    within = torch.tensor([math.log(24), math.log(7)] * 2).expand(2, 3, 4)
    assert_same_up_to_rounding(found.part_entropy, within)
    assert_same_up_to_rounding(found.entropy, torch.full((2, 3), math.log(31)))
    for received in (found.received, found.received_from_text):
        assert_same_up_to_rounding(received, torch.ones(2, 3, 31))


@each_way
def test_entropy_is_that_of_the_choice_of_part_and_that_within_parts(way):
    """The chain rule, for queries of one text and one image key pattern: H = H(parts) + sum of mass times H(part)."""
    call = joint_call()
    query = call.query[:, :, :1].expand_as(call.query).contiguous()  # all queries alike, so that means are exact
    call = dataclasses.replace(call, query=query, lse=None)
    found = way(call, TEXT_FIRST)
    mass, within = found.part_mass[..., :2], found.part_entropy[..., :2]
    chained = (mass * within).sum(-1) - torch.xlogy(mass, mass).sum(-1)
    assert_same_up_to_rounding(found.entropy, chained)


@each_order
def test_the_order_of_the_tokens_changes_nothing_but_the_order_of_the_keys(ranges):
    call = joint_call()
    order = [*range(*ranges.image), *range(*ranges.text)]
    sorted_call = dataclasses.replace(
        call, **{name: getattr(call, name)[:, :, order] for name in ("query", "key", "value", "output", "lse")}
    )
    mine = attention_statistics(call, GRID, ranges=ranges)
    theirs = attention_statistics(sorted_call, GRID, ranges=IMAGE_FIRST)
    reordered = {name: getattr(mine, name)[..., order] for name in ("received", "received_from_text")}
    assert_same(dataclasses.replace(mine, **reordered), theirs)


def test_joint_attention_that_cannot_be_told_apart_is_an_error_that_names_the_site():
    call = joint_call()
    with pytest.raises(ModelError, match=r"joint07 is joint attention .* 31 tokens"):
        attention_statistics(call, GRID)
    with pytest.raises(ModelError, match=r"joint07 has 31 queries and 31 keys, which the token ranges image \(0, 20\)"):
        attention_statistics(call, GRID, ranges=TokenRanges((0, 20), (20, 24)))
    with pytest.raises(ModelError, match=r"joint07 has 24 image tokens, which the grid 5 x 5"):
        attention_statistics(call, (5, 5), ranges=IMAGE_FIRST)


def test_parts_and_tokens_are_named_in_order():
    assert TEXT_FIRST.parts == ("image->image", "image->text", "text->image", "text->text")
    assert OTHERS["memory"].parts == ("image->image", "image->extra")
    assert OTHERS["memory and a class token"].parts[2:] == ("extra->image", "extra->extra")
    assert TEXT_FIRST.names("key") == TEXT_FIRST.names("query") == ("text",) * 7 + ("image",) * 24
    assert IMAGE_FIRST.names("key") == ("image",) * 24 + ("text",) * 7
    assert OTHERS["class token and registers"].names("query") == ("extra",) + ("image",) * 24 + ("extra",) * 6
    assert OTHERS["memory and bias"].names("key") == ("extra",) * 6 + ("image",) * 24 + ("extra",)
    assert OTHERS["memory and bias"].names("query") == ("image",) * 24
    assert OTHERS["memory and a class token"].names("query") == ("extra",) + ("image",) * 24


def test_zero_attention_to_a_part_has_no_entropy_within_it():
    call = joint_call(attn_mask=torch.ones(31, 31, dtype=torch.bool).index_fill(1, torch.arange(24, 31), False))
    found = attention_statistics(call, GRID, ranges=IMAGE_FIRST)
    assert (found.part_mass[..., [1, 3]] == 0).all()
    assert (found.part_entropy[..., [1, 3]] == 0).all()
    assert functional.l1_loss(found.part_mass[..., 0], torch.ones(2, 3)) < 1e-5
