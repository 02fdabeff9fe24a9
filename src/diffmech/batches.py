"""As many images per pass as memory allows: when it runs out, the batch is halved and the work goes on. Ours."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from diffmech.config.analysis import RuntimeConfig
from diffmech.errors import ModelError

Given = ParamSpec("Given")
Result = TypeVar("Result")

# What torch's allocators say in a RuntimeError that has no class of its own (CPU, MPS).
ALLOCATOR_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")

logger = logging.getLogger(__name__)


class Batches:
    """Runs work on rows in pieces of at most `size` images, which shrinks where memory runs out and stays so."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, rows: slice, work: Callable[[slice], Result]) -> list[Result]:
        """Return what `work` returns for each piece of `rows`, in order; a piece that failed is repeated as two.

        Raises ModelError where memory does not suffice for one image.
        """
        results: list[Result] = []
        start = rows.start
        while start < rows.stop:
            piece = slice(start, min(start + self.size, rows.stop))
            try:
                results.append(work(piece))
                start = piece.stop
                continue
            except (RuntimeError, MemoryError) as error:
                _require_more_than_one(piece.stop - piece.start, error)
            # Only here, out of the handler, is nothing of the failed pass referred to any more.
            self.size = _half(piece.stop - piece.start)
        return results


def in_smaller_batches(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Run `function` again with half of `runtime.batch_size`, a keyword of its own, where memory runs out.

    For work whose parts cannot be repeated one by one, of minutes at most. Raises ModelError where memory does not
    suffice for one image.
    """

    @wraps(function)
    def run(*arguments: Given.args, **keywords: Given.kwargs) -> Result:
        while True:
            runtime = keywords.get("runtime")
            if not isinstance(runtime, RuntimeConfig):
                return function(*arguments, **keywords)  # which says what is missing
            try:
                return function(*arguments, **keywords)
            except (RuntimeError, MemoryError) as error:
                _require_more_than_one(runtime.batch_size, error)
            keywords["runtime"] = runtime.model_copy(update={"batch_size": _half(runtime.batch_size)})

    return run


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory of this machine or of its GPU ran out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(message in str(error) for message in ALLOCATOR_MESSAGES)


def _require_more_than_one(images: int, error: BaseException) -> None:
    if not out_of_memory(error):
        raise error
    if images == 1:
        raise ModelError(
            "memory does not suffice for one image at a time; study smaller images (images.size), or run on a device "
            "with more memory (runtime.device)"
        ) from error


def _half(images: int) -> int:
    logger.warning("out of memory with %d images per pass; going on with %d", images, images // 2)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return images // 2
