"""The independent unit: images, or groups of images that belong together (persons, patients, scenes). Ours.

Images of one person are not independent, so that resampling images gives intervals that are too narrow and p-values
that are too small. Where groups are known, what was measured of the images of a group becomes their mean, and groups
take the place of images in every interval, permutation and sign flip. So every group counts alike, however many images
it has: the estimate is a mean over groups of means over their images, and n is the number of groups. Where groups
differ in size this is not the mean over images.

`groups` are labels `(sample,)` of any kind, or None where each image is a unit of its own: then nothing changes.
"""

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike

Groups = Shaped[np.ndarray, "sample"] | None


def codes(groups: Shaped[np.ndarray, "sample"]) -> Int[np.ndarray, "sample"]:
    """Return the number of the unit of each sample: units are numbered as they first appear."""
    _, first, inverse = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse.reshape(-1)])


def over_units(values: ArrayLike, groups: Groups, *, axis: int = 0) -> Shaped[np.ndarray, "..."]:
    """Return the mean of `values` over the samples of each unit: the axis of samples becomes one of units.

    Units stand in the order in which they first appear. Without `groups` the values are returned as they are. NaN stays
    NaN. Raises ValueError where groups and samples differ in number.
    """
    array = np.asarray(values)
    if groups is None:
        return array
    if len(groups) != array.shape[axis]:
        raise ValueError(f"{len(groups)} groups were given for {array.shape[axis]} samples along axis {axis}")
    order = np.argsort(codes(groups), kind="stable")
    sizes = np.bincount(codes(groups))
    moved = np.moveaxis(array, axis, 0)[order]
    kind = np.result_type(array, np.float32)
    if not len(sizes):
        return np.asarray(array, dtype=kind)
    sums = np.add.reduceat(moved.astype(np.float64), np.append(0, np.cumsum(sizes)[:-1]), axis=0)
    means = sums / sizes.reshape(-1, *([1] * (sums.ndim - 1)))
    return np.asarray(np.moveaxis(means, 0, axis).astype(kind))


def unit_weights(n: int, groups: Groups) -> Float[np.ndarray, "sample"]:
    """Return the weight of each of `n` samples in a mean over units: they sum to 1."""
    count = number_of_units(n, groups)
    return spread(np.full((1, count), 1 / count), groups)[0] if count else np.empty(0)


def spread(weights: Float[np.ndarray, "draw unit"], groups: Groups) -> Float[np.ndarray, "draw sample"]:
    """Return weights of units as weights of samples: a unit's is shared by its samples.

    So `spread(weights, groups) @ values` is `weights @ over_units(values, groups)`.
    """
    if groups is None:
        return weights
    of = codes(groups)
    return np.asarray((weights / np.bincount(of))[:, of])


def number_of_units(n: int, groups: Groups) -> int:
    """Return how many units `n` samples are."""
    return n if groups is None else int(codes(groups).max(initial=-1)) + 1


def first_units(groups: Groups, n: int, count: int) -> Int[np.ndarray, "position"]:
    """Return the positions, among `n` samples, of those of the first `count` units, ascending."""
    return np.arange(min(n, count)) if groups is None else np.flatnonzero(codes(groups) < count)


def halves(n: int, groups: Groups) -> tuple[Int[np.ndarray, "first"], Int[np.ndarray, "second"]]:
    """Return the positions of `n` samples in two halves of the units, none of which is divided.

    The first half holds the units that appear first, and one less than the second where their number is odd.
    """
    first = first_units(groups, n, number_of_units(n, groups) // 2)
    return first, np.setdiff1d(np.arange(n), first)
