"""Which axes of a product of weights with values are queries, keys, heads and channels. Ours."""

import math
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

from diffmech.attention.kernels import is_mapped
from diffmech.attention.reasons import BY_QUERY, COMPLEX, MAPPED, NEGATIVE, NO_ROWS, SPARSE

# The two factors of a product, and its equation if it is an einsum.
Factors = tuple[Shaped[Tensor, "..."], Shaped[Tensor, "..."], str]
# Of the axes that only the first factor has, and only the second one: those of queries and of keys.
Lengths = tuple[Sequence[int], Sequence[int]]
NO_LENGTHS: Lengths = ((), ())
# How far weights that were not seen to be a softmax may be from summing to 1.
SUM_TOLERANCE = 1e-2


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
    problem: str = ""  # why it cannot be studied


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


def weighting(factors: Factors, is_left: bool, free: Lengths, *, softmax: bool) -> Weighting | None:
    """Return the product of weights, the left factor or the right one, with values; None where it is no such product.

    `free` are the lengths of the axes of queries and keys of the scores that weights are a softmax of.
    """
    left, right, equation = factors
    if equation:
        found = _einsum(left, right, equation, 0 if is_left else 1, softmax=softmax)
    elif is_left and left.dim() == right.dim() == 4 and _stands_before(left.shape[1:], right.shape[1]):
        found = _einsum(left, right.squeeze(1), "aqhk,akc->aqhc", 0, softmax=softmax)
    elif is_left:
        found = Weighting(left, right, _same, _same, softmax)
    else:
        found = Weighting(right.mT, left.mT, _turned, _turned, softmax)
    if found is None:
        return None
    lengths, batch = set(map(math.prod, free)) - {1}, found.values.shape[:-2]
    own_values = lengths.intersection(batch) and found.weights.shape[-2] not in lengths
    return replace(found, problem=BY_QUERY) if own_values else found


def unstudied(weights: Shaped[Tensor, "..."], values: Shaped[Tensor, "..."]) -> str:
    """Return why nothing can be computed of such weights or values, "" where it can."""
    if is_mapped(weights):
        return MAPPED
    if weights.layout != torch.strided or values.layout != torch.strided:
        return SPARSE
    return COMPLEX if weights.is_complex() or values.is_complex() else ""


def no_shares(weights: Inexact[Tensor, "... query key"], sums: Inexact[Tensor, "... query"]) -> str:
    """Return why weights of these sums over keys are no shares of attention, "" where they are.

    Those that are no numbers are taken for some: what sees them says so.
    """
    wrong = (sums - 1).abs() >= SUM_TOLERANCE
    if not bool(wrong.any() or (weights.amin(-1) < 0).any()):
        return ""
    return NO_ROWS if bool(wrong.any()) else NEGATIVE


def _stands_before(lengths: Sequence[int], shared: int) -> bool:
    """Return whether of three axes the first is that of queries and the second that of heads, which share all values.

    Queries are then as many as keys, and more than heads.
    """
    first, second, keys = lengths
    return shared == 1 and first == keys > second > 1


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
    lengths = dict(zip(of_weights, weights.shape, strict=True))
    if len(keys) == 1:  # heads that share all values may stand behind the queries, which are then as many as the keys
        alike = [axis for axis in own if lengths[axis] == lengths[keys[0]] > lengths[own[-1]]]
        queries = alike[-1:] or queries
    heads = [*both, *(axis for axis in own if axis not in queries), *others[:-1]]
    placed = _on_axes(weights, of_weights, [*heads, *queries, *keys]).flatten(-len(keys)).flatten(len(heads), -2)
    values = _on_axes(values, of_values, [*heads, *keys, *channel]).flatten(len(heads), -2)
    order = [result.index(axis) for axis in (*heads, *queries, *channel)]
    back = [order.index(place) for place in range(len(order))]

    def arrange(product: Tensor) -> Tensor:
        return product.permute(order).flatten(len(heads), -2)

    def restore(product: Tensor) -> Tensor:
        return product.unflatten(len(heads), [lengths[axis] for axis in queries]).permute(back)

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
