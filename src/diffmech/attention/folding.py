"""Where images and heads stand in the leading axes of an attention call: apart, folded, or with no heads. Ours."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

ORDERS = ("", "swapped", "single", "folded")


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


def unfold(shape: Sequence[int], images: int | None, heads: int | None, order: str | None = None) -> Folded:
    """Return how queries or weights of `shape` (..., token, channel) hold a batch of `images` and so many `heads`.

    None stands for what is not known. `order` is the one in which an earlier pass of one image had them: where there
    are as many images as heads, a shape alone does not tell. Images are taken to stand before heads where both are
    folded into one axis.
    """
    for candidate in ORDERS if order is None else (order,):
        found = _in_order(candidate, shape, images, heads, told=order is not None)
        if found is not None:
            return found
    expected = (
        f"expected (sample, {heads} heads, token, channel)" if heads else "expected (sample, head, token, channel)"
    )
    what = (
        f"its query has shape {tuple(shape)} for {images} images" if images else f"its query has shape {tuple(shape)}"
    )
    if len(shape) == 4 and images is not None and heads in (None, shape[1]):
        first, second = shape[:2]
        if first > images and first % images == 0:
            several = f"{first // images} windows, frames or passes of each in the batch axis, which are not studied"
            remedy = "attend over all tokens of an image, with a mask, and make passes of guidance one by one"
            return Folded("", first, second, f"{what}: {several}; {remedy}")
    return Folded("", shape[0] if len(shape) == 4 else 0, heads or 0, f"{what}, {expected}")


def _in_order(order: str, shape: Sequence[int], images: int | None, heads: int | None, *, told: bool) -> Folded | None:
    """Return the layout if `shape` can hold images and heads in that order; `told`: it is known to be this one."""
    if len(shape) == 4 and order in ("", "swapped"):
        first, second = shape[:2] if order == "" else shape[1::-1]
        known = images is not None or order == "" or told
        return Folded(order, first, second) if known and images in (None, first) and heads in (None, second) else None
    if len(shape) != 3 or order not in ("single", "folded"):
        return None
    rows = shape[0]
    if order == "single":
        alone = rows == images or (images is None and heads is None) or (images is None and told)
        return Folded("single", rows, 1) if alone and heads in (None, 1) else None
    if images is None:
        return Folded("folded", rows // heads, heads) if heads is not None and rows % heads == 0 else None
    count = rows // images
    return Folded("folded", images, count) if rows % images == 0 and heads in (None, count) else None
