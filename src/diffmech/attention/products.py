"""Attention that is written by hand, followed through torch's functions. Ours.

Scores are a product of two tensors that depend on the input; what keeps their size (a scale, a mask, a cast, another
shape) leaves them scores, and a softmax makes weights of them. The product of weights with values is the attention
call: its probabilities are at hand, and its result is the output per head. Scores that are multiplied without a softmax
are linear attention. Nothing here changes a tensor or keeps one alive.
"""

import string
import types
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor, nn
from torch.nn import functional

MATMULS = {torch.matmul, Tensor.matmul, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm}
ADDED = {torch.baddbmm, Tensor.baddbmm}
PRODUCTS = {*MATMULS, *ADDED, torch.einsum, Tensor.__rmatmul__}
SOFTMAXES = {functional.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}
# What makes scores, weights and outputs; others only pass on what their arguments are.
FOLLOWED = {*PRODUCTS, *SOFTMAXES, torch.cdist, Tensor.__setitem__}
# What mixes channels or tokens, so that its result is no longer an output, whatever its size. Scores and weights that
# heads share with each other remain what they are.
MIXING = {
    *(functional.linear, functional.bilinear, functional.embedding, functional.scaled_dot_product_attention),
    *(functional.conv1d, functional.conv2d, functional.conv3d),
    *(functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
    *(functional.layer_norm, functional.group_norm, functional.batch_norm, functional.instance_norm),
}
# What has the size of a tensor and nothing else of it.
MADE_ANEW = {torch.empty_like, torch.zeros_like, torch.ones_like, torch.rand_like, torch.randn_like}
# What appends to or cuts from scores and weights, which stay what they are.
CUTTING = {torch.cat, torch.concat, Tensor.__getitem__, Tensor.expand, functional.pad, torch.narrow, Tensor.narrow}

Kind = Literal["scores", "weights", "output"]


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


@dataclass(frozen=True)
class _Mark:
    tensor: "weakref.ref[Tensor]"
    kind: Kind
    scored: bool  # of weights: they are the softmax of scores
    number: int  # of the softmax


class Products:
    """Follows the products and softmaxes of one forward at a time. `fixed` are tensors that no input changes."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        self._fixed = {id(tensor) for module in modules for tensor in module._parameters.values()}
        self._fixed |= {id(tensor) for module in modules for tensor in module._buffers.values()}
        self._fixed.discard(id(None))
        self._marks: dict[int, _Mark] = {}
        self._numbers = count()
        self._derived: dict[int, weakref.ref[Tensor]] = {}  # of this pass: made of fixed tensors alone
        self._made_of: dict[int, int] = {}  # of products without a softmax: the number of the one before
        self._number = -1  # of the scores that are now multiplied
        # With the module that ran: softmaxes of scores that no product has used; other softmaxes; products of scores
        # that no softmax has made weights of, before or after.
        self.unused: dict[int, str] = {}
        self.loose: dict[int, str] = {}
        self.linear: dict[int, str] = {}

    def begin(self) -> None:
        """Forget everything, as a new pass begins."""
        for notes in (self._marks, self._derived, self._made_of, self.unused, self.loose, self.linear):
            notes.clear()

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
                self._number = mark.number
                result = weighted(found, func(*args, **kwargs))
                if self._of(result) is None:
                    self._mark(result, "output")
                return result
        result = func(*args, **kwargs)
        if factors is not None:
            if not any(map(self._is_fixed, factors[:2])):
                self._mark(result, "scores", number=-1 if mark is None else mark.number)
            self._derive(args, kwargs, result)
        elif func is torch.cdist:
            if not any(map(self._is_fixed, args[:2])):
                self._mark(result, "scores")
        elif func in SOFTMAXES:
            scores = args[0] if args else kwargs.get("input")
            known = self._of(scores)
            scored = known is not None and known.kind == "scores"
            number = next(self._numbers)
            (self.unused if scored else self.loose)[number] = who()
            before = -1 if known is None else known.number
            while before in self.linear:  # a softmax came after all
                del self.linear[before]
                before = self._made_of.get(before, -1)
            self._mark(result, "weights", scored=scored, number=number)
        elif isinstance(result, Tensor):
            self.follow(func, args, kwargs, result)
        elif func is Tensor.__setitem__:
            self._derived.pop(id(args[0]), None)
        return result

    def follow(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        result: Shaped[Tensor, "..."],
    ) -> None:
        """Note what `result` is of a function that is none of `FOLLOWED`, from what its arguments are."""
        if self._marks and func not in MADE_ANEW:
            self._carry(func, args, kwargs, result)
        first = args[0] if args else None
        # One that an input changes is enough: nothing is to be noted of most calls.
        if not isinstance(first, Tensor) or self._is_fixed(first):
            self._derive(args, kwargs, result)

    def without_softmax(self, result: Shaped[Tensor, "..."], owner: str) -> None:
        """Note that `owner` multiplied scores that are no weights: linear attention, or scores of scores."""
        number = next(self._numbers)
        self.linear[number], self._made_of[number] = owner, self._number
        self._mark(result, "scores", number=number)

    def explain(self, owners: Container[str]) -> None:
        """Take the softmaxes that these modules made for used: they say themselves what they do with them."""
        for notes in (self.unused, self.loose, self.linear):
            for number in [number for number, owner in notes.items() if owner in owners]:
                del notes[number]

    def made(self, tensor: Shaped[Tensor, "..."]) -> bool:
        """Return whether `tensor` is the result of weighting values that was followed, in whatever shape."""
        mark = self._of(tensor)
        return mark is not None and mark.kind == "output"

    def _carry(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> None:
        marks = [mark for mark in map(self._of, _tensors((*args, *kwargs.values()))) if mark is not None]
        tensor = marks[0].tensor() if marks else None
        if tensor is None or (func in MIXING and marks[0].kind == "output"):
            return
        known, shared = marks[0], tensor.shape[-2:] == result.shape[-2:] and marks[0].kind != "output"
        if tensor.numel() == result.numel() or func in CUTTING or shared:
            self._mark(result, known.kind, scored=known.scored, number=known.number)
            for other in marks[1:]:  # weights that are added to others are used with them
                self.unused.pop(other.number if other.number != known.number else -1, None)

    def _derive(self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note a tensor that is made of fixed ones alone; one that is written into is no longer one."""
        if not isinstance(result, Tensor):
            return
        made_of = list(_tensors((*args, *kwargs.values())))
        if all(map(self._is_fixed, made_of)):
            self._derived[id(result)] = weakref.ref(result)
        elif made_of and result is made_of[0]:
            self._derived.pop(id(result), None)

    def _mark(self, tensor: Any, kind: Kind, *, scored: bool = False, number: int = -1) -> None:
        if isinstance(tensor, Tensor) and tensor.dim() >= 2:
            self._marks[id(tensor)] = _Mark(weakref.ref(tensor), kind, scored, number)

    def _of(self, tensor: Any) -> _Mark | None:
        mark = self._marks.get(id(tensor))
        return mark if mark is not None and mark.tensor() is tensor else None

    def _is_fixed(self, tensor: Tensor) -> bool:
        derived = self._derived.get(id(tensor))
        if id(tensor) in self._fixed or (derived is not None and derived() is tensor):
            return True
        return tensor._base is not None and id(tensor._base) in self._fixed

    def _weights_of(self, factors: tuple[Tensor, Tensor, str]) -> _Mark | None:
        """Return the mark of the factor that is weights, of two candidates the one that is a softmax of scores."""
        marks = [mark for mark in map(self._of, factors[:2]) if mark is not None and mark.kind != "output"]
        return max(marks, key=lambda mark: mark.kind == "weights" and mark.scored, default=None)


def linear_processor(module: nn.Module) -> str:
    """Return the name of the processor of diffusers' `module` if it says that it is linear attention, else ""."""
    processor = type(getattr(module, "processor", None)).__name__
    return processor if "linear" in processor.lower() else ""


def _weighting(factors: tuple[Tensor, Tensor, str], is_left: bool, *, softmax: bool) -> Weighting | None:
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


@cache
def opened_up(func: Any) -> Callable[..., Any]:
    """Return a function of torch that is made of others, so that it calls them instead of asking for a replacement."""
    names = {**func.__globals__, "has_torch_function": lambda tensors: False}
    opened = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened
