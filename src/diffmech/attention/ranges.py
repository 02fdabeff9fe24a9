"""Which tokens of joint attention belong to the image and which to the text. Ours."""

from dataclasses import dataclass

# Queries -> keys, in the order in which every quantity per part is stored.
PARTS = ("image->image", "image->text", "text->image", "text->text")


@dataclass(frozen=True)
class TokenRanges:
    """The image and the text tokens of a joint site, each as (first, one past the last).

    The same tokens ask and are asked, so these are the ranges of queries and of keys alike.
    """

    image: tuple[int, int]
    text: tuple[int, int]

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return self.image[1] - self.image[0] + self.text[1] - self.text[0]

    def names(self) -> tuple[str, ...]:
        """Return "image" or "text" for every token, in order."""
        return tuple("image" if self.image[0] <= index < self.image[1] else "text" for index in range(self.tokens))
