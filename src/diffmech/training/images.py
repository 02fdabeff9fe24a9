"""The images of all domains as one set to draw training batches from. Ours."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffmech.data.made_again import MadeAgain
from diffmech.data.store import ImageSet, open_dataset
from diffmech.errors import ConfigError, DataError
from diffmech.training.record import is_held_out

IN_MEMORY_BYTES = 2**31  # images above this are read from their store batch by batch


@dataclass(frozen=True)
class Stores:
    """What the data sets of several domains have in common: the union of their attributes, and the shape of an
    image."""

    sets: dict[str, ImageSet]
    attributes: tuple[str, ...]
    sample_shape: tuple[int, int, int]


def describe_stores(datasets: Mapping[str, Path]) -> Stores:
    """Open the stores of the domains. Raises DataError where their images differ in shape."""
    sets = {domain: open_dataset(Path(path)) for domain, path in datasets.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    attributes: dict[str, None] = {}
    for domain, images in sets.items():
        shapes[domain] = tuple(images.images(images.ids[:1]).shape[1:])
        attributes |= dict.fromkeys(images.attributes)
    if len(set(shapes.values())) != 1:
        raise DataError(
            f"the domains have images of different shapes, {shapes}; prepare both by the same `images` section"
        )
    channels, height, width = next(iter(shapes.values()))
    return Stores(sets, tuple(attributes), (channels, height, width))


def attribute_values(
    images: ImageSet | MadeAgain, ids: Sequence[int] | np.ndarray, attributes: Sequence[str]
) -> np.ndarray:
    """Return float32 `(sample, attribute)` in the order of `attributes`, NaN for those that the data set does not
    have."""
    values = np.full((len(ids), len(attributes)), np.nan, dtype=np.float32)
    known = images.attribute_values(ids) if images.attributes else values[:, :0]
    for column, name in enumerate(images.attributes):
        if name in attributes:
            values[:, attributes.index(name)] = known[:, column]
    return values


@dataclass(frozen=True)
class Drawn:
    """Images `(sample, channel, y, x)`, the number of the domain of each `(sample,)`, and its attributes
    `(sample, attribute)`, NaN where they are not known."""

    images: Tensor
    domain: Tensor
    values: Tensor


class TrainingImages:
    """The images of all domains that are not held out, in memory where they fit.

    Every `holdout`-th is. `shares` are those of the domains in a batch, equal ones where it is None; images of the
    domains `flip` are mirrored at random. `section` is how config.yaml calls what these are from. Raises DataError or
    ConfigError for data sets that do not go together with each other or with these settings.
    """

    def __init__(
        self,
        datasets: Mapping[str, Path],
        *,
        batch_size: int,
        holdout: int,
        shares: Mapping[str, float] | None = None,
        flip: Collection[str] = (),
        section: str = "training",
        in_memory_bytes: int = IN_MEMORY_BYTES,
    ) -> None:
        stores = describe_stores(datasets)
        self.attributes, self.sample_shape = stores.attributes, stores.sample_shape
        self.domains, self.batch_size = tuple(datasets), batch_size
        self._sets = list(stores.sets.values())
        self._ids = [_kept(domain, images.ids, holdout, section) for domain, images in stores.sets.items()]
        self._shares = _shares(self.domains, shares, section)
        self._flipped = torch.tensor([domain in flip for domain in self.domains])
        pairs = list(zip(self._sets, self._ids, strict=True))
        self._values = [torch.from_numpy(attribute_values(s, ids, self.attributes)) for s, ids in pairs]
        size = 4 * sum(map(len, self._ids)) * int(np.prod(self.sample_shape))
        fits = size <= in_memory_bytes
        self._images = [torch.from_numpy(np.asarray(s.images(ids))) for s, ids in pairs] if fits else None

    def draw_images(self, source: torch.Generator) -> Drawn:
        """Return a batch drawn from `source`."""
        n = self.batch_size
        domain = torch.multinomial(self._shares, n, replacement=True, generator=source)
        position = torch.rand(n, generator=source)
        images = torch.empty(n, *self.sample_shape)
        values = torch.empty(n, len(self.attributes))
        for index, ids in enumerate(self._ids):
            rows = (domain == index).nonzero()[:, 0]
            chosen = (position[rows] * len(ids)).long().clamp(max=len(ids) - 1)
            images[rows] = self._read(index, chosen)
            values[rows] = self._values[index][chosen]
        mirrored = (torch.rand(n, generator=source) < 0.5) & self._flipped[domain]
        return Drawn(torch.where(mirrored[:, None, None, None], images.flip(-1), images), domain, values)

    def _read(self, index: int, chosen: Tensor) -> Tensor:
        if self._images is not None:
            return self._images[index][chosen]
        return torch.from_numpy(np.asarray(self._sets[index].images(self._ids[index][chosen.numpy()])))


def _kept(domain: str, ids: Sequence[int] | np.ndarray, holdout: int, section: str) -> np.ndarray:
    kept = np.asarray(ids)[~is_held_out(ids, holdout)]
    if len(kept) == 0:
        raise DataError(
            f"{section}.holdout {holdout} leaves no image of domain {domain!r} to train on "
            f"({len(ids)} in all); give 0 or a larger number"
        )
    return kept


def _shares(domains: Sequence[str], shares: Mapping[str, float] | None, section: str) -> Tensor:
    if shares is None:
        return torch.ones(len(domains), dtype=torch.float64)
    missing = [domain for domain in domains if domain not in shares]
    if missing:
        raise ConfigError(
            f"{section}.domain_shares: {missing[0]!r} has no share, only {', '.join(map(repr, sorted(shares)))}; "
            "give every domain of the study one"
        )
    return torch.tensor([shares[domain] for domain in domains], dtype=torch.float64)
