"""Heaps with different gaps: how many there are, and whether a model's next large array fits one, is chance."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def gaps(heap: int) -> Iterator[int]:
    """Run the body on a heap with gaps, others for each `heap` above zero; yield the bytes that lie between them."""
    chance = random.Random(heap)
    held = [torch.ones(2 ** chance.randint(10, 18)) for _ in range(40 if heap else 0)]
    held = chance.sample(held, len(held) // 2)
    yield sum(array.nbytes for array in held)
