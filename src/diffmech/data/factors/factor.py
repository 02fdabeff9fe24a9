"""What a generative factor is: its name, its kind and the values that it takes. Ours.

The kind says which values are near each other: `discrete` values have no order, `ordinal` ones are few and ordered,
`continuous` ones are any number of some intervals, and on a `circular` factor the largest value is beside the smallest.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffmech.errors import DataError

Kind = Literal["discrete", "ordinal", "continuous", "circular"]
TOLERANCE = 1e-6  # of the range of a factor: what a value may lose by being written down and read again


@dataclass(frozen=True)
class Factor:
    """One cause of an image. Either `values` says all that it takes, or `intervals` within which it takes any.

    `values` are in the order of their classes, in the unit that `about` names; `labels` are the names of discrete
    ones; `period` is that of a circular factor, in the same unit.
    """

    name: str
    kind: Kind
    about: str
    values: tuple[float, ...] = ()
    intervals: tuple[tuple[float, float], ...] = ()
    labels: tuple[str, ...] = ()
    period: float | None = None

    @property
    def size(self) -> int | None:
        """How many values it takes; None of a factor that takes any within its intervals."""
        return len(self.values) or None

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values) if self.values else self.intervals[0][0]

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values) if self.values else self.intervals[-1][1]

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Return `count` values, float64 `(sample,)`, each value (or each piece of the intervals) equally likely."""
        if self.values:
            return np.array(self.values)[generator.integers(len(self.values), size=count)]
        lows, highs = np.array(self.intervals, dtype=float).T
        at = generator.random(count) * np.sum(highs - lows)
        before = np.concatenate([[0.0], np.cumsum(highs - lows)])
        piece = np.clip(np.searchsorted(before, at, side="right") - 1, 0, len(lows) - 1)
        return lows[piece] + at - before[piece]

    def classes_of(self, values: np.ndarray) -> np.ndarray:
        """Return the numbers of the classes, int64 `(sample,)`, of values that are among `values`.

        Raises DataError for another value, and for a factor that takes any value within intervals.
        """
        if not self.values:
            raise DataError(f"factor {self.name!r} is continuous and has no classes; cut it into bins first")
        order = np.argsort(self.values)
        known = np.array(self.values)[order]
        given = self.wrapped(np.asarray(values, dtype=float))
        right = np.clip(np.searchsorted(known, given), 1, max(len(known) - 1, 1))
        left = right - 1
        right = np.minimum(right, len(known) - 1)
        nearest = np.where(np.abs(known[left] - given) <= np.abs(known[right] - given), left, right)
        # `not below`, so that NaN is among the wrong ones
        wrong = ~(np.abs(known[nearest] - given) <= TOLERANCE * (self.high - self.low or 1))
        if wrong.any():
            raise DataError(
                f"factor {self.name!r}: {given[wrong][0]:g} is none of its {len(known)} values "
                f"({known[0]:g} to {known[-1]:g}); give one of them"
            )
        return order[nearest].astype(np.int64)

    def wrapped(self, values: np.ndarray) -> np.ndarray:
        """Return values of a circular factor that lie outside its range a number of periods further, within."""
        if self.period is None:
            return values
        slack = TOLERANCE * self.period
        inside = (values >= self.low - slack) & (values <= self.high + slack)
        return np.where(inside, values, self.low + (values - self.low) % self.period)

    def check(self, values: np.ndarray) -> None:
        """Raise DataError where a value `(sample,)` lies outside the range, or is none of those of a discrete factor.

        A value between two of an ordinal factor, or in a gap between intervals, can be drawn and is let through.
        """
        if self.kind == "discrete":
            self.classes_of(values)
            return
        high = self.high if self.period is None else self.low + self.period
        slack = TOLERANCE * (high - self.low)
        outside = ~((values >= self.low - slack) & (values <= high + slack))
        if outside.any():
            raise DataError(
                f"factor {self.name!r}: {values[outside][0]:g} lies outside its range, {self.low:g} to "
                f"{high:g}; give a value within"
            )


def spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return `count` equally spaced values from `low` to `high`, both among them."""
    return tuple(float(value) for value in np.linspace(low, high, count))
