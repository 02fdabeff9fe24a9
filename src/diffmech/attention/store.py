"""Reading attention stores: all shards (samples) and blocks (timesteps) of a study as one lazy, labelled tree.

One job writes one file and readers join them: nothing is ever merged on disk, so a study grows by adding files. Needs
neither the model nor torch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from diffmech.artifacts import open_store
from diffmech.attention.factors import with_maps
from diffmech.errors import StoreError

# What the files of one tree must agree on, in words for the message.
SHARED_ATTRS = {
    "model_sha256": "model",
    "dataset": "data set",
    "domain": "domain",
    "condition": "condition",
    "seed": "noise seed",
    "untrained_seed": "untrained seed",
}


def open_attention(paths: Path | str | Iterable[Path | str]) -> xr.DataTree:
    """Open one store, all stores below a folder, or a list of stores as one lazy tree (dask arrays).

    The root has `loss` (sample, timestep); each site is a group with quantities (sample, timestep, head, ...), units
    and coordinates, e.g. `tree["down1.0.self"].sel(head="down1.0.self.h03", timestep=500)`. `maps` (kept_sample,
    timestep, head, query, key) are read where they are stored and computed where factors are; those of timesteps at
    which neither was kept are NaN. Raises StoreError where a store is missing or not whole, where the files are not of
    one model, data set, condition and seed, where two hold the same passes, and where passes are missing.
    """
    files = _files(paths)
    trees = {file: open_store(file, chunks={}) for file in files}
    for file, tree in trees.items():
        if "loss" not in tree or not {"sample", "timestep"} <= set(tree.dims):
            raise StoreError(
                f"{file}: is not an attention store, it has no loss per sample; give results/attention/..."
            )
    # Shards beyond the end of a small data set are empty.
    filled = {file: with_maps(tree, file) for file, tree in trees.items() if tree.sizes["sample"]}
    if not filled:
        raise StoreError(f"{files[0]}: holds no samples, like all {len(files)} stores here; check the data set's size")
    _check_same_study(filled)
    blocks: dict[tuple[int, ...], dict[Path, xr.DataTree]] = {}
    for file, tree in filled.items():
        blocks.setdefault(tuple(_coordinate(tree, "timestep")), {})[file] = tree
    _check_complete(blocks)
    rows = [
        sorted(shards.values(), key=lambda tree: _coordinate(tree, "sample")[0])
        for _, shards in sorted(blocks.items(), key=lambda item: item[0])
    ]
    first = rows[0][0]
    nodes = {"/": _join([[tree.to_dataset() for tree in row] for row in rows], first.attrs)}
    # In the order of the network, which a directory does not keep.
    for name in first.attrs["sites"]:
        shards_of_site = [[tree.children[name].to_dataset(inherit=True) for tree in row] for row in rows]
        site = _join(shards_of_site, first.children[name].attrs)
        # Coordinates of samples and timesteps live in the root, from where every site inherits them.
        nodes[f"/{name}"] = site.drop_vars([dim for dim in ("twin", "sample", "timestep") if dim in site.coords])
    return xr.DataTree.from_dict({path: _with_coordinates_read(dataset) for path, dataset in nodes.items()})


def heads_in_order(paths: Iterable[Path | str]) -> dict[str, tuple[str, ...]]:
    """Return the heads of every site, in the order in which the network ran them, from the first store with samples.

    Names do not tell that order, and tables are sorted by name. Raises StoreError where no store holds samples.
    """
    tree = _first_filled(paths)
    return {site: tuple(map(str, tree[site].coords["head"].values)) for site in tree.attrs["sites"]}


@dataclass(frozen=True)
class ExtraTokens:
    """The names of the keys of a site that have no place on the image, by where they stand in the order of its keys.

    To `memory` of them no query belongs.
    """

    before: tuple[str, ...]
    behind: tuple[str, ...]
    memory: int

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.before) + len(self.behind)


def extra_tokens_of(paths: Iterable[Path | str]) -> dict[str, ExtraTokens]:
    """Return the extra tokens of every site that has any, in the order of the network. StoreError as above."""
    tree = _first_filled(paths)
    found = {}
    for site in tree.attrs["sites"]:
        node = tree[site].to_dataset()
        ranges = [str(what) for what in node["key_range"].values] if "key_range" in node.coords else []
        if "extra" in ranges:
            tokens, first = [str(name) for name in node["token"].values], ranges.index("image")
            before, behind = (tuple(filter(None, names)) for names in (tokens[:first], tokens[first:]))
            found[site] = ExtraTokens(before, behind, len(ranges) - node.sizes["query"])
    return found


def _first_filled(paths: Iterable[Path | str]) -> xr.DataTree:
    stores = list(paths)
    # Of a shard beyond the end of a small data set nothing ran.
    filled = (tree for tree in map(open_store, stores) if tree.sizes.get("sample"))
    if (tree := next(filled, None)) is None:
        raise StoreError(f"no image was captured in {', '.join(map(str, stores)) or 'no store'}; check the data set")
    return tree


def conditional(tree: xr.DataTree) -> xr.DataTree:
    """Return the tree of the conditional pass where guidance made two of each; any other tree as it is."""
    if "guidance" not in tree.dims:
        return tree
    # the first one: with the null condition it is the unconditional pass, the only one there is
    return tree.map_over_datasets(lambda node: node.isel(guidance=0, missing_dims="ignore"))


def per_sample(tree: xr.DataTree, variable: str, kind: str | None = None) -> xr.DataArray:
    """Return `variable` of all sites (of one `kind`: "self" or "cross") joined along head: (sample, timestep, head).

    Sites that do not have the variable are left out. Raises StoreError when none has it.
    """
    nodes = [node for node in tree.children.values() if kind is None or node.attrs["kind"] == kind]
    found = [node.to_dataset(inherit=True)[variable] for node in nodes if variable in node.data_vars]
    if not found:
        known = sorted({str(name) for node in nodes for name in node.data_vars})
        raise StoreError(f"no {kind or 'attention'} site of this store has {variable!r}; there are {known}")
    heads = [array.reset_coords(drop=True) for array in found]
    joined = xr.concat(heads, "head", coords="minimal", compat="override", join="exact", combine_attrs="override")
    return joined.transpose(..., "head") if joined.dims[-1] != "head" else joined


def _files(paths: Path | str | Iterable[Path | str]) -> list[Path]:
    given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            # Hidden folders are where unfinished stores are being built.
            found = sorted(p for p in path.rglob("*.zarr.zip") if not _hidden(p.relative_to(path)))
            if not found:
                raise StoreError(f"{path}: no *.zarr.zip in this folder; run the workflow's target `attention` first")
            files += found
        else:
            files.append(path)
    if not files:
        raise StoreError("no attention store was given; give a path, a folder or a list of paths")
    return files


def _coordinate(tree: xr.DataTree, name: str) -> list[int]:
    return tree.coords[name].values.tolist()


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _check_same_study(trees: Mapping[Path, xr.DataTree]) -> None:
    """Raise StoreError unless all trees are of one model, data set, condition and seed, and have the same sites."""
    (first_file, first), *others = trees.items()
    for file, tree in others:
        for key, word in SHARED_ATTRS.items():
            here, there = tree.attrs.get(key), first.attrs.get(key)
            if here != there:
                raise StoreError(
                    f"{file}: is of {word} {here}, but {first_file} of {word} {there}; "
                    f"open the stores of one {word} at a time"
                )
        if set(tree.children) != set(first.children) or any(
            set(tree[name].data_vars) != set(first[name].data_vars) for name in first.children
        ):
            raise StoreError(
                f"{file}: has other sites or quantities than {first_file}; "
                "delete the older of the two and let the workflow make it anew"
            )


def _check_complete(blocks: Mapping[tuple[int, ...], Mapping[Path, xr.DataTree]]) -> None:
    """Raise StoreError unless every block has each timestep once and the same samples, each once."""
    timesteps = Counter(timestep for block in blocks for timestep in block)
    twice = [timestep for timestep, count in timesteps.items() if count > 1]
    if twice:
        files = [next(iter(shards)) for block, shards in blocks.items() if twice[0] in block]
        raise StoreError(
            f"{files[1]}: holds timestep {twice[0]}, which {files[0]} holds too; delete the older of the two"
        )
    expected: dict[int, Path] | None = None
    for shards in blocks.values():
        owner: dict[int, Path] = {}
        for file, tree in shards.items():
            for sample in _coordinate(tree, "sample"):
                if sample in owner:
                    raise StoreError(
                        f"{file}: holds sample {sample}, which {owner[sample]} holds too; delete the older of the two"
                    )
                owner[sample] = file
        expected = expected or owner
        odd = sorted(expected.keys() ^ owner.keys())
        if odd:
            file = (expected.keys() & {odd[0]} and expected[odd[0]]) or owner[odd[0]]
            raise StoreError(
                f"{file}: holds sample {odd[0]}, which other timesteps lack ({len(odd)} samples differ); "
                "let the workflow make the missing stores"
            )


def _join(rows: Sequence[Sequence[xr.Dataset]], attrs: Mapping[Any, Any]) -> xr.Dataset:
    """Join datasets along sample inside each row (block), then the rows along timestep."""
    joined = _concat([_concat(row, "sample") for row in rows], "timestep").assign_attrs(attrs)
    if "maps" in joined:  # which of its own timesteps one file kept says nothing of the others
        joined["maps"].attrs.pop("kept_timesteps", None)
    return joined


def _concat(datasets: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    if len(datasets) == 1:
        return datasets[0]
    kept = [name for name in datasets[0].data_vars if "kept_sample" in datasets[0][name].dims]
    joined = _along([dataset.drop_vars([*kept, "kept_sample"], errors="ignore") for dataset in datasets], dim)
    if kept:
        # Maps have their own sample dimension; drop the sample coordinate so that only one dimension is joined.
        other = "kept_sample" if dim == "sample" else dim
        maps = [dataset[kept].drop_vars("sample", errors="ignore") for dataset in datasets]
        joined = joined.merge(_along(maps, other), join="exact", compat="override")
    return joined


def _with_coordinates_read(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords({name: coordinate.load() for name, coordinate in dataset.coords.items()})


def _along(datasets: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    return xr.concat(
        datasets, dim, data_vars="minimal", coords="minimal", compat="override", join="exact", combine_attrs="override"
    )
