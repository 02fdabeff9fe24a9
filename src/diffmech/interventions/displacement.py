"""How far a head's output is moved when it is replaced: |o_h - replacement|, what ablations should be compared at.

An ablation does to a model what the difference between a head's output and its replacement does, so sets of heads are
alike in size when this is alike, whatever |o_h| is. Root mean squares over the reference images of one domain and the
queries; |.| is the Euclidean norm over channels. Nothing is run anew:

- zero: |o_i|;
- mean: |o_i - m_i| with m_i the mean over the other reference images of the domain: an image that is ablated is not
  part of the mean that replaces its outputs either. Equal to n / (n - 1) |o_i - m|;
- mean_pooled: the same with the mean over all other reference images of both domains;
- resample: |o_i - o_j| over pairs of different reference images of the domain;
- uniform: |o_i - u_i| with u_i the mean of the head's values over the keys that it may see.

Ours.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

METHODS = ("zero", "mean", "mean_pooled", "resample", "uniform")


def displacements(
    bank: Float[np.ndarray, "reference timestep head query channel"],
    from_uniform: Float[np.ndarray, "reference timestep head"],
    domains: Sequence[str],
) -> Float[np.ndarray, "method domain timestep head"]:
    """Return the displacement of every head by each of METHODS, float64.

    `bank` (reference, timestep, head, query, channel) holds the outputs, `from_uniform` (reference, timestep, head) the
    mean over queries of their squared distance from uniform attention, `domains` the domain of each reference image;
    domains come in the order in which they first appear. Means and resampling are NaN where there is no other image.
    """
    outputs, rows = bank.astype(np.float64), np.array(domains)
    everyone = outputs.mean(axis=0)
    found = []
    for domain in dict.fromkeys(domains):
        own = outputs[rows == domain]
        from_mean = _mean_square(own - own.mean(axis=0))
        squares = {
            "zero": _mean_square(own),
            "mean": _without_itself(len(own)) ** 2 * from_mean,
            "mean_pooled": _without_itself(len(outputs)) ** 2 * _mean_square(own - everyone),
            "resample": 2 * _without_itself(len(own)) * from_mean,
            "uniform": from_uniform[rows == domain].mean(axis=0, dtype=np.float64),
        }
        found.append(np.sqrt([squares[method] for method in METHODS]))
    return np.stack(found, axis=1)


def _mean_square(outputs: np.ndarray) -> np.ndarray:
    """Return the mean squared norm over images and queries."""
    squares: np.ndarray = np.square(outputs).sum(axis=-1).mean(axis=(0, -1))
    return squares


def _without_itself(images: int) -> float:
    """Return by how much further an image lies from the mean of the others than from the mean of all."""
    return images / (images - 1) if images > 1 else np.nan
