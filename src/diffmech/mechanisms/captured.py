"""The view of captured attention that every analysis here shares: one site, one timestep, plain arrays.

Reading one timestep of one site at a time keeps memory independent of the number of sites and timesteps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from diffmech.attention.store import open_attention
from diffmech.errors import StoreError

SPATIAL_QUANTITIES = ("distance", "self_mass", "neighbourhood_mass", "mirror_mass")


@dataclass(frozen=True)
class Site:
    """One attention site: its heads, and the keys they choose from (a grid of positions, or named tokens)."""

    name: str
    kind: str
    heads: tuple[str, ...]
    keys: int
    grid: tuple[int, int]
    tokens: tuple[str, ...]

    @property
    def spatial(self) -> bool:
        """Whether the keys are positions of the image."""
        return self.kind == "self"


def open_domains(paths: Mapping[str, Path | Sequence[Path]]) -> dict[str, xr.DataTree]:
    """Open the captured attention of each domain; StoreError unless all have the same sites and timesteps."""
    trees = {domain: open_attention(files) for domain, files in paths.items()}
    (first_domain, first), *others = trees.items()
    for domain, tree in others:
        if sites_of(tree) != sites_of(first) or timesteps_of(tree) != timesteps_of(first):
            raise StoreError(
                f"the captures of {domain!r} and {first_domain!r} differ in sites or timesteps; "
                "capture both with one model and one list of timesteps"
            )
    return trees


def open_untrained(
    paths: Mapping[str, Path], trained: Mapping[str, xr.DataTree]
) -> tuple[dict[str, xr.DataTree], dict[str, np.ndarray]]:
    """Open the untrained twins, and return with them the positions, among the trained samples, of those they saw.

    StoreError where twins lack a site, a timestep or all samples of the trained capture.
    """
    twins = {domain: open_attention(path) for domain, path in paths.items()}
    positions = {}
    for domain, tree in trained.items():
        twin = twins[domain]
        if sites_of(twin) != sites_of(tree) or not set(timesteps_of(tree)) <= set(timesteps_of(twin)):
            raise StoreError(f"{paths[domain]}: the untrained twins lack sites or timesteps; capture them anew")
        here, there = tree.coords["sample"].values, twin.coords["sample"].values
        if not np.isin(there, here).all() or not len(there):
            raise StoreError(f"{paths[domain]}: the untrained twins saw samples that were not captured; capture anew")
        positions[domain] = np.flatnonzero(np.isin(here, there))
    return twins, positions


def sites_of(tree: xr.DataTree) -> list[Site]:
    """Return the sites of a capture, in its order."""
    sites = []
    for name, node in tree.children.items():
        tokens = tuple(map(str, node.coords["token"].values)) if "token" in node.coords else ()
        keys = int(node.attrs["n_keys"])
        height, width = (int(side) for side in node.attrs["grid"])
        heads = tuple(map(str, node.coords["head"].values))
        kind = str(node.attrs["kind"])
        named = tokens or tuple(f"token {index}" for index in range(keys))
        sites.append(Site(name, kind, heads, keys, (height, width), () if kind == "self" else named))
    return sites


def timesteps_of(tree: xr.DataTree) -> list[int]:
    """Return the captured timesteps."""
    return [int(timestep) for timestep in tree.coords["timestep"].values]


def read_quantities(tree: xr.DataTree, site: Site) -> dict[int, dict[str, np.ndarray]]:
    """Return, by timestep and name, what a site has per head, float32 ([twin,] sample, head).

    It is little, so it is read in one go: each read of a lazy array costs milliseconds.
    """
    names = ["entropy", "position_information", *(SPATIAL_QUANTITIES if site.spatial else ())]
    loaded = tree.children[site.name].dataset[names].transpose("timestep", ..., "head").load()
    arrays = {name: loaded[name].values.astype(np.float32) for name in names}
    return {
        timestep: {name: array[position] for name, array in arrays.items()}
        for position, timestep in enumerate(timesteps_of(tree))
    }


def read(
    tree: xr.DataTree, site: Site, quantity: str, timestep: int, *, samples: np.ndarray | None = None
) -> np.ndarray:
    """Return `quantity` of one site at one timestep as float32, ([twin,] sample, head, ...)."""
    array = tree.children[site.name].dataset[quantity].isel(timestep=timesteps_of(tree).index(timestep))
    if samples is not None:
        array = array.isel(sample=samples)
    return np.asarray(array.values, dtype=np.float32)
