"""Where the statistics of passes wait until all passes of a chunk of the store have given theirs. Ours."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch

from diffmech.attention.archive import Region
from diffmech.attention.layout import LOSS, SiteLayout
from diffmech.attention.scratch import SMALLEST, scratch

# A site and a variable; the loss belongs to the root of the store.
Key = tuple[str, str]
LOSS_KEY: Key = ("", "loss")

# Results start at multiples of a cache line.
ALIGNMENT = 64

# By variable of one site, the shape of one pass and the type.
_Kinds = dict[str, tuple[tuple[int, ...], np.dtype]]


class ChunkResults:
    """What passes of one chunk find, handed to `write` site by site, as soon as the last of them has come.

    `passes` says which they are: (samples,), or (samples, timesteps). Where one batch is a whole chunk, what one site
    found is written while the model goes on to the next, and nothing is held for longer.
    """

    def __init__(
        self, layouts: Iterable[SiteLayout], passes: tuple[slice, ...], write: Callable[[Key, np.ndarray], None]
    ) -> None:
        self._first = [some.start for some in passes]
        self._shape = [some.stop - some.start for some in passes]
        self._write = write
        kinds = {site.name: _kinds(site) for site in layouts} | {LOSS_KEY[0]: {LOSS_KEY[1]: ((), np.dtype(LOSS.dtype))}}
        self._together = {site: part for part in _parts(kinds, math.prod(self._shape)) for site in part}
        self._waiting: dict[str, dict[str, np.ndarray]] = {}
        self._there: dict[str, np.ndarray] = {}

    def fill(self, passes: Region, site: str, found: Mapping[str, np.ndarray]) -> None:
        """Take what some of the passes found at one site, by variable; "" is the root of the store.

        What is brought once more, since memory ran out in the middle of a pass, is the same and changes nothing.
        """
        if site not in self._there:
            kinds = self._together[site]
            self._waiting |= _empty(kinds, self._shape)
            self._there |= {name: np.zeros(self._shape, bool) for name in kinds}
        if site not in self._waiting:
            return
        part = tuple(
            slice(some.start - first, some.stop - first) if isinstance(some, slice) else some - first
            for some, first in zip(passes, self._first, strict=True)
        )
        for name, values in found.items():
            self._waiting[site][name][part] = values
        self._there[site][part] = True
        if self._there[site].all():
            whole = self._waiting.pop(site)
            for name in list(whole):
                self._write((site, name), whole.pop(name))  # nothing here refers to it any more


def _kinds(site: SiteLayout) -> _Kinds:
    return {
        name: (tuple(site.sizes[dim] for dim in variable.dims), np.dtype(variable.dtype))
        for name, variable in site.variables.items()
    }


def _parts(kinds: Mapping[str, _Kinds], passes: int) -> list[dict[str, _Kinds]]:
    """Return sites that follow each other in parts that are large enough for pages of their own."""
    parts: list[dict[str, _Kinds]] = [{}]
    size = 0
    for site, of_site in kinds.items():
        if size >= SMALLEST:
            parts.append({})
            size = 0
        parts[-1][site] = of_site
        size += passes * sum(math.prod(shape) * dtype.itemsize for shape, dtype in of_site.values())
    return parts


def _empty(kinds: Mapping[str, _Kinds], passes: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
    """Return arrays to fill (passes..., ...) by site and variable: parts of one block.

    Hundreds of small arrays that outlive a pass would tear the heap on which the next one wants its large ones.
    """
    wanted = [(site, name, (*passes, *shape), dtype) for site in kinds for name, (shape, dtype) in kinds[site].items()]
    lengths = [math.prod(shape) * dtype.itemsize for _, _, shape, dtype in wanted]
    starts = [0, *itertools.accumulate(-(-length // ALIGNMENT) * ALIGNMENT for length in lengths)]
    block = scratch([starts[-1]], torch.uint8, torch.device("cpu")).numpy()
    empty: dict[str, dict[str, np.ndarray]] = {site: {} for site in kinds}
    for (site, name, shape, dtype), start in zip(wanted, starts, strict=False):
        empty[site][name] = np.ndarray(shape, dtype, block, start)
    return empty
