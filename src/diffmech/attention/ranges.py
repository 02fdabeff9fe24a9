"""Tokens of the image among others in one softmax: where each stand, and the parts of attention between them. Ours.

The others are the text of joint attention, or extra tokens, which stand nowhere on the image: a class token,
registers, a token of the time, and learned keys and values that no query belongs to (memory).
"""

from dataclasses import dataclass
from typing import Literal

Dim = Literal["query", "key"]
# Some tokens, in order, as what indexes an axis of tokens.
Tokens = slice | list[int]


def count(tokens: Tokens) -> int:
    """Return the number of tokens."""
    return len(tokens) if isinstance(tokens, list) else tokens.stop - tokens.start


def within(tokens: Tokens, among: slice) -> Tokens:
    """Return where those of `tokens` that are among others stand there, counted from the first of those."""
    if isinstance(tokens, list):
        return [index - among.start for index in tokens if among.start <= index < among.stop]
    start = max(tokens.start, among.start)
    return slice(start - among.start, max(start, min(tokens.stop, among.stop)) - among.start)


@dataclass(frozen=True)
class TokenRanges:
    """The image keys of a site and the text keys beside them, each as (first, one past the last), or the extra keys.

    `extra` is how many of these stand (before, after) the image, and `memory` how many of them no query belongs to. All
    other tokens ask and are asked, in the same order.
    """

    image: tuple[int, int]
    text: tuple[int, int] = (0, 0)
    extra: tuple[int, int] = (0, 0)
    memory: tuple[int, int] = (0, 0)

    @property
    def keys(self) -> int:
        """The number of keys."""
        return sum(last - first for first, last in (self.image, self.text)) + sum(self.extra)

    @property
    def queries(self) -> int:
        """The number of queries."""
        return self.keys - sum(self.memory)

    @property
    def rest(self) -> Literal["text", "extra"]:
        """What the tokens beside the image are."""
        return "text" if self.text[0] < self.text[1] else "extra"

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of attention, queries -> keys, in the order in which every quantity per part is stored.

        Where no query belongs to what stands beside the image, there are the first two alone.
        """
        asking = ["image", *([self.rest] if self.queries > count(self.of_image("query")) else [])]
        return tuple(f"{query}->{key}" for query in asking for key in ("image", self.rest))

    def of_image(self, dim: Dim) -> slice:
        """Return the queries or keys that are the image's."""
        before = self.memory[0] if dim == "query" else 0
        return slice(self.image[0] - before, self.image[1] - before)

    def of_rest(self, dim: Dim) -> Tokens:
        """Return the queries or keys that are not the image's."""
        image, total = self.of_image(dim), self.queries if dim == "query" else self.keys
        if image.start and image.stop < total:
            return [*range(image.start), *range(image.stop, total)]
        return slice(0, image.start) if image.start else slice(image.stop, total)

    def names(self, dim: Dim) -> tuple[str, ...]:
        """Return "image", or "text" or "extra", for every query or key, in order."""
        image, total = self.of_image(dim), self.queries if dim == "query" else self.keys
        return tuple("image" if image.start <= index < image.stop else self.rest for index in range(total))
