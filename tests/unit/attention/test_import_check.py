"""What is tried of a denoiser where it is imported: what would give wrong numbers is refused by its cause."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from diffmech.attention.capture import observing
from diffmech.attention.hearing import DRAWS, Heard, Stripes, stripes_of
from diffmech.attention.import_check import check_denoiser
from diffmech.attention.layout import SiteLayout
from diffmech.attention.places import heads_apart, out_of_place, told_of_places
from diffmech.attention.survey import check_tappable
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.eager import check_kind, input_dtype

WIDTH, SIZE = 16, 8
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


class Net(nn.Module):
    """Attention of two heads on the 8 x 8 pixels of an image; `mix` makes it from (sample, head, token, channel)."""

    def __init__(self, mix: Mix = scaled_dot_product_attention, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(1, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.qkv, self.mix, self.norm = nn.Linear(WIDTH, 3 * WIDTH), mix, norm or nn.Identity()
        self.turned = False

    def forward(self, x_t: Tensor, timestep: Tensor | None = None) -> Tensor:
        x = self.norm(self.enter(x_t))
        tokens = (x.mT if self.turned else x).flatten(2).mT
        q, k, v = self.qkv(4 * tokens).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        out = self.mix(q, k, v).transpose(1, 2).flatten(2).mT.reshape(x.shape)
        return self.leave(x + (out.mT if self.turned else out))


def denoiser(net: nn.Module) -> Denoiser:
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    net.eval().requires_grad_(False)
    return Denoiser(net, DDPMScheduler(100), (1, SIZE, SIZE), forward=lambda x, steps, condition: net(x, steps))


def test_what_was_measured_is_returned():
    found = check_denoiser(denoiser(Net()), "mine")
    assert (found["attention_calls"], found["attention_left_out"]) == (1, {})
    assert 0 <= found["batch_difference_below"] <= 1e-5


def test_statistics_over_a_batch_are_refused():
    batch_norm = nn.BatchNorm2d(WIDTH, track_running_stats=False)
    with pytest.raises(ModelError, match=r"mine: the prediction of an image depends on the others in its batch"):
        check_denoiser(denoiser(Net(norm=batch_norm)), "mine")
    check_denoiser(denoiser(Net(norm=nn.BatchNorm2d(WIDTH))), "mine")  # with running statistics it treats each alone


def test_attention_over_channels_is_no_attention_over_places():
    def over_channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.transpose(1, 2).flatten(2).mT[:, None] for z in (q, k, v))  # 16 channels, as a grid of 4 x 4
        return scaled_dot_product_attention(q, k, v)[:, 0].mT.unflatten(-1, (2, -1)).transpose(1, 2)

    with pytest.raises(ModelError, match=r"tokens of self do not stand row by row .*attention over channels"):
        check_denoiser(denoiser(Net(over_channels)), "mine")


def test_tokens_column_by_column_are_refused():
    net = Net()
    net.turned = True
    with pytest.raises(ModelError, match=r"do not stand row by row on the image"):
        check_denoiser(denoiser(net), "mine")


def test_stripes_spell_the_place_and_neighbours_share_all_but_one():
    """A reflected code: no two rows have the same digits, and next ones differ in one."""
    digits = np.stack([Stripes("y", level).along(8) for level in (1, 2, 3)], axis=1)
    assert len(np.unique(digits, axis=0)) == 8
    assert (np.abs(np.diff(digits, axis=0)).sum(axis=1) == 1).all()
    assert Stripes("x", 1).along(3).tolist() == [0, 0.5, 1]  # the middle of three belongs to both halves


def heard(second: np.ndarray) -> Heard:
    """What one head hears whose tokens hear of the second halves by these shares, of each draw alike."""
    shares = np.broadcast_to(second, (DRAWS, *second.shape))[:, :, None]
    return Heard(shares, 1 - shares, 0.0)


def test_what_tokens_tell_of_their_places_in_closed_form():
    stripes = stripes_of(8, 8)
    places = np.stack([each.on(8, 8).ravel() for each in stripes])
    for _, told in told_of_places(heard(places), stripes, 8, 8):
        assert (told.loud, told.again, told.correlation, told.share) == pytest.approx((1, 1, 1, 1))
    for _, told in told_of_places(heard(0.5 + 0.1 * (places - 0.5)), stripes, 8, 8):  # and much of everything
        assert (told.loud, told.again, told.correlation, told.share) == pytest.approx((0.01, 0.01, 1, 1))
    mirrored = told_of_places(heard(places.reshape(-1, 8, 8)[:, :, ::-1].reshape(-1, 64)), stripes, 8, 8)
    assert [told.share for _, told in mirrored] == pytest.approx([1, 1, 1, -1, 1, 1])
    assert out_of_place(told_of_places(heard(places), stripes, 8, 8), 64) is None
    assert "2 stripes along x" in str(out_of_place(mirrored, 64))


def test_heads_that_hear_of_half_an_image_each_are_apart():
    stripes = stripes_of(8, 8)
    places = np.stack([each.on(8, 8).ravel() for each in stripes])
    heads = np.stack([places, places], axis=1)  # (stripes, head, token)
    halves = np.stack([places[:, :32], places[:, 32:]], axis=1)
    for shares, apart in ((heads, None), (halves, "value"), (0.5 + 0.6 * (halves - 0.5), "value")):
        draws = np.broadcast_to(shares, (DRAWS, *shares.shape))
        assert heads_apart({"value": Heard(draws, 1 - draws, 0.0)}) == apart


def test_heads_before_images_are_refused():
    def heads_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, h = q.shape[:2]
        q, k, v = (z.transpose(0, 1).flatten(0, 1) for z in (q, k, v))
        return ((q @ k.mT).softmax(-1) @ v).unflatten(0, (h, b)).transpose(0, 1)

    with pytest.raises(ModelError, match=r"its batch axis does not hold images first; bring query, key and value to"):
        check_denoiser(denoiser(Net(heads_first)), "mine")


class Twice(Net):
    """Attends a second time where `again` says so of the images and the timestep."""

    def __init__(self, again: Callable[[Tensor, Tensor], bool]) -> None:
        super().__init__()
        self.again = again

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        once = super().forward(x_t)
        return super().forward(once) if self.again(x_t, timestep) else once


def test_other_calls_for_many_images_than_for_one_are_refused():
    with pytest.raises(ModelError, match=r"mine: one image makes other attention calls than 8; let each be treated"):
        check_denoiser(denoiser(Twice(lambda x_t, timestep: len(x_t) > 1)), "mine")


def test_further_calls_at_another_timestep_end_a_capture():
    model = denoiser(Twice(lambda x_t, timestep: int(timestep[0]) >= 50))
    x_t, condition = torch.randn(2, 1, SIZE, SIZE), Condition.null(2, 0)
    layout = SiteLayout("self", "self", ("self.h00", "self.h01"), 64, 64, 8, (8, 8), module_path="")
    found: list[str] = []
    with observing(model, [layout]) as observe:
        observe(lambda site, values: found.append(site), x_t, None, 10, condition)
        assert found == ["self", ""]
        with pytest.raises(ModelError, match=r"timestep 60 the model makes other attention calls .* \(self#2\); give"):
            observe(lambda site, values: None, x_t, None, 60, condition)


def test_a_layout_that_changes_after_the_first_pass_ends_the_study():
    net = denoiser(Net()).module
    sites = check_tappable(net, lambda: net(torch.zeros(1, 1, SIZE, SIZE))).sites
    net.mix = lambda q, k, v: scaled_dot_product_attention(*(z.repeat(3, 1, 1, 1) for z in (q, k, v)))[: len(q)]
    with pytest.raises(ModelError, match=r"although other passes were as expected"), AttentionTap(net, sites=sites):
        net(torch.zeros(1, 1, SIZE, SIZE))


def test_windows_say_how_many_calls_cannot_be_studied():
    def windows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.unflatten(2, (4, -1)).transpose(1, 2).flatten(0, 1) for z in (q, k, v))
        return scaled_dot_product_attention(q, k, v).unflatten(0, (-1, 4)).transpose(1, 2).flatten(2, 3)

    with pytest.raises(ModelError, match=r"1 attention calls cannot be studied .*docs/own-model.md says what can"):
        check_denoiser(denoiser(Net(windows)), "mine")


def test_torchscript_is_named_with_its_module():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.jit.script(nn.Linear(2, 2))

    with pytest.raises(ModelError, match=r"mine.py: inner is TorchScript, whose attention cannot be watched; give"):
        check_kind(Outer(), Path("mine.py"))
    check_kind(nn.Linear(2, 2), Path("mine.py"))


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([torch.float16, torch.float16], torch.float16),
        ([torch.float64, torch.float64], torch.float64),
        ([torch.float32, torch.bfloat16], torch.float32),
        ([torch.complex64, torch.float64], torch.float64),
    ],
)
def test_images_are_given_in_the_precision_that_all_real_weights_have(dtypes, expected):
    parts = [nn.Parameter(torch.zeros(1, dtype=dtype), requires_grad=False) for dtype in dtypes]
    assert input_dtype(nn.ParameterList(parts)) == expected
