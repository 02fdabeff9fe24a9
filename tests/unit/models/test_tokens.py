"""What the conditioning tokens say."""

import pytest
import torch

from diffmech.models.tokens import AttributeTokens
from diffmech.testing import assert_same_up_to_rounding


@pytest.fixture
def tokens() -> AttributeTokens:
    return AttributeTokens(["glasses", "smile"], ["real", "synthetic"], 6)


def test_sequence_is_the_domain_then_one_token_per_attribute(tokens: AttributeTokens) -> None:
    assert tokens(torch.tensor([0, 1, -1]), torch.rand(3, 2)).shape == (3, 3, 6)


def test_attribute_token_moves_on_a_line_with_its_value(tokens: AttributeTokens) -> None:
    domain = torch.zeros(3, dtype=torch.long)
    low, middle, high = tokens(domain, torch.tensor([[0.0, 0.5], [0.5, 0.5], [1.0, 0.5]]))[:, 1]
    assert_same_up_to_rounding(low, tokens.base[0])
    assert_same_up_to_rounding(high, tokens.base[0] + tokens.slope[0])
    assert_same_up_to_rounding(middle, (low + high) / 2)


def test_unknown_value_has_its_own_token_and_leaves_the_others(tokens: AttributeTokens) -> None:
    domain = torch.zeros(2, dtype=torch.long)
    known, unknown = tokens(domain, torch.tensor([[0.3, 0.7], [torch.nan, 0.7]]))
    assert torch.equal(unknown[1], tokens.null[0])
    assert torch.equal(unknown[2], known[2])
    assert not torch.equal(unknown[1], known[1])


def test_unknown_domain_has_its_own_token(tokens: AttributeTokens) -> None:
    first = tokens(torch.tensor([-1, 0, 1]), torch.zeros(3, 2))[:, 0]
    assert torch.equal(first, torch.stack([tokens.domain_null, *tokens.domain]))


def test_unknown_values_send_no_gradient_to_base_and_slope(tokens: AttributeTokens) -> None:
    tokens(torch.tensor([0]), torch.tensor([[torch.nan, 1.0]])).sum().backward()
    assert torch.equal(tokens.base.grad[0], torch.zeros(6))
    assert torch.equal(tokens.slope.grad, torch.stack([torch.zeros(6), torch.ones(6)]))
    assert torch.equal(tokens.null.grad, torch.stack([torch.ones(6), torch.zeros(6)]))


def test_tokens_without_domains_or_attributes_say_nothing() -> None:
    empty = AttributeTokens([], [], 6)
    assert torch.equal(empty(torch.tensor([-1]), torch.empty(1, 0)), empty.domain_null[None, None])


def test_values_of_another_width_are_refused(tokens: AttributeTokens) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\); expected \(2, 2\)"):
        tokens(torch.tensor([0, 1]), torch.zeros(2, 3))
