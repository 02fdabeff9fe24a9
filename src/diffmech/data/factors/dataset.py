"""The one interface of all data sets of factors, whether they are drawn here or read from files. Ours.

Everything is told by values `(sample, factor)`, float64, in the units of the factors, and by an identity `(sample,)`,
int64: the number of whatever no factor says (whose face, which toy, which photograph), 0 where the factors say all.
Values and identity give the image, always the same one.

    data = DSpritesLike(size=32)
    samples = data.sample(128, generator(seed, "batch", step))     # images, values, identity
    same = data.sample_fixed(64, "scale", generator(...))          # one scale, all else drawn (the FactorVAE score)
    moved = data.change(samples, "x", 0.9)                         # the same pictures, x alone set
    data.images_of(samples.values, samples.identity)               # the images again

`generator` is one of `diffmech.randomness`. `factors` says of each factor whether its values have classes
(`factor.size`, `factor.classes_of`), an order or a period. `graph` says which factor causes which.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from diffmech.data.factors.factor import Factor
from diffmech.errors import DataError


@dataclass(frozen=True)
class Samples:
    """Images float32 `(sample, channel, y, x)` in [0, 1], values float64 `(sample, factor)`, identity `(sample,)`."""

    images: np.ndarray
    values: np.ndarray
    identity: np.ndarray


class FactorData(ABC):
    """A data set of which the factors of every image are known.

    `image_shape` is `(channel, y, x)`; `identities` says how many things differ that no factor says, 1 for none;
    `changeable` says whether there is the same image with another value of one factor.
    """

    name: str
    image_shape: tuple[int, int, int]
    factors: tuple[Factor, ...]
    identities: int = 1
    changeable: bool = True

    @property
    def graph(self) -> np.ndarray:
        """Which factor causes which, bool `(cause, effect)`: none, unless a data set says otherwise."""
        return np.zeros((len(self.factors), len(self.factors)), dtype=bool)

    def place(self, factor: str) -> int:
        """Return the column of `factor` in values. Raises DataError for a name that no factor has."""
        names = [each.name for each in self.factors]
        if factor not in names:
            near = get_close_matches(factor, names, n=1, cutoff=0.0)[0]
            raise DataError(
                f"{self.name}: has no factor {factor!r}; did you mean {near!r}? There are {', '.join(names)}"
            )
        return names.index(factor)

    def draw(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return values `(sample, factor)` and identity `(sample,)` of a draw, without its images."""
        values = np.stack([factor.draw(count, generator) for factor in self.factors], axis=1)
        return values, generator.integers(self.identities, size=count)

    def draw_fixed(
        self, count: int, factor: str, generator: np.random.Generator, value: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and identity of a draw in which `factor` has one value, drawn where none is given."""
        column = self.place(factor)
        values, identity = self.draw(count, generator)
        values[:, column] = self.factors[column].draw(1, generator) if value is None else value
        return values, identity

    def do(self, values: np.ndarray, interventions: Mapping[str, float | np.ndarray]) -> np.ndarray:
        """Return values `(sample, factor)` under do(`interventions`), each a number or `(sample,)`.

        What is set, and nothing else: no factor causes another, unless a data set says otherwise. Raises DataError for
        a factor that does not exist or a value outside its range.
        """
        result = self.checked(values, None)[0].copy()
        for factor, value in interventions.items():
            result[:, self.place(factor)] = value
        return self.checked(result, None)[0]

    @abstractmethod
    def images_of(self, values: np.ndarray, identity: np.ndarray | None = None) -> np.ndarray:
        """Return the images float32 `(sample, channel, y, x)` in [0, 1] of values `(sample, factor)`.

        Raises DataError for values that the data set cannot show.
        """

    def sample(self, count: int, generator: np.random.Generator) -> Samples:
        """Draw `count` images with their values."""
        values, identity = self.draw(count, generator)
        return Samples(self.images_of(values, identity), values, identity)

    def sample_fixed(
        self, count: int, factor: str, generator: np.random.Generator, value: float | None = None
    ) -> Samples:
        """Draw `count` images that share one value of `factor`, which is drawn where none is given.

        Where factors cause each other, the value is set and not waited for: what causes `factor` stays as drawn.
        """
        values, identity = self.draw_fixed(count, factor, generator, value)
        return Samples(self.images_of(values, identity), values, identity)

    def change(self, samples: Samples, factor: str, value: float | np.ndarray) -> Samples:
        """Return the same pictures with `factor` at `value`, a number or `(sample,)`, and nothing else changed."""
        values = samples.values.copy()
        values[:, self.place(factor)] = value
        return Samples(self.images_of(values, samples.identity), values, samples.identity)

    def checked(self, values: np.ndarray, identity: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return values as float64, circular ones within their range, and identity as int64, zeros where None.

        Raises DataError for a shape that does not fit, a value out of range and an identity that does not exist.
        """
        values = np.asarray(values, dtype=float)
        if values.ndim != 2 or values.shape[1] != len(self.factors):
            raise DataError(
                f"{self.name}: values have shape {values.shape}; give one row per image with "
                f"{', '.join(factor.name for factor in self.factors)}"
            )
        values = np.stack([f.wrapped(column) for f, column in zip(self.factors, values.T, strict=True)], axis=1)
        for factor, column in zip(self.factors, values.T, strict=True):
            factor.check(column)
        numbers = np.zeros(len(values), dtype=np.int64) if identity is None else np.asarray(identity, dtype=np.int64)
        if numbers.shape != (len(values),) or (numbers < 0).any() or (numbers >= self.identities).any():
            raise DataError(
                f"{self.name}: identity must be {len(values)} whole numbers below {self.identities}, found shape "
                f"{numbers.shape} with values from {numbers.min(initial=0)} to {numbers.max(initial=0)}"
            )
        return values, numbers
