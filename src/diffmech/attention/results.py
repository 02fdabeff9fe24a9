"""Where the statistics of passes wait until all passes of a chunk of the store have given theirs. Ours."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Shaped

from diffmech.attention.archive import Region
from diffmech.attention.layout import LOSS, SiteLayout
from diffmech.attention.scratch import SMALLEST, scratch_parts

# A site and a variable; the loss belongs to the root of the store.
Key = tuple[str, str]
LOSS_KEY: Key = ("", "loss")

# By variable of one site, the shape of one pass and the type.
_Kinds = Mapping[str, tuple[Sequence[int], torch.dtype]]


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
        kinds = {site.name: _kinds(site) for site in layouts} | {LOSS_KEY[0]: {LOSS_KEY[1]: _kind((), LOSS.dtype)}}
        self._together = {site: part for part in _parts(kinds, math.prod(self._shape)) for site in part}
        self._waiting: dict[str, dict[str, np.ndarray]] = {}
        self._missing: dict[str, np.ndarray] = {}
        self._written: set[str] = set()

    def fill(self, passes: Region, site: str, found: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Take what some of the passes found at one site, by variable; "" is the root of the store.

        What is brought once more, since memory ran out in the middle of a pass, is the same and changes nothing.
        """
        if site in self._written:
            return
        if site not in self._waiting:
            self._make_room(self._together[site])
        part = tuple(
            slice(some.start - first, some.stop - first) if isinstance(some, slice) else some - first
            for some, first in zip(passes, self._first, strict=True)
        )
        for name, values in found.items():
            self._waiting[site][name][part] = values
        self._missing[site][part] = False
        if not self._missing[site].any():
            self._written.add(site)
            del self._missing[site]
            whole = self._waiting.pop(site)
            for name in list(whole):
                self._write((site, name), whole.pop(name))  # nothing here refers to it any more

    def _make_room(self, sites: Mapping[str, _Kinds]) -> None:
        """Make arrays (passes..., ...) for some sites: parts of one block, as all that outlives a pass should be."""
        wanted = {
            (site, name): ((*self._shape, *shape), dtype)
            for site, kinds in sites.items()
            for name, (shape, dtype) in {**kinds, "": _kind((), "bool")}.items()
        }
        for (site, name), tensor in scratch_parts(wanted, torch.device("cpu")).items():
            if name:
                self._waiting.setdefault(site, {})[name] = tensor.numpy()
            else:
                self._missing[site] = tensor.fill_(True).numpy()


def _kinds(site: SiteLayout) -> _Kinds:
    return {
        name: _kind([site.sizes[dim] for dim in variable.dims], variable.dtype)
        for name, variable in site.variables.items()
    }


def _kind(shape: Sequence[int], dtype: str) -> tuple[Sequence[int], torch.dtype]:
    return shape, getattr(torch, dtype)


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
