"""Every family of denoisers: watched without a trace, named and told apart, and measured as float64 softmax measures.

The reference shares no code with the package beyond the tensors q and k, and for one family of each kind of block not
even those: there q and k come from forward hooks on the projections.
"""

import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from softmax_counts import softmaxes
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from diffmech.attention.calls import AttentionCall
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import find_sites
from diffmech.attention.statistics import AttentionStatistics, StatisticsObserver
from diffmech.attention.survey import check_tappable
from diffmech.attention.tap import AttentionTap
from diffmech.attention.text_tokens import token_ranges
from diffmech.testing import (
    FAMILIES,
    FLUX_GRID,
    TEXT_TOKENS,
    assert_same_up_to_rounding,
    evaluate,
    example_grid,
    example_inputs,
    tiny_model,
)

IMAGE_FIRST = {"sd3": 80, "sd35": 80}
TEXT_FIRST = {"flux": 24, "cogvideox": 24}
HEADS = {"unet": {4}, "sd1": {4}, "sd2": {2, 4}, "sdxl": {4}, "sana": {2, 4}}
SITES = {
    "unet": "down1.0.self mid.0.self up0.0.self up0.1.self",
    "sd1": " ".join(f"{at}.{kind}" for at in ("down0.0", "mid.0", "up1.0", "up1.1") for kind in ("self", "cross")),
    "dit": "block00.self block01.self",
    "pixart": "block00.self block00.cross block01.self block01.cross",
    "sd3": "joint00 joint01",
    "sd35": "joint00 block00.self2 joint01",
    "flux": "joint00 joint01 single00 single01",
    "wan": "block00.self block00.cross block01.self block01.cross",
    "cogvideox": "joint00 joint01",
}
each_family = pytest.mark.parametrize("family", FAMILIES)
Run = Callable[[], Tensor]


def prepare(family: str) -> tuple[nn.Module, Run]:
    model = tiny_model(family)
    inputs = example_inputs(model)
    return model, lambda: evaluate(model, inputs)


def expected_ranges(family: str) -> TokenRanges | None:
    if family in IMAGE_FIRST:
        image = IMAGE_FIRST[family]
        return TokenRanges((0, image), (image, image + TEXT_TOKENS))
    return TokenRanges((7, 31), (0, 7)) if family in TEXT_FIRST else None


def grids_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    grid = example_grid(model)
    return {} if grid is None else {site.name: grid for site in find_sites(model)}


def watch(family: str) -> tuple[nn.Module, Run, dict[str, AttentionCall], dict[str, AttentionStatistics]]:
    """One forward under a tap, with all calls and their statistics."""
    model, run = prepare(family)
    calls: list[AttentionCall] = []
    observer = StatisticsObserver(grids_of(model), token_ranges(model, run))
    with torch.no_grad(), AttentionTap(model, [calls.append, observer]):
        run()
    return model, run, {call.site.name: call for call in calls}, observer.results


def eager_map(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = query.double() @ key.double().transpose(-1, -2) / math.sqrt(query.shape[-1])
    return (scores if mask is None else scores + mask.double()).softmax(-1)


def entropy_of(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1)


def close(found: Tensor | None, expected: Tensor, what: str) -> None:
    assert found is not None, what
    try:  # position information is the difference of two entropies of some nats
        assert_same_up_to_rounding(found, expected, scale=max(1, float(expected.abs().max())))
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None


def check_statistics(found: AttentionStatistics, p: Tensor, ranges: TokenRanges | None, site: str) -> None:
    keys = p.shape[-1]
    rows = list(range(*ranges.image)) if ranges else list(range(p.shape[-2]))
    close(found.entropy, entropy_of(p[:, :, rows]).mean(-1), f"{site} entropy")
    close(found.received, p[:, :, rows].mean(-2) * keys, f"{site} received")
    if ranges is None:
        assert found.part_mass is None
        return
    text = list(range(*ranges.text))
    close(found.received_from_text, p[:, :, text].mean(-2) * keys, f"{site} received from text")
    for index, (queries, targets) in enumerate([(rows, rows), (rows, text), (text, rows), (text, text)]):
        part = p[:, :, queries][..., targets]
        mass = part.sum(-1)
        assert found.part_mass is not None
        assert found.part_entropy is not None
        close(found.part_mass[..., index], mass.mean(-1), f"{site} mass of part {index}")
        within = (mass * entropy_of(part / mass.unsqueeze(-1))).sum(-1) / mass.sum(-1)
        close(found.part_entropy[..., index], within, f"{site} entropy of part {index}")


def plane_distance(p: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The root mean square attention distance in the image plane, from loops over pixels."""
    frames, height, width = (1, *grid) if len(grid) == 2 else grid
    places = [(y / height, x / width) for _ in range(frames) for y in range(height) for x in range(width)]
    square = torch.tensor([[(y - v) ** 2 + (x - u) ** 2 for v, u in places] for y, x in places], dtype=torch.float64)
    return ((p * square).sum((-1, -2)) / p.sum((-1, -2))).sqrt()


@each_family
def test_the_output_is_the_same_bit_for_bit_with_the_tap_on_and_nothing_stays_behind(family):
    model, run = prepare(family)
    ranges = token_ranges(model, run)
    plain = run()
    with AttentionTap(model, [StatisticsObserver(grids_of(model), ranges)]):
        assert torch.equal(plain, run())
    assert torch.equal(plain, run())
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert _get_current_function_mode_stack() == []


@each_family
def test_an_exception_inside_a_forward_leaves_the_model_as_it_was(family):
    model, run = prepare(family)
    ranges, plain = token_ranges(model, run), run()
    last = model.get_submodule(find_sites(model)[-1].module_path)
    broken = last.register_forward_pre_hook(lambda module, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError), AttentionTap(model, [StatisticsObserver(grids_of(model), ranges)]):
        run()
    broken.remove()
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert _get_current_function_mode_stack() == []
    assert torch.equal(plain, run())


@each_family
def test_every_site_is_named_once_and_seen(family):
    model, run = prepare(family)
    sites, report = find_sites(model), check_tappable(model, run)
    names = [site.name for site in sites]
    assert len(set(names)) == len(names) > 0
    assert names == SITES.get(family, " ".join(names)).split()
    assert not report.unclaimed
    assert not report.untapped
    assert list(report.tapped) == [name for name in names if name not in report.linear]


@each_family
def test_there_are_as_many_sites_as_softmaxes(family):
    model, run = prepare(family)
    assert softmaxes(run) == len(check_tappable(model, run).sites)


def test_linear_attention_is_named_as_not_tappable_and_cross_attention_beside_it_is_seen(caplog):
    model, run = prepare("sana")
    report = check_tappable(model, run)
    assert report.tapped == ("block00.cross", "block01.cross")
    assert not report.untapped
    assert list(report.linear) == ["block00.self", "block01.self"]
    assert all("linear attention, which has no softmax" in reason for reason in report.linear.values())
    report.require_all()  # what is left can be studied, but nothing is left out in silence
    assert "left out: block00.self: its processor" in caplog.text


def test_sdxl_names_each_block_of_a_stack():
    model, _ = prepare("sdxl")
    assert {"down1.0b0.self", "down1.0b1.cross", "mid.0b1.self"} <= {site.name for site in find_sites(model)}


@each_family
def test_heads_are_split_as_the_model_splits_them(family):
    model, run = prepare(family)
    calls: list[AttentionCall] = []
    with AttentionTap(model, [calls.append]):
        run()
    assert {call.site.heads for call in calls} <= HEADS.get(family, {2})
    for call in calls:
        width = model.get_submodule(call.site.module_path).to_q.out_features
        assert call.query.shape[1] == call.key.shape[1] == call.site.heads
        assert call.query.shape[1] * call.query.shape[3] == width


@each_family
def test_text_tokens_are_told_from_image_tokens(family):
    model, run = prepare(family)
    joint = [site.name for site in find_sites(model) if site.kind == "joint"]
    assert token_ranges(model, run) == dict.fromkeys(joint, expected_ranges(family))
    assert bool(joint) == (expected_ranges(family) is not None)


@each_family
def test_statistics_equal_those_of_an_eager_float64_softmax(family):
    model, _, calls, results = watch(family)
    assert results.keys() == calls.keys()
    spread = []
    for name, call in calls.items():
        mask, found = call.attn_mask, results[name]
        p = eager_map(call.query, call.key, mask)
        ranges = expected_ranges(family) if call.site.kind == "joint" else None
        check_statistics(found, p, ranges, name)
        spread.append(float(found.entropy.min()) / math.log(p.shape[-1]))
        if call.site.kind != "cross":
            grid = example_grid(model) or (math.isqrt(p.shape[-1]),) * 2
            image = slice(*ranges.image) if ranges else slice(None)
            close(found.distance, plane_distance(p[:, :, image, image], grid), f"{name} distance")
    assert min(spread) < 0.95  # nothing is shown by attention that is uniform anyway


def test_masked_text_is_not_attended():
    """PixArt and Sana are given a mask over their text; its last token is padding in the first sample only."""
    for family in ("pixart", "sana"):
        _, _, _, results = watch(family)
        received = results["block00.cross"].received
        assert received[0, :, -1].max() < 1e-6
        assert received[1, :, -1].min() > 1e-3


def test_the_frames_of_a_video_are_laid_out_one_after_the_other():
    """Wan flattens (frame, row, column) in that order: a neighbourhood never reaches into the next frame."""
    _, _, calls, results = watch("wan")
    frames, height, width = 2, 4, 3
    p = eager_map(calls["block00.self"].query, calls["block00.self"].key)
    place = [divmod(i % (height * width), width) for i in range(frames * height * width)]
    near, mirror = torch.zeros(24, 24, dtype=torch.float64), torch.zeros(24, 24, dtype=torch.float64)
    for i, (y, x) in enumerate(place):
        for j, (v, u) in enumerate(place):
            same = i // (height * width) == j // (height * width)
            near[i, j] = same and abs(y - v) <= 1 and abs(x - u) <= 1
            mirror[i, j] = same and y == v and u == width - 1 - x
    found = results["block00.self"]
    close(found.neighbourhood_mass, (p * near).sum((-1, -2)) / 24, "neighbourhood")
    close(found.mirror_mass, (p * mirror).sum((-1, -2)) / 24, "mirror")


class Outputs:
    """What modules returned, by path, and the arguments that attention modules were given by name."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: dict[str, Tensor] = {}
        self.arguments: dict[str, dict[str, Any]] = {}
        self.handles = []
        for path, module in model.named_modules():
            self.handles.append(module.register_forward_hook(self.keep(path), with_kwargs=True))

    def keep(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
            self.outputs[path], self.arguments[path] = output, named

        return hook

    def heads(self, path: str, heads: int) -> Tensor:
        """(sample, head, token, channel) from a projection's (sample, token, all channels)."""
        output = self.outputs[path]
        return output.reshape(*output.shape[:2], heads, -1).transpose(1, 2)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of neighbouring channels as complex numbers; x is (sample, head, token, channel)."""
    cos, sin = rotary
    turn = torch.complex(cos[:, ::2].double(), sin[:, ::2].double())
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2)


def hooked_unet(outputs: Outputs, path: str, heads: int) -> tuple[Tensor, Tensor]:
    return outputs.heads(f"{path}.to_q", heads), outputs.heads(f"{path}.to_k", heads)


def hooked_sd3(outputs: Outputs, path: str, heads: int) -> tuple[Tensor, Tensor]:
    query, key = hooked_unet(outputs, path, heads)
    if f"{path}.add_q_proj" not in outputs.outputs:
        return query, key
    text = outputs.heads(f"{path}.add_q_proj", heads), outputs.heads(f"{path}.add_k_proj", heads)
    return torch.cat([query, text[0]], 2), torch.cat([key, text[1]], 2)


def hooked_flux(outputs: Outputs, path: str, heads: int) -> tuple[Tensor, Tensor]:
    def normed(name: str) -> Tensor:  # what comes out of the norms has its heads apart already
        output = outputs.outputs[f"{path}.{name}"]
        return output.transpose(1, 2) if output.shape[2] == heads else output

    query, key = normed("norm_q"), normed("norm_k")
    if f"{path}.norm_added_q" in outputs.outputs:
        query = torch.cat([normed("norm_added_q"), query], 2)
        key = torch.cat([normed("norm_added_k"), key], 2)
    rotary = outputs.arguments[path]["image_rotary_emb"]
    return rotate(query, rotary), rotate(key, rotary)


@pytest.mark.parametrize(
    ("family", "hooked"),
    [("unet", hooked_unet), ("sd1", hooked_unet), ("sdxl", hooked_unet), ("sd3", hooked_sd3), ("flux", hooked_flux)],
)
def test_statistics_equal_those_from_projections_watched_without_the_tap(family, hooked):
    _, _, _, results = watch(family)
    model, run = prepare(family)
    outputs = Outputs(model)
    run()
    for site in find_sites(model):
        p = eager_map(*hooked(outputs, site.module_path, site.heads))
        check_statistics(results[site.name], p, expected_ranges(family) if site.kind == "joint" else None, site.name)


def test_example_models_depend_on_their_seed_alone():
    before = torch.get_rng_state()
    model = tiny_model("flux", seed=3)
    torch.rand(1)
    again = tiny_model("flux", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(model.parameters()), next(tiny_model("flux", seed=4).parameters()))
    assert torch.equal(evaluate(model, example_inputs(model)), evaluate(again, example_inputs(again)))
    torch.set_rng_state(before)
    assert math.prod(FLUX_GRID) == example_inputs(model)["hidden_states"].shape[1]


def test_every_family_is_of_the_class_it_stands_for():
    classes = {family: type(tiny_model(family)) for family in FAMILIES}
    assert classes["sd2"] is classes["sdxl"] is diffusers.UNet2DConditionModel
    assert classes["sd35"] is diffusers.SD3Transformer2DModel
    assert len(set(classes.values())) == 9
