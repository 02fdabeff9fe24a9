"""Memory for large arrays that come and go with every pass, each on pages of its own. Ours.

A heap puts what a model holds through a pass into the gaps that larger arrays leave behind; the next of those arrays
then finds no gap, and the heap grows with layers and passes although no more is held. Here the next array of about the
same size takes over the pages of the last one.
"""

import itertools
import math
import mmap
import weakref
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

# Smaller ones do little harm to a heap.
SMALLEST = 2**16

# Parts of a block start at multiples of a cache line.
ALIGNMENT = 64

Name = TypeVar("Name", bound=Hashable)

# Spare pages beyond this are given back to the system before new ones are asked for.
MOST_SPARE = 32 * 2**20

_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}

# By length, a power of two: of a longer block than an array needs, the rest is never touched and takes no memory. Lists
# are appended to by whichever thread drops the last reference to an array.
_spare: dict[int, list[mmap.mmap]] = {}


def scratch(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Shaped[Tensor, "..."]:
    """Return an uninitialised tensor; if it is large and on the CPU, on pages that are used again when it is gone."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < SMALLEST:
        return torch.empty(*shape, dtype=dtype, device=device)
    length = 2 ** (size - 1).bit_length()
    spare = _spare.setdefault(length, [])
    if not spare and spare_bytes() > MOST_SPARE:
        for blocks in _spare.values():
            blocks.clear()
    block = spare.pop() if spare else mmap.mmap(-1, length, **_PRIVATE)
    memory = np.frombuffer(block, np.uint8, size)
    weakref.finalize(memory, spare.append, block)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)


def scratch_parts(
    wanted: Mapping[Name, tuple[Sequence[int], torch.dtype]], device: torch.device
) -> dict[Name, Shaped[Tensor, "..."]]:
    """Return uninitialised tensors of these shapes and types that share one block; it is free when all are gone.

    For small arrays that are held while a model goes on: each alone would stand in the way on its heap.
    """
    lengths = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted.values()]
    starts = [0, *itertools.accumulate(-(-length // ALIGNMENT) * ALIGNMENT for length in lengths)]
    block = scratch([starts[-1]], torch.uint8, device)
    return {
        name: block[start : start + length].view(dtype).view(*shape)
        for (name, (shape, dtype)), start, length in zip(wanted.items(), starts, lengths, strict=False)
    }


def spare_bytes() -> int:
    """Return the length of all blocks that wait to be used again."""
    return sum(length * len(blocks) for length, blocks in _spare.items())
