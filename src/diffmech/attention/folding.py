"""Where images and heads stand in the leading axes of an attention call: apart, folded, or with no heads. Ours."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Folded:
    """How to bring tensors of one call to (image, head, token, channel), and back.

    `order` is "" where they are so already, "swapped" for (head, image, ...), "single" for (image, ...) of one head and
    "folded" for (image x head, ...). `problem` says why it cannot be told.
    """

    order: str
    images: int
    heads: int
    problem: str = ""

    @property
    def changes(self) -> bool:
        """Whether tensors change at all."""
        return bool(self.order)

    def apart(self, tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "image head ..."]:
        """Return a tensor of the call as (image, head, ...); the heads of keys may be fewer."""
        if self.order == "swapped":
            return tensor.transpose(0, 1)
        if self.order == "single":
            return tensor.unsqueeze(1)
        return tensor.unflatten(0, (self.images, -1)) if self.order == "folded" else tensor

    def together(self, tensor: Shaped[Tensor, "image head ..."]) -> Shaped[Tensor, "..."]:
        """Undo `apart`."""
        if self.order == "swapped":
            return tensor.transpose(0, 1)
        if self.order == "single":
            return tensor.squeeze(1)
        return tensor.flatten(0, 1) if self.order == "folded" else tensor


def unfold(shape: Sequence[int], images: int | None, heads: int | None) -> Folded:
    """Return how queries or weights of `shape` (..., token, channel) hold a batch of `images` and so many `heads`.

    None stands for what is not known. Images are taken to stand before heads where both are folded into one axis.
    """
    expected = (
        f"expected (sample, {heads} heads, token, channel)" if heads else "expected (sample, head, token, channel)"
    )
    what = (
        f"its query has shape {tuple(shape)} for {images} images" if images else f"its query has shape {tuple(shape)}"
    )
    if len(shape) == 4:
        first, second = shape[:2]
        if (images in (None, first)) and heads in (None, second):
            return Folded("", first, second)
        if images == second and heads in (None, first):
            return Folded("swapped", second, first)
        if images is not None and heads in (None, second) and first > images and first % images == 0:
            several = f"{first // images} windows, frames or passes of each in the batch axis, which are not studied"
            return Folded("", first, second, f"{what}: {several}; attend over all tokens of an image, with a mask")
        return Folded("", first, second, f"{what}, {expected}")
    if len(shape) == 3:
        rows = shape[0]
        if rows == images and heads in (None, 1):
            return Folded("single", rows, 1)
        if images is None and heads is not None and rows % heads == 0:
            return Folded("folded", rows // heads, heads)
        if images is not None and rows % images == 0 and heads in (None, rows // images):
            return Folded("folded", images, rows // images)
        if images is None and heads is None:
            return Folded("single", rows, 1)
    return Folded("", 0, heads or 0, f"{what}, {expected}")
