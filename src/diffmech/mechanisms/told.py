"""What the image causes and what telling causes: effects that add up to the raw difference between the domains. Ours.

Each image is told that it is of the first domain, of the second, and nothing, with all attributes left open. With
m(i, t) the mean of some quantity over the images of domain i that are told t, and r one and the same condition (told
nothing; where the denoiser cannot be told that, of the first domain),

    image       = m(1, r) - m(2, r)
    told        = [m(1, 1) - m(1, 2) + m(2, 1) - m(2, 2)] / 2
    interaction = [m(1, 1) + m(1, 2)] / 2 - m(1, r) - [m(2, 1) + m(2, 2)] / 2 + m(2, r)

add up to m(1, 1) - m(2, 2), each image told what it is. The interaction is how much more being told anything changes
the images of the first domain than those of the second; that a head answers to images which agree with what is told of
them, m(1, 1) - m(1, 2) - m(2, 1) + m(2, 2), cancels in the raw difference and is no part of it. Each is a difference of
two means over images, mean(a) - mean(b): of `image` and `interaction` the null is that the labels of the domains are
exchangeable, of `told` that telling an image the one or the other is, so that the sign of its difference is random.
Images of the same number have the same noise in both domains, so that what telling does to them is alike: they get one
sign, and are resampled together (`paired`). Of the other two effects that noise cancels in part, and their nulls, which
take it for independent, are on the safe side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from diffmech.artifacts import open_store
from diffmech.config.study import NOTHING
from diffmech.data.groups import GroupTables
from diffmech.errors import StoreError
from diffmech.mechanisms.captured import open_domains, open_untrained

IMAGE, TOLD, INTERACTION, RAW = "image", "told", "interaction", "raw"
EFFECTS = (IMAGE, TOLD, INTERACTION)

Files = Mapping[str, Mapping[str, Sequence[Path | str]]]


@dataclass(frozen=True)
class Cells:
    """Opened captures by what is told, then domain: `trees` of the denoiser, `copies` of its untrained twins.

    `seen` says, by what is told and domain, which of the images the twins saw.
    """

    trees: Mapping[str, Mapping[str, xr.DataTree]]
    copies: Mapping[str, Mapping[str, xr.DataTree]]
    seen: Mapping[str, Mapping[str, Int[np.ndarray, "_seen"]]]
    domains: tuple[str, str]

    def seen_by_twins(self, effect: str) -> dict[str, Int[np.ndarray, "_seen"]]:
        """Return, by domain, which of the images the twins saw under every telling that an effect compares."""
        told = [self.reference] if effect == IMAGE else list(self.trees)
        return {domain: reduce(np.intersect1d, [self.seen[name][domain] for name in told]) for domain in self.domains}

    @property
    def reference(self) -> str:
        """The one condition under which images are compared: told nothing, else to be of the first domain."""
        return NOTHING if NOTHING in self.trees else self.domains[0]


def open_cells(files: Files, copies: Files, domains: Sequence[str], groups: GroupTables | None = None) -> Cells:
    """Open what was observed under each telling; what a denoiser cannot be told has stores without images.

    `groups` (tables by domain) say which images belong together.

    Raises StoreError where nothing is left of one domain, or where captures do not fit together.
    """
    first, second = domains
    told = [name for name, stores in files.items() if all(map(_any_images, stores.values()))]
    if not told:
        raise StoreError(f"{files[NOTHING][first][0]}: there are no images of one of the domains; check the data sets")
    trees, twins, seen = {}, {}, {}
    for name in told:
        of_name = {domain: [Path(file) for file in files[name][domain]] for domain in domains}
        trees[name] = open_domains(of_name, groups)
        twins[name], seen[name] = open_untrained(
            {domain: Path(copies[name][domain][0]) for domain in domains}, trees[name]
        )
    return Cells(trees, twins, seen, (first, second))


def _any_images(files: Sequence[Path | str]) -> bool:
    return any(open_store(file, chunks={}).sizes["sample"] for file in files)


def contrasts(
    values: Mapping[str, Mapping[str, Float[np.ndarray, "..."]]], domains: Sequence[str], reference: str
) -> dict[str, tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]]:
    """Return by effect `a` and `b`, of the images of the two domains, whose means differ by that effect.

    `values` by what is told and domain are (..., sample, ...), the same images under each telling. Without both
    domains told there is the effect of the image alone.
    """
    first, second = domains
    found = {IMAGE: (values[reference][first], values[reference][second])}
    if not {first, second} <= set(values):
        return found
    (a1, b1), (a2, b2) = ((values[told][first], values[told][second]) for told in (first, second))
    found[TOLD] = ((a1 - a2) / 2, -(b1 - b2) / 2)
    found[INTERACTION] = (
        (a1 + a2) / 2 - values[reference][first],
        (b1 + b2) / 2 - values[reference][second],
    )
    return found


def paired(
    contrast: tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]],
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Return a contrast of the same effect in which the pair (a_i, b_i) of one number is one unit: a - b, and nothing.

    So whatever resamples units or flips their signs does it to both images of a pair at once.
    """
    a, b = contrast
    return a - b, np.zeros_like(b)
