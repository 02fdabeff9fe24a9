"""Every statistic agrees with a float64 softmax map, with closed forms, and is had without that map."""

import dataclasses
import math
from typing import Any
from unittest.mock import Mock

import diffusers
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffmech.attention import statistics
from diffmech.attention.calls import AttentionCall
from diffmech.attention.kernels import TILE_ELEMENTS, attention_with_lse
from diffmech.attention.sites import AttentionSite
from diffmech.attention.statistics import (
    AttentionStatistics,
    StatisticsObserver,
    attention_statistics,
    tiled_statistics,
)
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.testing import ROUNDINGS_OF_MANY_PASSES, assert_same_up_to_rounding

WAYS = {
    "fused": lambda call, grid=None: attention_statistics(call, grid, "fused"),
    "blocked": lambda call, grid=None: attention_statistics(call, grid, "blocked"),
    "tiled": tiled_statistics,
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
SPATIAL = ("distance", "self_mass", "neighbourhood_mass", "mirror_mass")


def make_call(query: Tensor, key: Tensor, value: Tensor, kind: str = "self", **changes: Any) -> AttentionCall:
    scale = 1 / math.sqrt(query.shape[-1])
    output, lse = attention_with_lse(
        query, key, value, scale, changes.get("attn_mask"), changes.get("is_causal", False)
    )
    site = AttentionSite(f"mid.0.{kind}", "mid_block.attentions.0", kind, query.shape[1])
    call = AttentionCall(site, query, key, value, output, lse, scale, None, False)
    return dataclasses.replace(call, **changes)


def random_call(
    queries: int, keys: int | None = None, channels: int = 8, sharpness: float = 1.0, dtype=torch.float32
) -> AttentionCall:
    generator = torch.Generator().manual_seed(queries)
    query, key, value = (
        torch.randn(2, tokens, 3, channels, generator=generator).transpose(1, 2).to(dtype)
        for tokens in (queries, keys or queries, keys or queries)
    )
    return make_call(sharpness * query, key, value, "self" if keys is None else "cross")


def dense_statistics(call: AttentionCall, height: int = 0, width: int = 0) -> AttentionStatistics:
    """The definitions, written out over the full float64 map with plain loops over positions."""
    query, key, value = (tensor.double() for tensor in (call.query, call.key, call.value))
    scores = call.scale * query @ key.transpose(-1, -2)
    if call.attn_mask is not None:
        scores = scores + call.attn_mask
    p = scores.softmax(-1)
    n = p.shape[-2]
    entropy = -torch.special.xlogy(p, p).sum(-1).mean(-1)
    share = p.mean(-2)
    output = p @ value
    spatial: dict[str, Tensor] = {}
    if height:
        place = [(i // width, i % width) for i in range(n)]
        square, own, near, mirror = (torch.zeros(n, n, dtype=torch.float64) for _ in range(4))
        for i, (y, x) in enumerate(place):
            for j, (v, u) in enumerate(place):
                square[i, j] = ((y - v) / height) ** 2 + ((x - u) / width) ** 2
                own[i, j] = i == j
                near[i, j] = abs(y - v) <= 1 and abs(x - u) <= 1
                mirror[i, j] = y == v and u == width - 1 - x
        mean = {"d": square, "self_mass": own, "neighbourhood_mass": near, "mirror_mass": mirror}
        spatial = {name: (p * weight).sum((-1, -2)) / n for name, weight in mean.items()}
        spatial["distance"] = spatial.pop("d").sqrt()
    return AttentionStatistics(
        entropy=entropy,
        position_information=-torch.special.xlogy(share, share).sum(-1) - entropy,
        received=share * share.shape[-1],
        output_mean=output.mean(-2),
        output_norm=output.square().sum(-1).mean(-1).sqrt(),
        **spatial,
    )


def assert_same(found: AttentionStatistics, expected: AttentionStatistics) -> None:
    for field in dataclasses.fields(AttentionStatistics):
        mine, theirs = getattr(found, field.name), getattr(expected, field.name)
        if theirs is None:
            assert mine is None, field.name
            continue
        # Position information is the difference of two entropies of some nats.
        assert_same_up_to_rounding(mine, theirs, scale=max(1, float(theirs.abs().max())))


@each_way
@pytest.mark.parametrize("side", [4, 8, 16])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 8.0])
def test_self_attention_statistics_equal_those_of_the_float64_map(way, side, sharpness):
    call = random_call(side * side, sharpness=sharpness)
    assert_same(way(call), dense_statistics(call, side, side))


@each_way
def test_a_map_of_1024_tokens_is_no_less_exact(way):
    call = random_call(1024, channels=16, sharpness=8.0)
    expected = dense_statistics(call)
    found = way(call)
    assert (found.entropy - expected.entropy).abs().max() < 1e-4
    assert_same_up_to_rounding(found.received, expected.received, roundings=ROUNDINGS_OF_MANY_PASSES)  # 1024 queries


@each_way
def test_images_need_not_be_square(way):
    call = random_call(3 * 7)
    assert_same(way(call, (3, 7)), dense_statistics(call, 3, 7))


@each_way
@pytest.mark.parametrize("keys", [1, 12, 77])
def test_cross_attention_has_no_spatial_statistics_and_the_rest_is_exact(way, keys):
    call = random_call(64, keys, sharpness=4.0)
    found = way(call)
    assert_same(found, dense_statistics(call))
    assert all(getattr(found, name) is None for name in SPATIAL)


@each_way
def test_uniform_attention_has_maximal_entropy(way):
    call = random_call(256, sharpness=0.0)
    found = way(call)
    assert_same_up_to_rounding(found.entropy, torch.full((2, 3), math.log(256)))
    assert_same_up_to_rounding(found.received, torch.ones(2, 3, 256))
    torch.testing.assert_close(found.position_information, torch.zeros(2, 3), atol=1e-4, rtol=0)
    assert_same_up_to_rounding(found.self_mass, torch.full((2, 3), 1 / 256))
    # Two independent uniform positions on w pixels differ by (w^2 - 1) / 6 pixels^2 on average, along each axis.
    assert_same_up_to_rounding(found.distance, torch.full((2, 3), math.sqrt(255 / 3) / 16))


@each_way
@pytest.mark.parametrize("target", ["self", "mirror"])
def test_one_hot_attention_has_no_entropy_and_reaches_its_target(way, target):
    """With orthogonal codes as keys, each query copies the code of the position that it looks at."""
    codes = 60 * torch.eye(64).expand(1, 1, 64, 64)
    flipped = codes.unflatten(2, (8, 8)).flip(3).flatten(2, 3)
    found = way(make_call(codes if target == "self" else flipped, codes, codes))
    assert found.entropy.item() == pytest.approx(0, abs=1e-5)
    assert found.position_information.item() == pytest.approx(math.log(64), abs=1e-4)
    assert found.self_mass.item() == pytest.approx(float(target == "self"), abs=1e-5)
    assert found.mirror_mass.item() == pytest.approx(float(target == "mirror"), abs=1e-5)
    mirrored = math.sqrt(sum(((7 - 2 * x) / 8) ** 2 for x in range(8)) / 8)
    assert found.distance.item() == pytest.approx(mirrored if target == "mirror" else 0, abs=1e-3)


@each_way
def test_a_sink_receives_everything_and_carries_no_position_information(way):
    key = torch.zeros(1, 1, 16, 4)
    key[:, :, 5, 0] = 100
    query = torch.ones(1, 1, 16, 4)
    found = way(make_call(query, key, key))
    expected = torch.zeros(16)
    expected[5] = 16
    assert_same_up_to_rounding(found.received[0, 0], expected)
    assert found.position_information.item() == pytest.approx(0, abs=1e-5)


@each_way
def test_received_attention_sums_to_the_number_of_keys(way):
    for call in (random_call(256, sharpness=4.0), random_call(64, 12)):
        keys = call.key.shape[-2]
        assert_same_up_to_rounding(way(call).received.sum(-1), torch.full((2, 3), float(keys)))


@each_way
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_inputs_are_reduced_in_float32(way, dtype, tolerance):
    call = random_call(64, dtype=dtype)
    found, expected = way(call), dense_statistics(call, 8, 8)
    assert found.entropy.dtype == torch.float32
    assert (found.entropy - expected.entropy).abs().max() < 1e-4
    torch.testing.assert_close(found.output_norm.double(), expected.output_norm, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("method", ["fused", "blocked"])
def test_turns_over_samples_or_heads_give_what_one_turn_gives(method, monkeypatch):
    call = random_call(64, sharpness=2.0)  # 2 samples of 3 heads, 9 numbers a token with the appended channel
    together = attention_statistics(call, method=method)
    summed = Mock(side_effect=getattr(statistics, f"{method}_sums"))
    monkeypatch.setattr(statistics, f"{method}_sums", summed)
    monkeypatch.setattr(statistics, "COPIED_ELEMENTS", 3 * 64 * 9)
    assert_same(attention_statistics(call, method=method), together)
    assert summed.call_count == 2


def test_the_lse_is_summed_where_the_call_brings_none():
    call = random_call(64)
    assert_same(attention_statistics(dataclasses.replace(call, lse=None)), attention_statistics(call))


def test_masked_attention_follows_the_mask():
    plain = random_call(64, 12)
    mask = torch.zeros(2, 1, 1, 12)
    mask[0, ..., 5:] = -math.inf
    call = make_call(plain.query, plain.key, plain.value, "cross", attn_mask=mask)
    found = attention_statistics(call)
    assert_same(found, dense_statistics(call))
    assert (found.received[0, :, 5:] == 0).all()
    boolean = make_call(plain.query, plain.key, plain.value, "cross", attn_mask=mask == 0)
    assert_same(attention_statistics(boolean), found)


def test_causal_attention_follows_the_order():
    plain = random_call(64)
    causal = make_call(plain.query, plain.key, plain.value, is_causal=True)
    mask = torch.full((64, 64), -math.inf).triu(1)
    masked = make_call(plain.query, plain.key, plain.value, attn_mask=mask)
    assert_same(attention_statistics(causal), dense_statistics(masked, 8, 8))


def test_joint_attention_and_a_wrong_grid_are_errors_that_name_the_site():
    call = random_call(64)
    joint = dataclasses.replace(call, site=AttentionSite("joint07", "", "joint", 3))
    with pytest.raises(ModelError, match="joint07 is joint attention"):
        attention_statistics(joint)
    with pytest.raises(ModelError, match=r"mid.0.self has 64 queries .* the grid 4 x 4 does not fit; give its grid"):
        attention_statistics(call, (4, 4))
    with pytest.raises(ModelError, match=r"mid.0.self has 15 queries .* a square grid"):
        attention_statistics(random_call(15))


def test_blocks_copy_neither_queries_nor_keys_of_a_single_sample():
    batch = random_call(1024, channels=64)
    call = make_call(batch.query[:1], batch.key[:1], batch.value[:1])
    assert not call.query.is_contiguous()  # heads lie beside each other, as projections give them
    with Storages() as storages:
        attention_statistics(call, method="blocked")
    assert call.query.numel() not in storages.elements


class Storages(TorchDispatchMode):
    """Remembers the numbers of elements of all tensors that operators allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self.elements.add(leaf.numel())
        return result


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operator returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@each_way
def test_the_map_never_exists(way):
    generator = torch.Generator().manual_seed(0)
    call = make_call(*(torch.randn(1, 1, 48 * 48, 4, generator=generator) for _ in range(3)))
    with LargestTensor() as largest:
        way(call)
    assert 0 < largest.elements <= TILE_ELEMENTS < call.query.shape[2] ** 2


def test_the_observer_watches_every_site_of_a_unet_and_leaves_it_alone():
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=16,
    ).eval()
    sample, tokens = torch.randn(2, 1, 16, 16), torch.randn(2, 5, 16)
    observer = StatisticsObserver()
    with torch.no_grad():
        plain = model(sample, 1, tokens).sample
        with AttentionTap(model, [observer]) as tap:
            assert torch.equal(plain, model(sample, 1, tokens).sample)
    assert set(observer.results) == {site.name for site in tap.sites}
    for site in tap.sites:
        found = observer.results[site.name]
        keys = 64 if site.kind == "self" else 5
        assert found.received.shape == (2, 4, keys)
        assert found.entropy.max() <= math.log(keys) + 1e-5
        assert (found.distance is None) == (site.kind == "cross")


def test_statistics_of_an_intervened_call_use_its_own_output():
    call = random_call(64)
    found = attention_statistics(dataclasses.replace(call, output=torch.zeros_like(call.output)))
    assert (found.output_norm == 0).all()
    assert functional.mse_loss(found.output_mean, torch.zeros(2, 3, 8)) == 0
