"""Which axes of a product of weights with values are queries, keys, heads and channels. Ours."""

import math
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

# The two factors of a product, and its equation if it is an einsum.
Factors = tuple[Tensor, Tensor, str]
# Of the axes that only the first factor has, and only the second one: those of queries and of keys.
Lengths = tuple[Sequence[int], Sequence[int]]
NO_LENGTHS: Lengths = ((), ())


@dataclass(frozen=True)
class Weighting:
    """A product of weights with values.

    `arrange` brings the result of the product to (..., query, channel), `restore` back. `softmax` says whether the
    weights went through one.
    """

    weights: Inexact[Tensor, "... query key"]
    values: Inexact[Tensor, "... key channel"]
    arrange: Callable[[Shaped[Tensor, "..."]], Shaped[Tensor, "..."]]
    restore: Callable[[Shaped[Tensor, "..."]], Shaped[Tensor, "..."]]
    softmax: bool


def free_lengths(factors: Factors) -> Lengths:
    """Return the lengths of the axes of a product that only its left factor has, and only its right one."""
    left, right, equation = factors
    if not equation:
        return left.shape[-2:-1], right.shape[-1:]
    if (terms := _terms(equation, left.dim(), right.dim())) is None:
        return NO_LENGTHS
    first, second, _ = terms
    return (
        [length for axis, length in zip(first, left.shape, strict=True) if axis not in second],
        [length for axis, length in zip(second, right.shape, strict=True) if axis not in first],
    )


def kept_lengths(factors: Factors, is_left: bool) -> Sequence[int]:
    """Return the lengths of the axes of one factor that its product with the other one keeps, but for the first."""
    left, right, equation = factors
    if not equation:
        return left.shape[1:-1] if is_left else (*right.shape[1:-2], right.shape[-1])
    if (terms := _terms(equation, left.dim(), right.dim())) is None:
        return ()
    axes, shape = (terms[0], left.shape) if is_left else (terms[1], right.shape)
    return [length for axis, length in zip(axes, shape, strict=True) if axis in terms[2]][1:]


def holds(free: Lengths, lengths: Sequence[int]) -> bool:
    """Return whether axes of these lengths are those of queries and of keys, and perhaps others.

    Where one factor alone has heads, they stand before the rest.
    """
    first, second = free
    there = Counter(lengths)
    ways = ((first, second), (first[1:], second), (first, second[1:]))
    return any(not Counter(map(math.prod, way)) - there for way in ways if all(way))


def weighting(factors: Factors, is_left: bool, *, softmax: bool) -> Weighting | None:
    left, right, equation = factors
    if equation:
        return _einsum(left, right, equation, 0 if is_left else 1, softmax=softmax)
    if is_left:
        return Weighting(left, right, _same, _same, softmax)
    return Weighting(right.mT, left.mT, _turned, _turned, softmax)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _turned(tensor: Tensor) -> Tensor:
    return tensor.mT


def _einsum(left: Tensor, right: Tensor, equation: str, side: int, *, softmax: bool) -> Weighting | None:
    """Return the product of weights, the factor at `side`, with values; None where it is no such product.

    Keys are summed over, on one axis or, of images that are kept as such, several; as many axes, the last ones of the
    weights alone, are queries, and the last of the values alone is the channel. Further axes that only one factor has
    are heads that share the other one.
    """
    terms = _terms(equation, left.dim(), right.dim())
    if terms is None:
        return None
    first, second, result = terms
    (weights, of_weights), (values, of_values) = ((left, first), (right, second))[:: 1 if side == 0 else -1]
    keys = [axis for axis in of_weights if axis in of_values and axis not in result]
    both = [axis for axis in of_weights if axis in of_values and axis in result]
    own = [axis for axis in of_weights if axis not in of_values]
    others = [axis for axis in of_values if axis not in of_weights]
    if not keys or len(own) < len(keys) or not others or set(result) != {*both, *own, *others}:
        return None
    queries, channel = own[len(own) - len(keys) :], others[-1:]
    heads = [*both, *own[: len(own) - len(keys)], *others[:-1]]
    placed = _on_axes(weights, of_weights, [*heads, *queries, *keys]).flatten(-len(keys)).flatten(len(heads), -2)
    values = _on_axes(values, of_values, [*heads, *keys, *channel]).flatten(len(heads), -2)
    order = [result.index(axis) for axis in (*heads, *queries, *channel)]
    back = [order.index(place) for place in range(len(order))]
    lengths = [weights.shape[of_weights.index(axis)] for axis in queries]

    def arrange(product: Tensor) -> Tensor:
        return product.permute(order).flatten(len(heads), -2)

    def restore(product: Tensor) -> Tensor:
        return product.unflatten(len(heads), lengths).permute(back)

    shared = torch.broadcast_shapes(placed.shape[:-2], values.shape[:-2])
    return Weighting(placed.expand(*shared, -1, -1), values, arrange, restore, softmax)


def _on_axes(tensor: Tensor, names: str, wanted: Sequence[str]) -> Tensor:
    """Return a tensor with the axes `wanted`, those that it lacks of length 1."""
    present = tensor.permute([names.index(axis) for axis in wanted if axis in names])
    for place, axis in enumerate(wanted):
        if axis not in names:
            present = present.unsqueeze(place)
    return present


def _terms(equation: str, *dims: int) -> tuple[str, str, str] | None:
    """Return the axes of both factors and of the result, one letter each; None for what einsum allows beyond that."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or len(terms) != 2:
        return None
    free = [letter for letter in string.ascii_letters if letter not in equation]
    lengths = [dim - len(term.replace("...", "")) for term, dim in zip(terms, dims, strict=True)]
    more = max((length for term, length in zip(terms, lengths, strict=True) if "..." in term), default=0)
    stands = free[:more]
    filled = [
        term.replace("...", "".join(stands[more - length :])) for term, length in zip(terms, lengths, strict=True)
    ]
    result = result.replace("...", "".join(stands))
    if any(len(set(term)) != dim for term, dim in zip(filled, dims, strict=True)):
        return None
    return filled[0], filled[1], result
