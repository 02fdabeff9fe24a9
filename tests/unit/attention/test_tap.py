"""Watching never changes a model, interventions change exactly what they say, and nothing stays behind."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite, find_sites
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.survey import check_tappable
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.testing import ROUNDINGS_OF_MANY_PASSES, assert_same_up_to_rounding

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "in_channels": 4,
    "num_layers": 2,
    "sample_size": 16,
    "patch_size": 2,
}
STEPS = torch.tensor([1, 2])


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def unet2d() -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.UNet2DModel(
        **UNET, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")
    )
    return model, {"sample": normal(2, 1, 16, 16), "timestep": STEPS}


def unet2d_condition() -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.UNet2DConditionModel(
        **UNET,
        cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return model, {"sample": normal(2, 1, 16, 16), "timestep": STEPS, "encoder_hidden_states": normal(2, 6, 32)}


def dit() -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.DiTTransformer2DModel(**TRANSFORMER, out_channels=4, num_embeds_ada_norm=100)
    return model, {"hidden_states": normal(2, 4, 16, 16), "timestep": STEPS, "class_labels": STEPS}


def pixart() -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.PixArtTransformer2DModel(
        **TRANSFORMER,
        out_channels=8,
        cross_attention_dim=64,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return model, {
        "hidden_states": normal(2, 4, 16, 16),
        "encoder_hidden_states": normal(2, 7, 32),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7]),
        "timestep": STEPS,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def sd3() -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.SD3Transformer2DModel(
        **TRANSFORMER, out_channels=4, joint_attention_dim=32, caption_projection_dim=64, pooled_projection_dim=32
    )
    return model, {
        "hidden_states": normal(2, 4, 16, 16),
        "encoder_hidden_states": normal(2, 7, 32),
        "pooled_projections": normal(2, 32),
        "timestep": STEPS,
    }


def flux() -> tuple[nn.Module, dict[str, Any]]:
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return model, {
        "hidden_states": normal(1, 64, 4),
        "encoder_hidden_states": normal(1, 7, 32),
        "pooled_projections": normal(1, 32),
        "timestep": torch.tensor([1.0]),
        "img_ids": torch.zeros(64, 3),
        "txt_ids": torch.zeros(7, 3),
    }


FAMILIES = [unet2d, unet2d_condition, dit, pixart, sd3, flux]


class Recorder:
    """Keeps every call."""

    def __init__(self, needs_lse: bool = False, after_interventions: bool = False) -> None:
        self.needs_lse, self.after_interventions = needs_lse, after_interventions
        self.calls: list[AttentionCall] = []

    def observe(self, call: AttentionCall) -> None:
        self.calls.append(call)


class Rewrite:
    """Applies a function of the call to the sites of one name."""

    def __init__(self, function: Callable[[AttentionCall], Tensor | None], site: str = "") -> None:
        self.function, self.site = function, site

    def applies_to(self, site: AttentionSite) -> bool:
        return self.site in ("", site.name)

    def replace_output(self, call: AttentionCall) -> Tensor | None:
        return self.function(call)


class Attention(nn.Module):
    """The smallest module that is an attention site; `inner` is a module that it runs before its own attention."""

    def __init__(self, inner: nn.Module | None = None, keyword: bool = False) -> None:
        super().__init__()
        self.heads, self.to_q, self.inner, self.keyword = 2, nn.Linear(8, 8, bias=False), inner, keyword

    def forward(self, x: Tensor, depth: int = 0) -> Tensor:
        if depth:
            x = self(x, depth - 1)
        if self.inner is not None:
            x = self.inner(x)
        q = self.to_q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        if self.keyword:
            o = functional.scaled_dot_product_attention(value=q, key=q, query=q, scale=0.3)
        else:
            o = functional.scaled_dot_product_attention(q, q, q, None, 0.0, False, scale=0.3)
        return o.transpose(1, 2).flatten(2)


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def evaluate(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    return model(**inputs, return_dict=False)[0]


@pytest.mark.parametrize("build", FAMILIES)
@pytest.mark.parametrize("needs_lse", [False, True])
def test_watching_never_changes_the_output(build, needs_lse):
    torch.manual_seed(0)
    model, inputs = build()
    model.eval()
    plain = evaluate(model, inputs)
    recorder = Recorder(needs_lse)
    with AttentionTap(model, [recorder]) as tap:
        tapped = evaluate(model, inputs)
    assert torch.equal(plain, tapped)
    assert torch.equal(plain, evaluate(model, inputs))
    assert {call.site for call in recorder.calls} == set(tap.sites)
    assert tap.tapped == {site.name for site in tap.sites}
    assert not tap.untapped
    assert not tap.unclaimed


@pytest.mark.parametrize("build", FAMILIES)
def test_observed_calls_hold_the_softmax_attention_and_its_lse(build):
    torch.manual_seed(0)
    model, inputs = build()
    recorder = Recorder(needs_lse=True)
    with AttentionTap(model.eval(), [recorder]):
        evaluate(model, inputs)
    assert {call.site.name for call in recorder.calls} == {site.name for site in find_sites(model)} != set()
    for call in recorder.calls:
        scores = call.scale * call.query.double() @ call.key.double().transpose(-1, -2)
        if call.attn_mask is not None:
            scores = scores + call.attn_mask
        assert call.query.shape[1] == call.site.heads
        assert_same_up_to_rounding(scores.softmax(-1) @ call.value.double(), call.output)
        assert_same_up_to_rounding(scores.logsumexp(-1), call.lse)


def test_watching_with_gradients_on_changes_neither_output_nor_gradient():
    torch.manual_seed(0)
    model, inputs = unet2d_condition()

    def gradient() -> tuple[Tensor, Tensor]:
        model.zero_grad()
        output = model(**inputs, return_dict=False)[0]
        output.square().sum().backward()
        return output.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain = gradient()
    recorder = Recorder(needs_lse=True)
    with AttentionTap(model, [recorder]):
        tapped = gradient()
    assert torch.equal(plain[0], tapped[0])
    assert_same_up_to_rounding(plain[1], tapped[1], roundings=ROUNDINGS_OF_MANY_PASSES)
    assert all(call.output.requires_grad and call.lse is not None for call in recorder.calls)


def test_arguments_may_come_by_position_or_keyword():
    for keyword in (False, True):
        model = nn.Sequential(Attention(keyword=keyword))
        recorder = Recorder()
        with AttentionTap(model, [recorder]), torch.no_grad():
            model(normal(1, 5, 8))
        assert recorder.calls[0].scale == 0.3
        assert recorder.calls[0].lse is None


def test_a_module_that_runs_inside_another_gets_its_own_calls():
    model = nn.ModuleDict({"outer": Attention(inner=Attention())})
    recorder = Recorder()
    with AttentionTap(model, [recorder]):
        model["outer"](normal(1, 5, 8))
        model["outer"].inner(normal(1, 5, 8), depth=2)
    # the second pass is one of a module by itself, which runs three times in it
    further = ["outer.inner.self", "outer.inner.self#2", "outer.inner.self#3"]
    assert [call.site.name for call in recorder.calls] == ["outer.inner.self", "outer.self", *further]


def test_returning_none_or_the_same_output_changes_nothing():
    model, inputs = unet2d()
    plain = evaluate(model, inputs)
    for function in (lambda call: None, lambda call: call.output.clone()):
        with AttentionTap(model, interventions=[Rewrite(function)]):
            assert torch.equal(plain, evaluate(model, inputs))


def test_replacing_the_output_equals_editing_the_projection_by_hand():
    """Zeroing head 1 before the output projection equals zeroing that head's columns of the projection."""
    model, inputs = unet2d()

    def zero_head(call: AttentionCall) -> Tensor:
        output = call.output.clone()
        output[:, 1] = 0
        return output

    with AttentionTap(model, interventions=[Rewrite(zero_head, "mid.0.self")]):
        ablated = evaluate(model, inputs)
    attention = model.mid_block.attentions[0]
    size = attention.to_out[0].in_features // attention.heads
    with torch.no_grad():
        attention.to_out[0].weight[:, size : 2 * size] = 0
    assert_same_up_to_rounding(ablated, evaluate(model, inputs))


def test_interventions_compose_in_order_and_observers_choose_their_side():
    model, inputs = unet2d()
    before, after = Recorder(), Recorder(after_interventions=True)
    interventions = [Rewrite(lambda call: call.output + 1), Rewrite(lambda call: call.output * 2)]
    with AttentionTap(model, [before, after], interventions):
        evaluate(model, inputs)
    for original, final in zip(before.calls, after.calls, strict=True):
        assert_same_up_to_rounding(final.output, (original.output + 1) * 2, roundings=2)
    with AttentionTap(model, [again := Recorder()]):
        evaluate(model, inputs)
    assert torch.equal(again.calls[0].output, before.calls[0].output)


def test_a_replacement_of_another_shape_is_refused():
    model, inputs = unet2d()
    broken = Rewrite(lambda call: call.output[:1], "mid.0.self")
    with AttentionTap(model, interventions=[broken]), pytest.raises(ModelError, match=r"Rewrite at mid.0.self .*\(1, "):
        evaluate(model, inputs)


def test_the_tap_restores_everything_even_when_a_guest_raises():
    model, inputs = unet2d()

    def fail(call: AttentionCall) -> None:
        raise RuntimeError("guest failed")

    tap = AttentionTap(model, [fail])
    with pytest.raises(RuntimeError, match="guest failed"), tap:
        evaluate(model, inputs)
    assert hook_count(model) == 0
    assert _get_current_function_mode_stack() == []
    assert not tap.untapped
    with AttentionTap(model) as again:  # nothing keeps the model taken
        evaluate(model, inputs)
    assert len(again.tapped) == len(again.sites)
    assert hook_count(model) == 0


def test_a_forward_that_fails_leaves_the_running_site_of_its_caller_right():
    class Careful(Attention):
        def forward(self, x: Tensor) -> Tensor:
            with pytest.raises(RuntimeError):
                self.inner(x[..., :3])
            self.inner, kept = None, self.inner
            y = super().forward(x)
            self.inner = kept
            return y

    model = nn.ModuleDict({"outer": Careful(inner=Attention())})
    recorder = Recorder()
    with AttentionTap(model, [recorder]) as tap:
        model["outer"](normal(1, 5, 8))
    assert [call.site.name for call in recorder.calls] == ["outer.self"]
    assert not tap.untapped


def test_a_model_is_under_one_tap_at_a_time():
    model, _ = unet2d()
    with AttentionTap(model) as tap:
        with pytest.raises(ModelError, match="this tap is already open"), tap:
            pass
        with pytest.raises(ModelError, match=r"a tap on down1.0.self is already open"), AttentionTap(model):
            pass
    with tap:  # one after the other is fine
        pass


def test_a_processor_with_a_softmax_of_its_own_is_seen_as_the_fused_one_is():
    model, inputs = unet2d()
    fused = StatisticsObserver()
    with AttentionTap(model, [fused]):
        evaluate(model, inputs)
    model.mid_block.attentions[0].set_processor(AttnProcessor())
    plain, found = evaluate(model, inputs), StatisticsObserver()
    with AttentionTap(model, [found]) as tap:
        assert torch.equal(plain, evaluate(model, inputs))
    assert tap.tapped == {"down1.0.self", "mid.0.self", "up0.0.self", "up0.1.self"}
    assert not tap.untapped
    for name in ("entropy", "received", "distance", "output_norm"):
        mine, theirs = (getattr(observer.results["mid.0.self"], name) for observer in (found, fused))
        assert_same_up_to_rounding(mine, theirs)


def test_a_module_that_never_runs_is_no_site_and_a_model_without_attention_is_an_error():
    model = nn.ModuleDict({"used": Attention(), "idle": Attention()})
    report = check_tappable(model, lambda: model["used"](normal(1, 5, 8)))
    assert report.tapped == ("used.self",)
    report.require_all()
    plain = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="no attention call"):
        check_tappable(plain, lambda: plain(torch.zeros(1, 2))).require_all()


def test_calls_of_modules_that_nothing_knows_as_attention_are_sites_under_their_path():
    class Pooling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(x, x, x)

    model = nn.Sequential(Attention(), Pooling())
    report = check_tappable(model, lambda: [model(normal(1, 5, 8)) for _ in range(2)])
    assert report.tapped == ("0.self", "1.self")
    assert [site.heads for site in report.sites] == [2, 1]
    with AttentionTap(model, sites=report.sites[:1]) as tap:  # and are counted where others were chosen
        model(normal(1, 5, 8))
    assert tap.tapped == {"0.self"}
    assert tap.unclaimed.total() == 1


def test_every_run_of_a_module_in_one_pass_is_a_site_of_its_own():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Attention()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.block(self.block(x)))

    model, recorder = Tied(), Recorder()
    x = normal(2, 5, 8)
    with torch.no_grad(), AttentionTap(model, [recorder]) as tap:
        plain = model(x)
        model(x)
    names = ["block.self", "block.self#2", "block.self#3"]
    assert [call.site.name for call in recorder.calls] == names * 2
    assert [site.name for site in tap.sites] == names

    def nothing(call: AttentionCall) -> Tensor:
        return torch.zeros_like(call.output)

    with torch.no_grad(), AttentionTap(model, interventions=[Rewrite(nothing, "block.self#3")], sites=tap.sites):
        assert not model(x).any()
    with torch.no_grad():
        assert torch.equal(plain, model(x))


def test_a_site_that_does_not_run_in_a_later_pass_ends_it():
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early, self.late = Attention(), Attention()

        def forward(self, x: Tensor, timestep: int) -> Tensor:
            return (self.early if timestep < 50 else self.late)(x)

    model, x = Experts(), normal(1, 5, 8)
    with AttentionTap(model) as tap:
        model(x, 10)
    assert [site.name for site in tap.sites] == ["early.self"]
    silence = Rewrite(lambda call: torch.zeros_like(call.output), "early.self")
    for guests in ({"observers": [Recorder()], "whole": True}, {"interventions": [silence]}):
        with AttentionTap(model, **guests, sites=tap.sites):
            model(x, 49)
            with pytest.raises(ModelError, match=r"early.self did not run, .*capture.timesteps"):
                model(x, 60)


def test_windows_in_the_batch_are_refused_by_the_name_of_the_site():
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention()

        def forward(self, x: Tensor) -> Tensor:
            return self.attn(x.unflatten(1, (2, -1)).flatten(0, 1)).unflatten(0, (-1, 2)).flatten(1, 2)

    model = Windows()
    report = check_tappable(model, lambda: model(normal(2, 10, 8)))
    assert "2 windows, frames or passes of each" in report.untapped["attn.self"]
    with pytest.raises(ModelError, match=r"attn.self: its query has shape \(4, 2, 5, 4\) for 2 images"):
        report.require_all()


def test_statistics_do_not_inherit_the_autocast_of_the_model():
    class Casting(Attention):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(8 * x)

    model, observer, calls = nn.Sequential(Casting()), StatisticsObserver(), Recorder()
    with torch.no_grad(), AttentionTap(model, [observer, calls]):
        model(normal(1, 9, 8))
    call = calls.calls[0]
    assert call.query.dtype == torch.bfloat16
    p = (call.scale * call.query.double() @ call.key.double().mT).softmax(-1)
    entropy = -torch.special.xlogy(p, p).sum(-1).mean(-1)
    assert observer.results["0.self"].entropy.dtype == torch.float32
    assert_same_up_to_rounding(observer.results["0.self"].entropy, entropy)


def test_a_site_with_another_number_of_heads_than_it_says_is_not_trusted():
    model = nn.Sequential(Attention())
    model[0].heads = 3
    report = check_tappable(model, lambda: model(normal(1, 5, 8)))
    assert "expected (sample, 3 heads, token, channel)" in report.untapped["0.self"]


class Configured(nn.Module):
    """Attention of four query heads with whatever the function can be given."""

    def __init__(self, key_heads: int = 4, **arguments: Any) -> None:
        super().__init__()
        self.heads, self.key_heads, self.arguments = 4, key_heads, arguments
        self.to_q, self.to_k = nn.Linear(8, 16), nn.Linear(8, 4 * key_heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (to(x).unflatten(-1, (-1, 4)).transpose(1, 2) for to in (self.to_q, self.to_k))
        return functional.scaled_dot_product_attention(q, k, k, **self.arguments).transpose(1, 2).flatten(2)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "grouped": {"key_heads": 2, "enable_gqa": True},
    "one key head": {"key_heads": 1, "enable_gqa": True, "scale": 1.7},
    "grouped and causal": {"key_heads": 2, "enable_gqa": True, "is_causal": True},
    "causal": {"is_causal": True},
    "odd scale": {"scale": 0.123},
    "negative scale": {"scale": -0.5},
    "boolean mask": {"attn_mask": torch.arange(9).remainder(3).ne(1).expand(2, 1, 9, 9), "scale": 1.0},
    "bias of every head": {"attn_mask": normal(2, 4, 9, 9)},
    "bias of two dimensions": {"attn_mask": normal(9, 9), "scale": 0.9},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_statistics_are_exact_whatever_the_attention_function_is_given(configuration):
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": Configured(**configuration)})
    x, observer = normal(2, 9, 8), StatisticsObserver()
    with torch.no_grad():
        plain = model["layer"](x)
        with AttentionTap(model, [observer]):
            assert torch.equal(plain, model["layer"](x))
        layer = model["layer"]
        q, k = (to(x).double().unflatten(-1, (-1, 4)) for to in (layer.to_q, layer.to_k))
    k = k[:, :, [head * layer.key_heads // 4 for head in range(4)]]  # neighbouring query heads share a key head
    scores = configuration.get("scale", 0.5) * torch.einsum("bihc,bjhc->bhij", q, k)
    mask = configuration.get("attn_mask")
    if configuration.get("is_causal"):
        mask = torch.ones(9, 9, dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    p = scores.softmax(-1)
    found = observer.results["layer.self"]
    entropy = -torch.special.xlogy(p, p).sum(-1).mean(-1)
    assert_same_up_to_rounding(found.entropy, entropy)
    assert_same_up_to_rounding(found.received, p.mean(-2) * 9)
    assert_same_up_to_rounding(found.self_mass, p.diagonal(dim1=-2, dim2=-1).mean(-1))
    assert_same_up_to_rounding(plain, torch.einsum("bhij,bjhc->bihc", p, k).flatten(2))


def test_linear_attention_is_named_as_such():
    class SomeLinearAttnProcessor:
        pass

    class Linear(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.processor = SomeLinearAttnProcessor()

        def forward(self, x: Tensor) -> Tensor:
            return self.to_q(x)

    model = nn.ModuleDict({"layer": Linear()})
    report = check_tappable(model, lambda: model["layer"](normal(1, 5, 8)))
    assert "SomeLinearAttnProcessor is linear attention" in report.linear["layer.self"]
    assert not report.untapped
