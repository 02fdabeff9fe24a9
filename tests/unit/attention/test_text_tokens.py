"""Text tokens are found by changing the text, wherever a model lets it in, and nothing is guessed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from diffmech.attention.ranges import TokenRanges
from diffmech.attention.text_tokens import token_ranges
from diffmech.errors import ModelError

IMAGE, TEXT = 9, 4
TEXT_FIRST, IMAGE_FIRST = TokenRanges((4, 13), (0, 4)), TokenRanges((0, 9), (9, 13))


class Joint(nn.Module):
    """Joint attention; it takes the text apart from the image, or both in one sequence."""

    def __init__(self, text_first: bool) -> None:
        super().__init__()
        self.heads, self.added_kv_proj_dim, self.text_first = 2, 8, text_first
        self.to_q, self.norm = nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=False)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None) -> Tensor:
        parts = [hidden_states] if encoder_hidden_states is None else [hidden_states, encoder_hidden_states]
        x = torch.cat(parts[::-1] if self.text_first else parts, 1)
        q = self.to_q(self.norm(x)).unflatten(-1, (2, 4)).transpose(1, 2)
        return functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Takes text and image apart and joins them itself."""

    def __init__(self, text_first: bool) -> None:
        super().__init__()
        self.attn = Joint(text_first)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        parts = [hidden_states, encoder_hidden_states]
        return self.attn(torch.cat(parts[::-1] if self.attn.text_first else parts, 1))


class Model(nn.Module):
    """Blocks that take the text apart (`apart`), and after them attention over what has been joined (`joined`)."""

    def __init__(self, apart: list[nn.Module], joined: list[nn.Module], text_first: bool = True) -> None:
        super().__init__()
        self.apart, self.joined, self.text_first = nn.ModuleList(apart), nn.ModuleList(joined), text_first

    def forward(self, image: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        x = torch.cat([encoder_hidden_states, image] if self.text_first else [image, encoder_hidden_states], 1)
        for block in self.apart:
            x = x + block(image, encoder_hidden_states)
        for attention in self.joined:
            x = x + attention(x)
        return x


def ranges(model: nn.Module, *arguments: Tensor, **named: Tensor) -> dict[str, TokenRanges]:
    return token_ranges(model.eval(), lambda: model(*arguments, **named))


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, IMAGE, 8), torch.randn(2, TEXT, 8)


@pytest.mark.parametrize("text_first", [True, False])
@pytest.mark.parametrize("build", [Joint, Block])
def test_a_module_that_takes_the_text_apart_tells_the_order(build, text_first, tensors):
    model = Model([build(text_first)], [], text_first)
    (found,) = ranges(model, *tensors).values()
    assert found == (TEXT_FIRST if text_first else IMAGE_FIRST)
    assert ranges(model, image=tensors[0], encoder_hidden_states=tensors[1]).popitem()[1] == found


@pytest.mark.parametrize("text_first", [True, False])
def test_the_first_attention_of_a_model_that_joins_at_once_is_told_by_the_model_and_others_follow(text_first, tensors):
    model = Model([], [Joint(text_first), Joint(text_first)], text_first)
    assert list(ranges(model, *tensors).values()) == [TEXT_FIRST if text_first else IMAGE_FIRST] * 2


def test_attention_over_what_is_joined_follows_the_sites_before_it(tensors):
    model = Model([Joint(True)], [Joint(True)])
    assert list(ranges(model, *tensors).values()) == [TEXT_FIRST, TEXT_FIRST]


def test_text_of_zeros_is_told_too(tensors):
    model = Model([Block(False)], [], False)
    assert ranges(model, tensors[0], torch.zeros_like(tensors[1])).popitem()[1] == IMAGE_FIRST


def test_text_that_cannot_be_told_is_an_error_that_names_the_site():
    class Mixed(nn.Module):
        """The text has reached every token before the first attention."""

        def __init__(self) -> None:
            super().__init__()
            self.attn = Joint(True)

        def forward(self, x: Tensor, encoder_hidden_states: Tensor) -> Tensor:
            return self.attn(torch.cat([encoder_hidden_states, x], 1) + encoder_hidden_states.mean(1, keepdim=True))

    class Nameless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Joint(True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attn(x)

    x = torch.randn(1, IMAGE, 8)
    for model, inputs in ((Mixed(), (x, torch.randn(1, TEXT, 8))), (Nameless(), (x,))):
        with pytest.raises(ModelError, match=r"attn.joint is joint attention over \d+ tokens, and neither"):
            ranges(model, *inputs)


def test_nothing_stays_behind_and_the_output_of_the_run_is_the_models_own(tensors):
    model = Model([Joint(True), Block(True)], [Joint(True)])
    plain, seen = model(*tensors), []

    def run() -> Any:
        seen.append(model(*tensors))

    token_ranges(model, run)
    assert len(seen) == 1
    assert torch.equal(seen[0], plain)
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_models_without_joint_attention_are_not_even_run():
    def run() -> Any:
        raise AssertionError

    assert token_ranges(nn.Sequential(nn.Linear(2, 2)), run) == {}
