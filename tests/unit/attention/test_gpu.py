"""The GPU kernels give what the definitions do; without a GPU Triton interprets them. Else, another way is taken."""

import dataclasses
import importlib.util
import math
import os

import pytest
import torch
from test_attention_statistics import assert_same, make_call, random_call
from test_attention_statistics import dense_statistics as dense
from test_joint import GRID, OTHERS, joint_call
from test_joint import assert_same as assert_same_parts
from test_joint import dense_statistics as dense_parts

from diffmech.attention import gpu, statistics
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.statistics import AttentionStatistics, attention_statistics, tiled_statistics
from diffmech.testing import assert_same_up_to_rounding

# Of numpy, in which Triton interprets: what `where` then leaves out is computed before.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")

TENSORS = ("query", "key", "value", "output", "lse")
GPU = torch.cuda.is_available()
each_place = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(GPU, reason="compiled for the GPU of this machine instead")),
        pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="needs a CUDA device")]),
    ],
)
on_a_gpu = pytest.mark.skipif(not GPU, reason="needs a CUDA device")


@pytest.fixture
def kernels(monkeypatch):
    """The kernels, compiled where there is a GPU and interpreted where there is none."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if GPU:
        return
    if os.environ.get("TRITON_INTERPRET") != "1":  # read when Triton is imported, which torch does
        pytest.skip("without a GPU Triton interprets the kernels with TRITON_INTERPRET=1")
    from triton.runtime import interpreter

    patched = interpreter._patch_lang_tensor

    def with_index(tensor, scope):
        """Triton 3.6: int() of an array of one number, which numpy 2.4 refuses."""
        patched(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)


def moved(call, device):
    return dataclasses.replace(call, **{name: getattr(call, name).to(device) for name in TENSORS})


def by_kernels(call, device="cpu", grid=None, ranges=None):
    """Return the statistics by the kernels alone, on the CPU again."""
    call = moved(call, device)
    parts = statistics._parts(call, grid, ranges, torch.float32)
    found = gpu.launched(call, parts, call.lse.float(), ranges)
    return AttentionStatistics(**{name: value.cpu() for name, value in found.items()})


@each_place
@pytest.mark.parametrize("sharpness", [0.5, 8.0])
@pytest.mark.parametrize("side", [4, 9])  # whole and broken blocks
def test_self_attention_equals_the_float64_map(kernels, device, side, sharpness):
    call = random_call(side * side, sharpness=sharpness)
    assert_same(by_kernels(call, device), dense(call, side, side))


@each_place
def test_images_need_not_be_square_and_videos_have_frames(kernels, device):
    call = random_call(3 * 7)
    assert_same(by_kernels(call, device, (3, 7)), dense(call, 3, 7))
    video = random_call(2 * 3 * 4)
    assert_same(by_kernels(video, device, (2, 3, 4)), tiled_statistics(video, (2, 3, 4)))


@each_place
@pytest.mark.parametrize(("keys", "channels"), [(1, 8), (77, 40), (130, 24)])
def test_cross_attention_with_any_number_of_keys_and_channels(kernels, device, keys, channels):
    call = random_call(36, keys, channels, sharpness=4.0)
    assert_same(by_kernels(call, device), dense(call))


@each_place
@pytest.mark.parametrize("ranges", OTHERS.values(), ids=OTHERS.keys())
def test_every_part_of_joint_attention_equals_the_float64_map(kernels, device, ranges):
    call = joint_call(4.0, queries=ranges.queries)
    assert_same_parts(by_kernels(call, device, GRID, ranges), dense_parts(call, ranges))


@each_place
def test_one_hot_attention_has_no_entropy_and_no_distance(kernels, device):
    codes = 60 * torch.eye(16).expand(1, 1, 16, 16)
    found = by_kernels(make_call(codes, codes, codes), device)
    # ln p is a score of 900 nats less a log-sum-exp of as many. A GPU multiplies and subtracts in one, so that only the
    # latter is rounded before, to float32: 1.2e-5 nats remain where log2 e is what both are multiplied by.
    rounding = 60 * 60 / math.sqrt(16) * torch.finfo(torch.float32).eps / 2
    assert found.entropy.item() == pytest.approx(0, abs=rounding)
    assert found.position_information.item() == pytest.approx(math.log(16), abs=math.log(16) * rounding)
    assert found.self_mass.item() == pytest.approx(1, abs=rounding)
    assert found.distance.item() == pytest.approx(0, abs=1e-3)


@each_place
@pytest.mark.parametrize("channels", [40, 160])  # kept as 32 + 16 and 128 + 32
def test_half_precision_products_are_summed_in_float32(kernels, device, channels):
    call = random_call(64, channels=channels, dtype=torch.float16)
    found, expected = by_kernels(call, device), dense(call, 8, 8)
    for name in ("entropy", "position_information", "received", "distance", "self_mass", "mirror_mass"):
        assert (getattr(found, name) - getattr(expected, name)).abs().max() < 1e-4, name


@each_place
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("channels", [8, 20, 40])  # in units of 8 numbers, the smallest in one, or in single ones
def test_heads_within_tokens_give_the_same_as_heads_apart(kernels, device, heads, channels):
    call = random_call(36, channels=channels, dtype=torch.float16)
    some = {name: getattr(call, name)[:, :heads].contiguous() for name in TENSORS}
    within = {name: tensor.transpose(1, 2).contiguous().transpose(1, 2) for name, tensor in some.items()}
    apart = by_kernels(dataclasses.replace(call, **some), device)
    found = by_kernels(dataclasses.replace(call, **within), device)
    for name in ("entropy", "received", "self_mass", "output_mean"):
        assert_same_up_to_rounding(getattr(found, name), getattr(apart, name))


def test_forty_channels_from_head_to_head_are_five_times_eight():
    tokens = torch.zeros(2, 6, 120, dtype=torch.float16)
    assert gpu.common_unit(tokens.unflatten(2, (3, 40)).transpose(1, 2)) == 8
    assert gpu.common_unit(tokens.unflatten(2, (6, 20)).transpose(1, 2)) == 1
    assert gpu.common_unit(tokens.mT) == 1


@each_place
def test_what_is_no_number_stays_none(kernels, device):
    call = random_call(16)
    call.lse[0, 1, 3] = math.nan
    found = by_kernels(call, device)
    assert found.entropy.isnan().nonzero().tolist() == [[0, 1]]


def test_channels_are_kept_in_two_powers_of_two_where_that_is_less():
    kept = {channels: gpu.widths(channels) for channels in (8, 16, 24, 40, 64, 72, 80, 96, 112, 128, 160, 256)}
    assert {channels for channels, (_, rest) in kept.items() if rest} == {40, 72, 80, 96, 160}
    assert all(main + rest >= channels for channels, (main, rest) in kept.items())


@pytest.fixture
def untried(monkeypatch):
    monkeypatch.setattr(gpu, "_usable", {})
    return monkeypatch


def asked(call, otherwise=tiled_statistics):
    parts = statistics._parts(call, None, None, torch.float32)
    return gpu.kernel_statistics(call, parts, call.lse, None, lambda: vars(otherwise(call)))


def test_kernels_that_do_not_compile_are_left_with_one_warning_that_names_the_cause(untried, caplog):
    tries = []

    def failing(*args):
        tries.append(args)
        raise RuntimeError("ptxas of an unknown GPU")

    untried.setattr(gpu, "launched", failing)
    for call in (random_call(16), random_call(16), random_call(16, channels=16)):
        assert asked(call) is None
    assert len(tries) == 2  # once for every kind
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "RuntimeError: ptxas of an unknown GPU" in caplog.text


def test_kernels_that_give_wrong_numbers_are_left(untried, caplog):
    call = random_call(64)
    wrong = dataclasses.replace(tiled_statistics(call), entropy=tiled_statistics(call).entropy + 1)
    fields = {name: value for name, value in vars(wrong).items() if value is not None}
    untried.setattr(gpu, "launched", lambda *args: fields)
    assert asked(call) is None
    assert "1 off in entropy" in caplog.text
    assert asked(call, lambda _: wrong) is None  # not asked again


def test_kernels_that_agree_are_compared_once(untried):
    call = random_call(64)
    fields = {name: value for name, value in vars(tiled_statistics(call)).items() if value is not None}
    untried.setattr(gpu, "launched", lambda *args: fields)
    compared = []
    for _ in range(2):
        assert asked(call, lambda c: compared.append(c) or tiled_statistics(c)) is fields
    assert len(compared) == 1


def test_a_gpu_without_memory_is_no_reason_to_leave_the_kernels(untried):
    def full(*args):
        raise torch.OutOfMemoryError("no memory")

    untried.setattr(gpu, "launched", full)
    with pytest.raises(torch.OutOfMemoryError):
        asked(random_call(16))
    assert gpu._usable == {}


def test_what_the_kernels_are_not_for_is_left_to_other_ways(untried):
    call = random_call(16)
    assert gpu.fits(call)
    assert not gpu.fits(dataclasses.replace(call, is_causal=True))
    assert not gpu.fits(dataclasses.replace(call, attn_mask=torch.zeros(1)))
    assert not gpu.fits(random_call(16, dtype=torch.float64))
    assert not gpu.fits(random_call(16, channels=264))
    assert asked(random_call(16, dtype=torch.float64)) is None


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "keys", "ranges"),
    [
        ((2, 4, 1024, 40), 1024, None),
        ((1, 3, 1024, 64), 77, None),
        ((1, 2, 256, 160), 256, None),
        ((1, 2, 1024 + 333, 64), 1024 + 333, TokenRanges((0, 1024), (1024, 1357))),
        ((1, 2, 512 + 1024, 128), 512 + 1024, TokenRanges((512, 1536), (0, 512))),
    ],
    ids=str,
)
def test_on_a_gpu_the_kernels_are_taken_and_exact_and_their_bytes_do_not_change(
    kernels, untried, caplog, dtype, shape, keys, ranges
):
    torch.manual_seed(0)
    samples, heads, queries, channels = shape

    def heads_of(tokens):  # beside each other, as projections give them
        return torch.randn(samples, tokens, heads, channels, device="cuda", dtype=dtype).transpose(1, 2)

    query, key, value = 2 * heads_of(queries), heads_of(keys), heads_of(keys)
    kind = "joint" if ranges else "self" if queries == keys else "cross"
    call = make_call(query, key, value, kind)
    found = attention_statistics(call, ranges=ranges)
    assert list(gpu._usable.values()) == [True] * gpu.fits(call)
    assert not caplog.records
    exact = {name: getattr(call, name).double() for name in ("query", "key", "value", "output")}
    expected = tiled_statistics(dataclasses.replace(call, **exact), None, ranges)
    for name, theirs in vars(expected).items():
        mine = getattr(found, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert (mine - theirs).abs().max() < 1e-3 * theirs.abs().max().clamp_min(gpu.LEAST.get(name, 1e-6)), name
    if not gpu.fits(call):  # float32 of many channels
        return
    again = attention_statistics(call, ranges=ranges)
    one = dataclasses.replace(call, **{name: getattr(call, name)[:1] for name in TENSORS})
    alone = attention_statistics(one, ranges=ranges)
    for name, mine in vars(found).items():
        if mine is not None:
            assert torch.equal(mine, getattr(again, name)), name
            assert torch.equal(mine[:1], getattr(alone, name)), name
