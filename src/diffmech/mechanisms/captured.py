"""The view of captured attention that every analysis here shares: one site, one timestep, plain arrays.

Reading one timestep of one site at a time keeps memory independent of the number of sites and timesteps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from diffmech.attention.store import conditional, open_attention
from diffmech.data.groups import UNIT, GroupTables, groups_of
from diffmech.errors import StoreError
from diffmech.statistics.units import Groups, codes, first_units, number_of_units

SPATIAL_QUANTITIES = ("distance", "self_mass", "neighbourhood_mass", "mirror_mass")
MASSES = ("self_mass", "neighbourhood_mass", "mirror_mass")
# Tokens of a prompt differ from sample to sample; these groups of them do not. Ours.
START, WORDS, PADDING = "start of text", "words", "end and padding"
TOKEN_GROUPS = (START, WORDS, PADDING)
# What tokenizers put before and after a text.
BEFORE_TEXT, AFTER_TEXT = ("<|startoftext|>", "<s>", "<bos>"), ("<|endoftext|>", "</s>", "<pad>", "<eos>", "!")


@dataclass(frozen=True)
class Site:
    """One attention site: its heads, and the keys they choose from: a grid of positions, or tokens.

    `tokens` are the names of the tokens, or, where each sample has its own prompt (`prompted`), of groups of them.
    Where text or extra tokens stand beside the image's, places are studied among the image tokens.
    """

    name: str
    kind: str
    heads: tuple[str, ...]
    keys: int
    grid: tuple[int, int]
    tokens: tuple[str, ...]
    prompted: bool = False

    @property
    def spatial(self) -> bool:
        """Whether the keys are positions of the image."""
        return self.kind != "cross"


def open_domains(
    paths: Mapping[str, Path | Sequence[Path]], groups: GroupTables | None = None
) -> dict[str, xr.DataTree]:
    """Open the captured attention of each domain, of guided passes the conditional one.

    `groups` are the tables of groups of those domains that have any; `units_of` tells them of a tree. Raises StoreError
    unless all have the same sites and timesteps, and where images lack a group or are of one only.
    """
    trees = {domain: conditional(open_attention(files)) for domain, files in paths.items()}
    for domain, tree in trees.items():
        known = groups_of(groups or {}, domain, tree.coords["sample"].values)
        trees[domain] = tree if known is None else _with_units(tree, codes(known))
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
) -> tuple[dict[str, xr.DataTree], dict[str, Int[np.ndarray, "seen"]]]:
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
        if (units := units_of(tree)) is not None:
            twins[domain] = _with_units(twin, units[positions[domain]])
    return twins, positions


def units_of(tree: xr.DataTree, samples: Int[np.ndarray, "sample"] | None = None) -> Groups:
    """Return which unit each sample of a capture, or those at positions `samples`, belongs to; None without groups."""
    if UNIT not in tree.coords:
        return None
    units = np.asarray(tree.coords[UNIT].values)
    return units if samples is None else units[samples]


def as_many_units(
    trees: Mapping[str, xr.DataTree], samples: Mapping[str, Int[np.ndarray, "_sample"]], most: int
) -> tuple[dict[str, Int[np.ndarray, "_sample"]], int]:
    """Return the positions of the samples of as many units in each domain, the first, at most `most`, and how many."""
    units = {domain: units_of(tree, samples[domain]) for domain, tree in trees.items()}
    n = min(most, *(number_of_units(len(samples[domain]), units[domain]) for domain in trees))
    return {
        domain: positions[first_units(units[domain], len(positions), n)] for domain, positions in samples.items()
    }, n


def _with_units(tree: xr.DataTree, units: np.ndarray) -> xr.DataTree:
    marked = tree.copy()
    marked.coords[UNIT] = ("sample", units)
    return marked


def sites_of(tree: xr.DataTree) -> list[Site]:
    """Return the sites of a capture, in its order. Raises StoreError for a video, whose places are not on one image."""
    sites = []
    for name, node in tree.children.items():
        keys, kind = int(node.attrs["n_keys"]), str(node.attrs["kind"])
        grid = tuple(int(side) for side in node.attrs["grid"])
        if len(grid) != 2:
            raise StoreError(
                f"{name}: its queries are laid out as {' x '.join(map(str, grid))} (frames, height, width); mechanisms "
                "are studied on single images"
            )
        heads = tuple(map(str, node.coords["head"].values))
        prompted = "token" in node.coords and node.coords["token"].ndim == 2
        tokens = tuple(f"token {index}" for index in range(keys))
        if prompted:
            tokens = TOKEN_GROUPS
        elif "token" in node.coords:
            tokens = tuple(map(str, node.coords["token"].values))
        sites.append(Site(name, kind, heads, keys, grid, tokens if kind == "cross" else (), prompted))
    return sites


def token_groups(tree: xr.DataTree, site: Site) -> Int[np.ndarray, "sample key"] | None:
    """Return which of TOKEN_GROUPS each key belongs to; None where tokens are the same for all."""
    if site.spatial or not site.prompted:
        return None
    tokens = np.array(tree.children[site.name].coords["token"].values.tolist())
    return np.where(np.isin(tokens, BEFORE_TEXT), 0, np.where(np.isin(tokens, AFTER_TEXT), 2, 1))


def timesteps_of(tree: xr.DataTree) -> list[int]:
    """Return the captured timesteps."""
    return [int(timestep) for timestep in tree.coords["timestep"].values]


def read_quantities(tree: xr.DataTree, site: Site) -> dict[int, dict[str, Float[np.ndarray, "*twin sample head"]]]:
    """Return, by timestep and name, what a site has per head, float32.

    It is little, so it is read in one go: each read of a lazy array costs milliseconds.
    """
    names = ["entropy", "position_information", *(SPATIAL_QUANTITIES if site.spatial else ())]
    dataset = tree.children[site.name].dataset
    loaded = dataset[names].transpose("timestep", ..., "head").load()
    arrays = {name: loaded[name].values.astype(np.float32) for name in names}
    if site.spatial and "part_mass" in dataset:  # as shares of the attention on the image, as where it is alone
        image = dataset["part_mass"].sel(part="image->image").transpose("timestep", ..., "head").values
        arrays |= {name: np.divide(arrays[name], image, where=image > 0, out=np.zeros_like(image)) for name in MASSES}
    return {
        timestep: {name: array[position] for name, array in arrays.items()}
        for position, timestep in enumerate(timesteps_of(tree))
    }


def mass_beside(tree: xr.DataTree) -> Float[np.ndarray, "sample timestep head"]:
    """Return how much of the attention of the image's queries goes to tokens beside the image's, in float64.

    These are the text of joint attention, or extra tokens; NaN for heads of sites that have neither.
    """
    shares = []
    for site in sites_of(tree):
        dataset, shape = tree.children[site.name].dataset, (tree.sizes["sample"], tree.sizes["timestep"])
        share = np.full((*shape, len(site.heads)), np.nan)
        if "part_mass" in dataset:
            to_rest = [part for part in map(str, dataset["part"].values) if part in ("image->text", "image->extra")]
            share[:] = dataset["part_mass"].sel(part=to_rest[0]).transpose("sample", "timestep", "head").values
        shares.append(share)
    return np.concatenate(shares, axis=-1)


def read(
    tree: xr.DataTree, site: Site, quantity: str, timestep: int, *, samples: Int[np.ndarray, "sample"] | None = None
) -> Float[np.ndarray, "..."]:
    """Return `quantity` of one site at one timestep as float32, ([twin,] sample, head, ...).

    What keys receive is, where text or extra tokens stand beside the image's, that of these, relative to their mean.
    """
    array = tree.children[site.name].dataset[quantity].isel(timestep=timesteps_of(tree).index(timestep))
    if samples is not None:
        array = array.isel(sample=samples)
    if "key_range" in array.coords:
        array = array.isel(key=np.flatnonzero(array["key_range"].values == "image")).astype(np.float32)
        array = array / array.mean("key")
    return np.asarray(array.values, dtype=np.float32)
