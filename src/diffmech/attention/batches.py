"""As many images per pass as memory allows: when it runs out, the batch is halved and the work goes on. Ours."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from diffmech.errors import ModelError

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
                if not _out_of_memory(error):
                    raise
                if piece.stop - piece.start == 1:
                    raise ModelError(
                        "memory does not suffice for one image at a time; study smaller images (images.size), or run "
                        "on a device with more memory (runtime.device)"
                    ) from error
            # Only here, out of the handler, is nothing of the failed pass referred to any more.
            self.size = (piece.stop - piece.start) // 2
            logger.warning("out of memory with %d images per pass; going on with %d", 2 * self.size, self.size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return results


def _out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
    return known or any(message in str(error) for message in ALLOCATOR_MESSAGES)
