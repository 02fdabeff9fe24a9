"""Image and text tokens of joint attention: their ranges, and the four parts of attention between them. Ours."""

from dataclasses import dataclass
from typing import Literal

# Queries -> keys, in the order in which every quantity per part is stored.
PARTS = ("image->image", "image->text", "text->image", "text->text")


@dataclass(frozen=True)
class TokenRanges:
    """The image and the text tokens of a joint site, each as (first, one past the last).

    The same tokens ask and are asked, so these are the ranges of queries and of keys alike.
    """

    image: tuple[int, int]
    text: tuple[int, int]

    def length(self, which: Literal["image", "text"]) -> int:
        """Return the number of tokens of the image or of the text."""
        first, last = self.image if which == "image" else self.text
        return last - first

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return self.length("image") + self.length("text")

    def names(self) -> tuple[str, ...]:
        """Return "image" or "text" for every token, in order."""
        return tuple("image" if self.image[0] <= index < self.image[1] else "text" for index in range(self.tokens))
