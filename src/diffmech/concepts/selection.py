"""Which weights an edit changes: those of the highest scores in each unit of a granularity.

A unit is a row of a matrix (the inputs of one output, as in CAD, arXiv 2412.02542), a matrix, an attention head (its
rows of queries, keys and values, its columns of the output), all heads of a mechanism, or all weights together. A dose
below 1 is a share of each unit, rounded down, as the released code does it: int(0.001 * 640) is 0, so what is reported
is the realised count. Of each unit only weights whose score is not negative are taken, as there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from diffmech.concepts.groups import Weight
from diffmech.config.studies.concepts import Granularity
from diffmech.errors import ConfigError, ModelError

# Units are heads, or by `groups.by_mechanism` mechanisms.
BY_HEADS = ("head", "mechanism")


@dataclass(frozen=True)
class Selection:
    """Chosen weights: ascending positions in each flattened tensor, and how many units got none by rounding down."""

    indices: dict[str, np.ndarray]
    units: int
    rounded_to_zero: int

    @property
    def count(self) -> int:
        """The realised number of weights."""
        return sum(len(positions) for positions in self.indices.values())


def select(
    scores: Mapping[str, Tensor],
    weights: Sequence[Weight],
    *,
    granularity: Granularity,
    dose: float,
    where: str = "concepts.edits",
) -> Selection:
    """Return the weights of the highest scores; `scores` have the shapes of `weights`, by name.

    Equal scores are taken in the order of the weights. Raises ConfigError where the dose comes to no weight at all, and
    ModelError where no weight belongs to a head.
    """
    heads: dict[str, int] = {}
    chosen: dict[str, np.ndarray] = {}
    sizes: list[np.ndarray] = []
    for part in _compared(weights, granularity):
        values, unit = _flat(scores, part), _units(part, granularity, heads)
        of = np.bincount(unit[unit >= 0]) if (unit >= 0).any() else np.empty(0, dtype=np.int64)
        wanted = np.array([int(dose * size) for size in of]) if dose < 1 else np.minimum(of, int(dose))
        taken = highest(values, unit, wanted)
        chosen |= _by_weight(taken[values[taken] >= 0], part)
        sizes.append(wanted)
    asked = np.concatenate(sizes)
    if not len(asked):
        what = "attention head of a mechanism" if granularity == "mechanism" else "attention head"
        raise ModelError(f"{where}: no weight of these groups belongs to one {what}; take another granularity")
    selection = Selection(chosen, len(asked), int((asked == 0).sum()))
    if selection.count == 0:
        if asked.any():
            why = "no score there is positive"
        else:
            largest = _largest(weights, granularity)
            why = f"rounded down it is 0 in each of {len(asked)} units, the largest of which has {largest}"
        raise ConfigError(f"{where}: the dose {dose:g} by {granularity} changes no weight: {why}")
    return selection


def equally_many(
    scores: Mapping[str, Tensor],
    weights: Sequence[Weight],
    indices: Mapping[str, np.ndarray],
    *,
    granularity: Granularity,
) -> dict[str, np.ndarray]:
    """Return the positions of the highest scores, as many in each unit as `indices` has there, whatever their sign."""
    heads: dict[str, int] = {}
    chosen: dict[str, np.ndarray] = {}
    for part in _compared(weights, granularity):
        unit = _units(part, granularity, heads)
        there = np.concatenate(
            [np.isin(np.arange(weight.parameter.numel()), indices.get(weight.name, ())) for weight in part]
        )
        if there.any():
            wanted = np.bincount(unit[there], minlength=unit.max() + 1)
            chosen |= _by_weight(highest(_flat(scores, part), unit, wanted), part)
    return chosen


def units_of(weight: Weight, granularity: Granularity, heads: dict[str, int]) -> np.ndarray:
    """Return the number of the unit of each entry of the flattened `weight`, -1 of those that belong to none.

    `heads` numbers the heads met so far and is added to.
    """
    shape = tuple(weight.parameter.shape)
    size = int(np.prod(shape))
    if granularity == "row":
        # a norm scales each channel by one number: they are the inputs of one row, as the matrix of them is diagonal
        return np.repeat(np.arange(shape[0]), size // shape[0]) if len(shape) > 1 else np.zeros(size, dtype=np.int64)
    if granularity not in BY_HEADS:
        return np.zeros(size, dtype=np.int64)
    if not weight.heads:
        return np.full(size, -1, dtype=np.int64)
    numbers = np.array([heads.setdefault(head, len(heads)) if head else -1 for head in weight.heads])
    return np.tile(numbers, shape[0]) if weight.out else np.repeat(numbers, size // shape[0])


def highest(values: np.ndarray, unit: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the ascending positions of the `wanted` `(unit,)` highest `values` of each unit.

    `unit` `(value,)` numbers units from 0, -1 for none. Of equal values the first are taken.
    """
    sizes = np.bincount(unit[unit >= 0], minlength=len(wanted))
    order = np.lexsort((-values, unit))[(unit < 0).sum() :]  # stable, so that equal values keep their order
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < wanted[unit[order]]])


def _compared(weights: Sequence[Weight], granularity: Granularity) -> list[list[Weight]]:
    """Return the weights whose units may lie in several tensors together, others one by one."""
    return [list(weights)] if granularity in ("global", *BY_HEADS) else [[weight] for weight in weights]


def _flat(scores: Mapping[str, Tensor], part: Sequence[Weight]) -> np.ndarray:
    return np.concatenate([scores[weight.name].reshape(-1).double().cpu().numpy() for weight in part])


def _units(part: Sequence[Weight], granularity: Granularity, heads: dict[str, int]) -> np.ndarray:
    return np.concatenate([units_of(weight, granularity, heads) for weight in part])


def _by_weight(taken: np.ndarray, part: Sequence[Weight]) -> dict[str, np.ndarray]:
    ends = np.cumsum([weight.parameter.numel() for weight in part])
    starts = np.append(0, ends[:-1])
    own = {
        weight.name: taken[(taken >= start) & (taken < end)] - start
        for weight, start, end in zip(part, starts, ends, strict=True)
    }
    return {name: positions for name, positions in own.items() if len(positions)}


def _largest(weights: Sequence[Weight], granularity: Granularity) -> int:
    heads: dict[str, int] = {}
    numbers = [_units(part, granularity, heads) for part in _compared(weights, granularity)]
    return max(int(np.bincount(unit[unit >= 0]).max()) for unit in numbers if (unit >= 0).any())
