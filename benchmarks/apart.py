"""Memory in fresh processes, on heaps with different gaps: whether the next large array fits one is chance."""

import multiprocessing
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

# Heaps that memory is measured on.
HEAPS = 5

# Fresh processes are forked from a server that has imported these and computed nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "diffmech.attention.capture",
        "diffmech.attention.store",
        "diffusers.models.unets.unet_2d",
        "diffusers.models.unets.unet_2d_condition",
        "diffusers.models.transformers.transformer_flux",
        "diffusers.models.transformers.transformer_sd3",
    ]
)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `function` returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def gaps(heap: int) -> Iterator[int]:
    """Run the body on a heap with gaps, others for each `heap` above zero; yield the bytes that lie between them."""
    chance = random.Random(heap)
    held = [torch.ones(2 ** chance.randint(10, 18)) for _ in range(40 if heap else 0)]
    held = chance.sample(held, len(held) // 2)
    yield sum(array.nbytes for array in held)
