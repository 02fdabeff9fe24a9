"""k-means of many small tables at once: Lloyd 1982, seeded by k-means++ (Arthur & Vassilvitskii 2007).

Stability asks for hundreds of fits of a few hundred heads; done one by one, nearly all time goes into calling. Here all
tables and restarts advance together, and the best restart of each table, by the sum of squared distances, is kept.
"""

import numpy as np
from jaxtyping import Float, Int

MOST_ITERATIONS = 100


def k_means(
    tables: Float[np.ndarray, "table observation feature"], k: int, random: np.random.Generator, *, restarts: int
) -> Int[np.ndarray, "table observation"]:
    """Return the cluster 0..k-1 of each observation of `tables`."""
    count, observations, _ = tables.shape
    values = np.repeat(tables.astype(np.float64), restarts, axis=0)
    centres = _seeds(values, k, random)
    labels = np.full(values.shape[:2], -1)
    for _ in range(MOST_ITERATIONS):
        distances = _squared_distances(values, centres)
        found = distances.argmin(axis=-1)
        if (found == labels).all():
            break
        labels = found
        member = (labels[..., None] == np.arange(k)).astype(np.float64)
        sizes = member.sum(axis=1)[..., None]
        # a cluster that lost all of its members stays where it was
        centres = np.where(sizes > 0, member.transpose(0, 2, 1) @ values / np.maximum(sizes, 1), centres)
    cost = _squared_distances(values, centres).min(axis=-1).sum(axis=-1).reshape(count, restarts)
    best = cost.argmin(axis=1)
    return labels.reshape(count, restarts, observations)[np.arange(count), best]


def _seeds(
    values: Float[np.ndarray, "run observation feature"], k: int, random: np.random.Generator
) -> Float[np.ndarray, "run k feature"]:
    """Return k observations far from each other, drawn by their squared distance to the former."""
    runs, observations, _ = values.shape
    every = np.arange(runs)
    chosen = [values[every, random.integers(0, observations, size=runs)]]
    nearest = np.full((runs, observations), np.inf)
    for _ in range(k - 1):
        nearest = np.minimum(nearest, ((values - chosen[-1][:, None]) ** 2).sum(axis=-1))
        cumulated = nearest.cumsum(axis=1)
        threshold = random.random(runs) * cumulated[:, -1]
        picks = np.minimum((cumulated <= threshold[:, None]).sum(axis=1), observations - 1)
        chosen.append(values[every, picks])
    return np.stack(chosen, axis=1)


def _squared_distances(
    values: Float[np.ndarray, "run observation feature"], centres: Float[np.ndarray, "run k feature"]
) -> Float[np.ndarray, "run observation k"]:
    """Return the squared distance of every observation to every centre."""
    products = values @ centres.transpose(0, 2, 1)
    squares = (values**2).sum(axis=-1)[..., None] - 2 * products + (centres**2).sum(axis=-1)[:, None]
    return np.maximum(squares, 0)
