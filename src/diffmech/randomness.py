"""Random numbers that do not depend on the order in which they are drawn.

Every draw is keyed by what it is for (seed, sample id, timestep, purpose), through the counter-based Philox generator
of Salmon et al. 2011. Growing a study, changing a batch size or sharding it differently never changes what exists.
"""

import hashlib

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return the generator that belongs to `seed` and `purpose`, the same on every machine and in every process."""
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in purpose)])
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def noise(seed: int, sample: int, timestep: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal float32 noise of `shape` for one sample at one timestep."""
    return generator(seed, "noise", int(sample), int(timestep)).standard_normal(shape, dtype=np.float32)
