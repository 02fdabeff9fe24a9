"""Which places of the image each query and value of an attention call hears of. Ours.

Two images of noise are mixed in stripes: of the one where a stripe is 0, of the other where it is 1, along rows or
columns, in stripes that grow finer as the digits of a reflected binary code (Gray 1953) do. A token that hears of one
place alone is then what it is in one of the two images, and the stripes of which it is the other one spell the place. A
token that hears of much is nearer to the image of which it hears more. Mixed noise is noise, so that what normalises
over an image (GroupNorm) changes next to nothing elsewhere; and the finest stripes of a reflected code are two places
wide, so that a token that also hears of its neighbours still hears more of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.randomness import generator

PARTS = ("query", "key", "value")
# Pairs of images, to tell what is heard of places from what is heard of this noise.
DRAWS = 3
# Finer stripes than 64 rows or columns need are not tried.
MOST_STRIPES = 6
# How much of its size a token changes at least, in roundings of its precision too, if it hears of the image; and what
# share of the largest change of a token is none.
LEAST_HEARD, LEAST_ROUNDINGS, LEAST_SHARE = 1e-4, 4, 1e-3


@dataclass(frozen=True)
class Stripes:
    """Halves of an image in stripes along an axis: `level` 1 are its two halves, each further one is twice as fine."""

    axis: Literal["y", "x"]
    level: int

    def along(self, length: int) -> Float[np.ndarray, "place"]:
        """Return what share of each of `length` places in a row belongs to the second image."""
        fine = -(-64 // length) * length
        at = (np.arange(fine) + 0.5) / fine
        second = np.floor(at * 2 ** (self.level - 1) + 0.5) % 2
        return np.asarray(second.reshape(length, -1).mean(axis=1))

    def on(self, rows: int, columns: int) -> Float[np.ndarray, "row column"]:
        """Return the same of the places of a grid."""
        along = self.along(rows)[:, None] if self.axis == "y" else self.along(columns)[None]
        return np.broadcast_to(along, (rows, columns))

    def resolved(self, rows: int, columns: int) -> bool:
        """Return whether such a grid has a place for every stripe."""
        return bool(2**self.level <= (rows if self.axis == "y" else columns))


def stripes_of(rows: int, columns: int) -> list[Stripes]:
    """Return the stripes that tell the places of an image of so many rows and columns apart."""
    levels = {axis: min(MOST_STRIPES, (n - 1).bit_length()) for axis, n in (("y", rows), ("x", columns))}
    return [Stripes(axis, level) for axis in ("y", "x") for level in range(1, levels[axis] + 1)]


def mixed_images(shape: tuple[int, int, int], draw: int) -> Float[Tensor, "image channel row column"]:
    """Return two images of noise and their mixtures by `stripes_of` them, in this order."""
    halves = [stripes.on(*shape[1:]) >= 0.5 for stripes in stripes_of(*shape[1:])]
    first, second = (generator(0, "import", draw, image).standard_normal(shape) for image in range(2))
    images = [first, second, *(np.where(half, second, first) for half in halves)]
    return torch.from_numpy(np.stack(images).astype(np.float32))


@dataclass(frozen=True)
class Heard:
    """What the queries, keys or values of a call hear of mixed images: squared changes from the first and second ones.

    `quiet` is the largest sum of both that is rounding. `by_weights`: of queries that only the weights tell of.
    """

    from_first: Float[np.ndarray, "draw stripes head token"]
    from_second: Float[np.ndarray, "draw stripes head token"]
    quiet: float
    by_weights: bool = False

    @property
    def silent(self) -> bool:
        """Whether no token hears of the image."""
        return bool((self.from_first + self.from_second).max(initial=0) <= self.quiet)

    def of(self, tokens: slice) -> "Heard":
        """Return the same of some tokens."""
        return Heard(self.from_first[..., tokens], self.from_second[..., tokens], self.quiet, self.by_weights)

    def balance(self) -> Float[np.ndarray, "draw stripes head token"]:
        """Return how much more each token of each head hears of the second half than of the first, in [-1, 1].

        That is the difference of the squared changes over their sum; NaN of what hears next to nothing.
        """
        total = self.from_first + self.from_second
        loud = total > max(self.quiet, LEAST_SHARE**2 * total.max(initial=0))
        return np.where(loud, self.from_first - self.from_second, np.nan) / np.where(loud, total, 1)

    def balance_of_tokens(self) -> Float[np.ndarray, "draw stripes token"]:
        """Return the same of each token over all heads, 0 of what hears nothing."""
        together = Heard(self.from_first.sum(2, keepdims=True), self.from_second.sum(2, keepdims=True), self.quiet)
        return np.nan_to_num(together.balance()[:, :, 0])


class Hearing:
    """Observer of one pass of `mixed_images` for each draw: what each part of each call hears, by name of site.

    `tokens` are the numbers of queries and keys, `kinds` what the sites attend to.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.tokens: dict[str, tuple[int, int]] = {}
        self._draws: dict[str, list[dict[str, Heard]]] = {}

    @property
    def heard(self) -> dict[str, dict[str, Heard]]:
        """What was heard, of all draws."""
        return {
            name: {part: _joined([draw[part] for draw in draws]) for part in PARTS}
            for name, draws in self._draws.items()
        }

    def observe(self, call: AttentionCall) -> None:
        name = call.site.name
        self.kinds[name] = call.site.kind
        self.tokens[name] = call.query.shape[-2], call.key.shape[-2]
        heard = {part: _heard(getattr(call, part), len(call.output)) for part in PARTS}
        by_hand = call.query.shape[-1] == call.key.shape[-2] and heard["key"].silent and not heard["value"].silent
        if by_hand and not heard["query"].silent:
            heard["query"] = _asked(call.query, heard["value"])
        self._draws.setdefault(name, []).append(heard)


def _joined(draws: list[Heard]) -> Heard:
    first, second = (
        np.concatenate(changes) for changes in zip(*((d.from_first, d.from_second) for d in draws), strict=True)
    )
    return Heard(first, second, max(draw.quiet for draw in draws), by_weights=draws[0].by_weights)


def _heard(tensor: Float[Tensor, "image head token channel"], images: int) -> Heard:
    """Return what a part of a call of so many images hears."""
    if len(tensor) < images:  # one row for all images
        nothing = np.zeros((1, images - 2, *tensor.shape[1:3]))
        return Heard(nothing, nothing, 0.0)
    first, second = (_stacked([c.square().nansum(-1) for c in _changes(tensor, image)], tensor) for image in range(2))
    least = max(LEAST_HEARD, LEAST_ROUNDINGS * torch.finfo(tensor.dtype).eps)
    size = torch.nan_to_num(tensor[0].detach().float(), 0, 0, 0).square().sum(-1).max()
    return Heard(first, second, least**2 * float(size))


def _asked(weights: Float[Tensor, "image head query key"], value: Heard) -> Heard:
    """Return what queries hear of which there are the logarithms of weights: both of queries and of all keys.

    Of the keys that are still those of the plain image, they change with the query alone, up to one shift of all. The
    unit is the variance over these keys in the plain image.
    """
    balance = torch.from_numpy(np.nan_to_num(value.balance()[0])).to(weights.device)
    found = []
    for image, kept in enumerate((balance < 0, balance > 0)):
        energies = []
        for index, change in enumerate(_changes(weights, image)):
            keys = kept[index, :, None]
            spread = _spread(weights[image].detach().float(), keys).mean(-1, keepdim=True)
            energies.append(_spread(change, keys) / spread.clamp_min(torch.finfo(spread.dtype).tiny))
        found.append(_stacked(energies, weights))
    return Heard(found[0], found[1], LEAST_HEARD**2, by_weights=True)


def _changes(
    tensor: Float[Tensor, "image head token channel"], image: int
) -> Iterator[Float[Tensor, "head token channel"]]:
    """Yield the change from one of the two images to each mixture; NaN of weights of 0, whose logarithm is infinite.

    One at a time, as weights have a channel for every key.
    """
    plain = tensor[image].detach().float()
    for mixed in tensor[2:].detach():
        change = mixed.float() - plain
        yield torch.where(change.isfinite(), change, torch.nan)


def _stacked(energies: list[Tensor], tensor: Tensor) -> Float[np.ndarray, "draw stripes head token"]:
    if not energies:
        return np.zeros((1, 0, *tensor.shape[1:3]))
    return np.asarray(torch.stack(energies)[None].double().cpu().numpy())


def _spread(rows: Float[Tensor, "*row key"], kept: Bool[Tensor, "*_row key"]) -> Float[Tensor, "*row"]:
    """Return the variance of each row over the keys that are kept and have a finite value."""
    kept = kept & rows.isfinite()
    count = kept.sum(-1, keepdim=True).clamp_min(1)
    rows = torch.where(kept, rows, 0)
    rows = torch.where(kept, rows - rows.sum(-1, keepdim=True) / count, 0)
    return rows.square().sum(-1) / count[..., 0]
