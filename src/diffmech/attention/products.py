"""Attention that is written by hand, followed through torch's functions. Ours.

Scores are a product of two tensors that depend on the input; what keeps their size (a scale, a mask, a cast, another
shape) leaves them scores, and a softmax makes weights of them. The product of weights with values is the attention
call: its probabilities are at hand, and its result is the output per head. Scores that are multiplied without a softmax
are linear attention. Nothing here changes a tensor or keeps one alive.
"""

import types
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn import functional

from diffmech.attention.reasons import LOOSE, NO_PRODUCT, NO_SOFTMAX, ROWS
from diffmech.attention.weighting import (
    NO_LENGTHS,
    Factors,
    Lengths,
    Weighting,
    free_lengths,
    holds,
    kept_lengths,
    weighting,
)

MATMULS = {torch.matmul, Tensor.matmul, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm}
ADDED = {torch.baddbmm, Tensor.baddbmm, torch.addmm, Tensor.addmm}
PRODUCTS = {*MATMULS, *ADDED, torch.einsum, Tensor.__rmatmul__}
SOFTMAXES = {functional.softmax, torch.softmax, Tensor.softmax, torch.special.softmax, functional.softmin}
WRITES = {Tensor.__setitem__, Tensor.copy_}
# What makes scores, weights and outputs; others only pass on what their arguments are.
FOLLOWED = {*PRODUCTS, *SOFTMAXES, torch.cdist, *WRITES}
CONVOLUTIONS = {
    *(functional.conv1d, functional.conv2d, functional.conv3d),
    *(functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d),
}
# What mixes channels or tokens, so that its result is no longer an output, whatever its size, nor scores or weights,
# unless it is heads that are mixed.
MIXING = {functional.linear, functional.bilinear, functional.embedding, *CONVOLUTIONS}
_NORMS = {functional.layer_norm, functional.group_norm, functional.batch_norm, functional.instance_norm}
ENDING = MIXING | _NORMS  # after which an output is no longer one
# What has the size of a tensor and nothing else of it.
MADE_ANEW = {torch.empty_like, torch.zeros_like, torch.ones_like, torch.rand_like, torch.randn_like}
# What appends to or cuts from scores and weights, which stay what they are.
CUTTING = {
    *(torch.cat, torch.concat, Tensor.__getitem__, Tensor.expand, functional.pad, torch.narrow, Tensor.narrow),
    *(torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.unbind, Tensor.unbind),
}
# What may bring consecutive rows of a result together, and leaves the order of its numbers.
RESHAPES = {
    *(torch.reshape, Tensor.reshape, Tensor.view, torch.flatten, Tensor.flatten, torch.unflatten, Tensor.unflatten),
    *(torch.squeeze, Tensor.squeeze, torch.unsqueeze, Tensor.unsqueeze, Tensor.__getitem__),
    *(Tensor.contiguous, Tensor.to),
}

Kind = Literal["scores", "weights", "output"]


@dataclass(frozen=True)
class _Mark:
    tensor: "weakref.ref[Tensor]"
    kind: Kind
    scored: bool  # of weights: they are the softmax of scores
    number: int  # of the softmax
    # Of scores and what is made of them, the lengths of the axes that one factor alone has: of queries and of keys.
    free: Lengths


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
        # Of the scores that are now multiplied, and of that product: whether the other factor is fixed, and whether the
        # scores turned out to be no weights.
        self._number, self._free = -1, NO_LENGTHS
        self._projects = self._without = False
        # With the module that ran: softmaxes of scores that no product has used; other softmaxes; products of scores
        # that no softmax has made weights of, before or after.
        self.unused: dict[int, str] = {}
        self.loose: dict[int, str] = {}
        self.linear: dict[int, str] = {}
        self.merged: dict[str, str] = {}  # by owner, that rows of what one head wrote became channels of one
        self._alone: dict[int, tuple[Callable[[], Tensor | None], int, int, str]] = {}

    def begin(self) -> None:
        """Forget everything, as a new pass begins."""
        for notes in (self._marks, self._derived, self._made_of, self._alone):
            notes.clear()
        for named in (self.unused, self.loose, self.linear, self.merged):
            named.clear()

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
            self._projects = mark.kind == "scores" and any(map(self._is_fixed, factors[:2]))
            if self._projects and holds(mark.free, kept_lengths(factors, self._of(factors[0]) is mark)):
                result = func(*args, **kwargs)  # heads are mixed, which leaves scores
                self._mark(result, "scores", number=mark.number, free=mark.free)
                return result
            if all(known is not None and known.scored for known in map(self._of, factors[:2])):
                return self._weights_of_weights(func(*args, **kwargs), factors, who())
            found = weighting(factors, self._of(factors[0]) is mark, mark.free, softmax=mark.kind == "weights")
            if found is not None:
                self.unused.pop(mark.number, None)
                self._number, self._free, self._without = mark.number, free_lengths(factors), False
                result = weighted(found, func(*args, **kwargs))
                if not self._without:
                    self._mark(result, "output")
                return result
        result = func(*args, **kwargs)
        if factors is not None:
            if not any(map(self._is_fixed, factors[:2])):
                self._mark(result, "scores", number=-1 if mark is None else mark.number, free=free_lengths(factors))
            self._derive(args, kwargs, result)
        elif func is torch.cdist:
            if not any(map(self._is_fixed, args[:2])):
                self._mark(result, "scores", free=(args[0].shape[-2:-1], args[1].shape[-2:-1]))
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
            self._mark(
                result, "weights", scored=scored, number=number, free=NO_LENGTHS if known is None else known.free
            )
        elif func in WRITES:
            self._write(args[0], args[-1])
        else:
            self.follow(func, args, kwargs, result)
        return result

    def _write(self, target: Tensor, written: Any) -> None:
        """Note that something is written into a tensor: scores, in place of which their softmax stands then."""
        self._derived.pop(id(target), None)
        known, new = self._of(target), self._of(written)
        if new is None or new.kind == "output":
            return
        if known is None or known.kind == "output":
            self._mark(target, new.kind, scored=new.scored, number=new.number, free=new.free)
        elif new.number != known.number:
            self.unused.pop(known.number, None)  # what is written last is used with it
            self._mark(target, known.kind, scored=known.scored, number=new.number, free=known.free)

    def follow(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note what `result` is of a function that is none of `FOLLOWED`, from what its arguments are."""
        if not isinstance(result, Tensor):
            if self._marks and func in CUTTING and isinstance(result, tuple | list):
                for part in result:
                    self._carry(func, args, kwargs, part)
            return
        if self._alone and func in RESHAPES:
            self._reshaped(args, result)
        if self._marks and func not in MADE_ANEW:
            self._carry(func, args, kwargs, result)
        first = args[0] if args else None
        # One that an input changes is enough: nothing is to be noted of most calls.
        if not isinstance(first, Tensor) or self._is_fixed(first):
            self._derive(args, kwargs, result)

    def _weights_of_weights(self, result: Tensor, factors: Factors, owner: str) -> Tensor:
        """Take a product of two softmaxes of scores, which is weights itself."""
        number = next(self._numbers)
        for known in filter(None, map(self._of, factors[:2])):
            self.unused.pop(known.number, None)
        self.unused[number] = owner
        self._mark(result, "weights", scored=True, number=number, free=free_lengths(factors))
        return result

    def of_one_head(self, result: Shaped[Tensor, "... query channel"], owner: str) -> None:
        """Follow what one head wrote: rows that are merged into channels after it are of several heads."""
        self._alone[id(result)] = weakref.ref(result), result.shape[-2], result.shape[-1], owner

    def _reshaped(self, given: Sequence[Any], result: Tensor) -> None:
        known = self._alone.get(id(given[0])) if given else None
        tensor = None if known is None else known[0]()
        if known is None or tensor is None or tensor is not given[0] or tensor.numel() != result.numel():
            return
        _, rows, channels, owner = known
        merged = result.shape[-1] // channels if result.shape[-1] % channels == 0 else 1
        if 1 < merged < rows and rows % merged == 0:
            self.merged[owner] = ROWS.format(merged)
        self._alone[id(result)] = weakref.ref(result), rows, channels, owner

    def without_softmax(self, result: Shaped[Tensor, "..."], owner: str) -> None:
        """Note that `owner` multiplied scores that are no weights: linear attention, or scores of scores."""
        self._without = True
        if self._projects:  # by weights of the network, as a linear layer does
            return
        number = next(self._numbers)
        self.linear[number], self._made_of[number] = owner, self._number
        self._mark(result, "scores", number=number, free=self._free)

    def explain(self, owners: Container[str]) -> None:
        """Take the softmaxes that these modules made for used: they say themselves what they do with them."""
        for notes in (self.unused, self.loose, self.linear):
            for number in [number for number, owner in notes.items() if owner in owners]:
                del notes[number]

    def left(self, name: Callable[[str], str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return why modules could not be understood at the end of a pass, and what of others is left out.

        By their names, which `name` gives.
        """
        untapped = dict.fromkeys(map(name, self.unused.values()), NO_PRODUCT)
        untapped |= {name(owner): why for owner, why in self.merged.items()}
        left_out = dict.fromkeys(map(name, self.loose.values()), LOOSE)
        return untapped, left_out | dict.fromkeys(map(name, self.linear.values()), NO_SOFTMAX)

    def made(self, tensor: Shaped[Tensor, "..."]) -> bool:
        """Return whether `tensor` is the result of weighting values that was followed, in whatever shape."""
        mark = self._of(tensor)
        return mark is not None and mark.kind == "output"

    def _carry(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> None:
        marks = [mark for mark in map(self._of, _tensors((*args, *kwargs.values()))) if mark is not None]
        marks.sort(key=lambda mark: mark.kind == "weights" and mark.scored, reverse=True)
        tensor = marks[0].tensor() if marks else None
        if tensor is None or (func in ENDING and marks[0].kind == "output"):
            return
        if func in MIXING and not holds(
            marks[0].free, tensor.shape[2:] if func in CONVOLUTIONS else tensor.shape[1:-1]
        ):
            return
        known, shared = marks[0], tensor.shape[-2:] == result.shape[-2:] and marks[0].kind != "output"
        if tensor.numel() == result.numel() or func in CUTTING or shared:
            self._mark(result, known.kind, scored=known.scored, number=known.number, free=known.free)
            for other in marks[1:]:  # weights that are added to others are used with them
                if known.kind == other.kind == "weights" and other.number != known.number:
                    self.unused.pop(other.number, None)
                    self.loose.pop(other.number, None)

    def _derive(self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """Note a tensor that is made of fixed ones alone; one that is written into is no longer one."""
        if not isinstance(result, Tensor):
            return
        made_of = list(_tensors((*args, *kwargs.values())))
        if all(map(self._is_fixed, made_of)):
            self._derived[id(result)] = weakref.ref(result)
        elif made_of and result is made_of[0]:
            self._derived.pop(id(result), None)

    def _mark(
        self, tensor: Any, kind: Kind, *, scored: bool = False, number: int = -1, free: Lengths = NO_LENGTHS
    ) -> None:
        if isinstance(tensor, Tensor) and tensor.dim() >= 2:
            self._marks[id(tensor)] = _Mark(weakref.ref(tensor), kind, scored, number, free)

    def _of(self, tensor: Any) -> _Mark | None:
        mark = self._marks.get(id(tensor))
        return mark if mark is not None and mark.tensor() is tensor else None

    def _is_fixed(self, tensor: Tensor) -> bool:
        derived = self._derived.get(id(tensor))
        if id(tensor) in self._fixed or (derived is not None and derived() is tensor):
            return True
        return tensor._base is not None and id(tensor._base) in self._fixed

    def _weights_of(self, factors: Factors) -> _Mark | None:
        """Return the mark of the factor that is weights, of two candidates the one that is a softmax of scores."""
        marks = [mark for mark in map(self._of, factors[:2]) if mark is not None and mark.kind != "output"]
        return max(marks, key=lambda mark: mark.kind == "weights" and mark.scored, default=None)


def linear_processor(module: nn.Module) -> str:
    """Return the name of the processor of diffusers' `module` if it says that it is linear attention, else ""."""
    processor = type(getattr(module, "processor", None)).__name__
    return processor if "linear" in processor.lower() else ""


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from (item for item in value if isinstance(item, Tensor))


def _factors(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Factors | None:
    """Return the two factors of a product of at least two dimensions each, and its equation if it is an einsum."""
    equation = ""
    given = [*args, *(value for name, value in kwargs.items() if name != "out")]
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


@cache
def opened_up(func: Any) -> Callable[..., Any]:
    """Return a function of torch that is made of others, so that it calls them instead of asking for a replacement."""
    names = {**func.__globals__, "has_torch_function": lambda tensors: False}
    opened = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened
