"""Attention that is written by hand, followed through torch's functions. Ours.

Scores are a product of two tensors that depend on the input; what keeps their size (a scale, a mask, a cast, another
shape) leaves them scores, and a softmax makes weights of them. The product of weights with values is the attention
call: its probabilities are at hand, and its result is the output per head. Scores that are multiplied without a softmax
are linear attention. Nothing here changes a tensor or keeps one alive.
"""

import string
import types
import weakref
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

MATMULS = {torch.matmul, Tensor.matmul, torch.bmm, Tensor.bmm}
ADDED = {torch.baddbmm, Tensor.baddbmm}
PRODUCTS = {*MATMULS, *ADDED, torch.einsum, Tensor.__rmatmul__}
SOFTMAXES = {functional.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
# What mixes channels or tokens, so that its result is no longer what went in, whatever its size.
MIXING = {
    *(functional.linear, functional.bilinear, functional.embedding, functional.scaled_dot_product_attention),
    *(functional.conv1d, functional.conv2d, functional.conv3d),
    *(functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
    *(functional.layer_norm, functional.group_norm, functional.batch_norm, functional.instance_norm),
    *(torch.empty_like, torch.zeros_like, torch.ones_like, torch.rand_like, torch.randn_like),
}
# What appends to or cuts from scores and weights, which stay what they are.
CUTTING = {torch.cat, torch.concat, Tensor.__getitem__, Tensor.expand, functional.pad, torch.narrow, Tensor.narrow}

Kind = Literal["scores", "weights", "output"]


@dataclass(frozen=True)
class Weighting:
    """A product of weights with values.

    `arrange` brings the result of the product to (..., query, channel), `restore` back. `softmax` says whether the
    weights went through one.
    """

    weights: Float[Tensor, "... query key"]
    values: Float[Tensor, "... key channel"]
    arrange: Callable[[Shaped[Tensor, "..."]], Shaped[Tensor, "..."]]
    restore: Callable[[Shaped[Tensor, "..."]], Shaped[Tensor, "..."]]
    softmax: bool


@dataclass(frozen=True)
class _Mark:
    tensor: "weakref.ref[Tensor]"
    kind: Kind
    scored: bool  # of weights: they are the softmax of scores
    number: int  # of the softmax


class Products:
    """Follows the products and softmaxes of one forward at a time. `fixed` are tensors that no input changes."""

    def __init__(self, model: nn.Module) -> None:
        self._fixed = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._marks: dict[int, _Mark] = {}
        self._numbers = count()
        # With the module that ran: softmaxes of scores that no product has used; those of other things that one has.
        self.unused: dict[int, str] = {}
        self.loose: dict[int, str] = {}

    def begin(self) -> None:
        """Forget everything, as a new pass begins."""
        self._marks.clear()
        self.unused.clear()
        self.loose.clear()

    def run(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        weighted: Callable[[Weighting, Shaped[Tensor, "..."]], Shaped[Tensor, "..."]],
        who: Callable[[], str],
    ) -> Any:
        """Return what `func` returns, after `weighted` where it is a product of weights with values.

        `who` names the module that is running.
        """
        factors = _factors(func, args, kwargs) if func in PRODUCTS else None
        mark = self._weights_of(factors) if factors is not None and self._marks else None
        if factors is not None and mark is not None and (mark.kind == "scores" or mark.scored):
            found = _weighting(factors, self._of(factors[0]) is mark, softmax=mark.kind == "weights")
            if found is not None:
                self.unused.pop(mark.number, None)
                self.loose.pop(mark.number, None)
                result = weighted(found, func(*args, **kwargs))
                self._mark(result, "output")
                return result
        result = func(*args, **kwargs)
        if factors is not None:
            left, right, equation = factors
            if mark is not None and mark.kind == "weights" and not mark.scored:
                self.loose[mark.number] = who()
            if not self._is_fixed(right) and not (equation and self._is_fixed(left)):
                self._mark(result, "scores", number=-1 if mark is None else mark.number)
        elif func in SOFTMAXES:
            scores = args[0] if args else kwargs.get("input")
            known = self._of(scores)
            scored = known is not None and known.kind == "scores"
            number = next(self._numbers)
            if scored:
                self.unused[number] = who()
            self._mark(result, "weights", scored=scored, number=number)
        elif self._marks and func not in MIXING and isinstance(result, Tensor):
            self._carry(func, args, kwargs, result)
        return result

    def explain(self, owners: Container[str]) -> None:
        """Take the softmaxes that these modules made for used: they say themselves what they do with them."""
        for notes in (self.unused, self.loose):
            for number in [number for number, owner in notes.items() if owner in owners]:
                del notes[number]

    def made(self, tensor: Shaped[Tensor, "..."]) -> bool:
        """Return whether `tensor` is the result of weighting values that was followed, in whatever shape."""
        mark = self._of(tensor)
        return mark is not None and mark.kind == "output"

    def _carry(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> None:
        known = next((mark for mark in map(self._of, _tensors((*args, *kwargs.values()))) if mark is not None), None)
        tensor = None if known is None else known.tensor()
        if known is not None and tensor is not None and (tensor.numel() == result.numel() or func in CUTTING):
            self._mark(result, known.kind, scored=known.scored, number=known.number)

    def _mark(self, tensor: Any, kind: Kind, *, scored: bool = False, number: int = -1) -> None:
        if isinstance(tensor, Tensor) and tensor.dim() >= 2:
            self._marks[id(tensor)] = _Mark(weakref.ref(tensor), kind, scored, number)

    def _of(self, tensor: Any) -> _Mark | None:
        mark = self._marks.get(id(tensor))
        return mark if mark is not None and mark.tensor() is tensor else None

    def _is_fixed(self, tensor: Tensor) -> bool:
        return id(tensor) in self._fixed or (tensor._base is not None and id(tensor._base) in self._fixed)

    def _weights_of(self, factors: tuple[Tensor, Tensor, str]) -> _Mark | None:
        """Return the mark of the factor that is weights, of two candidates the one that is a softmax of scores."""
        marks = [mark for mark in map(self._of, factors[:2]) if mark is not None and mark.kind != "output"]
        return max(marks, key=lambda mark: mark.kind == "weights" and mark.scored, default=None)


def _weighting(factors: tuple[Tensor, Tensor, str], is_left: bool, *, softmax: bool) -> Weighting | None:
    left, right, equation = factors
    if equation:
        arranged = _einsum(left, right, equation, 0 if is_left else 1)
        if arranged is None:
            return None
        weights, values, order, back = arranged
        return Weighting(weights, values, lambda y: y.permute(order), lambda y: y.permute(back), softmax)
    if is_left:
        return Weighting(left, right, _same, _same, softmax)
    return Weighting(right.mT, left.mT, _turned, _turned, softmax)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _turned(tensor: Tensor) -> Tensor:
    return tensor.mT


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from (item for item in value if isinstance(item, Tensor))


def _factors(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor, str] | None:
    """Return the two factors of a product of at least two dimensions each, and its equation if it is an einsum."""
    equation = ""
    given = [*args, *kwargs.values()]
    if func is torch.einsum:
        if not given or not isinstance(given[0], str):
            return None
        equation, operands = given[0], list(_tensors(given[1:]))
    else:
        operands = list(_tensors(given))
        if func in ADDED:
            operands = operands[1:]
        if func is Tensor.__rmatmul__:
            operands.reverse()
    if len(operands) != 2 or any(operand.dim() < 2 for operand in operands):
        return None
    return operands[0], operands[1], equation


def _einsum(
    left: Tensor, right: Tensor, equation: str, side: int
) -> tuple[Tensor, Tensor, list[int], list[int]] | None:
    """Return weights (..., query, key), values (..., key, channel), and the orders of the result's axes to and fro.

    None where it is no such product: one axis is summed over, each factor has one of its own, the rest are in both.
    """
    terms = _terms(equation, left.dim(), right.dim())
    if terms is None:
        return None
    first, second, result = terms
    of_weights, of_values = (first, second) if side == 0 else (second, first)
    summed = [axis for axis in of_weights if axis in of_values and axis not in result]
    both = [axis for axis in of_weights if axis in of_values and axis in result]
    queries = [axis for axis in of_weights if axis not in of_values]
    channels = [axis for axis in of_values if axis not in of_weights]
    if not len(summed) == len(queries) == len(channels) == 1 or set(result) != {*both, *queries, *channels}:
        return None
    weights, values = (left, right) if side == 0 else (right, left)
    weights = weights.permute([of_weights.index(axis) for axis in (*both, *queries, *summed)])
    values = values.permute([of_values.index(axis) for axis in (*both, *summed, *channels)])
    order = [result.index(axis) for axis in (*both, *queries, *channels)]
    return weights, values, order, [order.index(place) for place in range(len(order))]


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


@cache
def opened_up(func: Any) -> Callable[..., Any]:
    """Return a function of torch that is made of others, so that it calls them instead of asking for a replacement."""
    names = {**func.__globals__, "has_torch_function": lambda tensors: False}
    opened = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened
