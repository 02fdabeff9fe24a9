"""What torch draws, keyed by what it is for: the weights of a network, the draws of one step of its training. Ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffmech.randomness import generator


@contextmanager
def seeded(seed: int, *purpose: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Within this context torch's generators of the CPU and of `device` belong to `seed` and `purpose`.

    Afterwards those of the CPU and of a CUDA device are as they were before. Without a purpose it is the weights of a
    network.
    """
    number = int(generator(seed, *(purpose or ("weights",))).integers(2**63))
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would also touch the generators of other GPUs, which are not restored
        torch.default_generator.manual_seed(number)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(number)
        if device is not None and device.type == "mps":
            torch.mps.manual_seed(number)
        yield


def draws_of(seed: int, step: int) -> torch.Generator:
    """Return the generator, on the CPU, from which the batch of one step of a training is drawn."""
    return torch.Generator().manual_seed(int(generator(seed, "training step", step).integers(2**63)))
