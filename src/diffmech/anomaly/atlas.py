"""The healthy brain at each position: mean and variance of each pixel over slices without a lesion. Ours.

A slice counts by a Gaussian of how far its position is from the one that is asked for. Pixels outside of its brain do
not count, and where few slices have any, the brain as a whole does. Where positions are not known, all slices count
alike.
"""

import numpy as np

from diffmech.anomaly.slices import Slices

NEAR = 0.05  # standard deviation, in position, of the weights of slices
LEAST_DEVIATION = 0.05  # of the intensity of a pixel, added in squares: there may be few slices
ANYWHERE = 0.02  # weight of the brain anywhere in the slice, beside slices of a weight of 1: for pixels with few slices
FAR = 1e-6  # weight of a slice however far it is, so that no position is without any


def healthy_atlas(normal: Slices, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance of each pixel at `positions` `(position,)`, each float32
    `(position, modality, y, x)`; NaN is a position that is not known. `normal` are slices without a lesion."""
    count, modalities = normal.images.shape[:2]
    inside = normal.brain.reshape(count, 1, -1).astype(np.float32)
    values = normal.images.reshape(count, modalities, -1)
    moments = np.concatenate([inside, inside * values, inside * values**2], axis=1).reshape(count, -1)
    distances = np.nan_to_num(positions[:, None] - normal.position, nan=0.0)
    weights = np.exp(-0.5 * (distances / NEAR) ** 2) + FAR
    weights /= weights.sum(1, keepdims=True)
    sums = (weights.astype(np.float32) @ moments).reshape(len(positions), 1 + 2 * modalities, -1)
    anywhere = sums.sum(-1, keepdims=True)
    sums += ANYWHERE * anywhere / np.maximum(anywhere[:, :1], FAR)
    mean = sums[:, 1 : 1 + modalities] / sums[:, :1]
    variance = np.maximum(sums[:, 1 + modalities :] / sums[:, :1] - mean**2, 0) + LEAST_DEVIATION**2
    shape = (len(positions), modalities, *normal.images.shape[2:])
    return mean.reshape(shape), variance.reshape(shape)
