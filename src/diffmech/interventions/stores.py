"""The one way to read the stores of ablated passes: shards joined by sample, blocks by timestep.

One job writes one file, for some images at some timesteps. Whatever is computed of an image is computed of all of its
passes, and images are what is resampled, so nothing may take the files one by one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped

from diffmech.artifacts import open_store
from diffmech.data.groups import UNIT, GroupTables, groups_of
from diffmech.errors import StoreError
from diffmech.statistics.units import Groups, codes, over_units


def open_ablation(paths: Sequence[Path | str]) -> xr.Dataset:
    """Return the stores of one domain and group, any shards and blocks, as one dataset in memory, sorted.

    A sample is one image, with all of its timesteps: the unit of resampling. Raises StoreError where there are none,
    where they hold no sample, where they disagree on what was ablated, where two hold the same passes, or where blocks
    cover different samples.
    """
    blocks: dict[tuple[int, ...], list[xr.Dataset]] = {}
    for path in paths:
        store = open_store(path).to_dataset().load()
        first = next(iter(blocks.values()))[0] if blocks else store
        for name in ("target", "method"):
            if not np.array_equal(store[name].values, first[name].values):
                raise StoreError(f"{path}: its {name}s differ from those of {paths[0]}; make both anew")
        if store.attrs.get("measure") != first.attrs.get("measure"):
            raise StoreError(f"{path}: measures another effect than {paths[0]}; make both anew")
        blocks.setdefault(tuple(store["timestep"].values.tolist()), []).append(store)
    joined = [_join_samples(shards) for _, shards in sorted(blocks.items())]
    if not joined or not joined[0].sizes["sample"]:
        raise StoreError(f"{paths[0] if paths else 'no ablation store is given'}: holds no sample; ablate at least one")
    for name, values in (
        ("timestep", np.concatenate([block["timestep"].values for block in joined])),
        ("sample", joined[0]["sample"].values),
    ):
        if len(np.unique(values)) < len(values):
            raise StoreError(f"two of the ablation stores, {paths[0]} ..., hold the same {name}; give each store once")
    for block in joined:
        if not np.array_equal(block["sample"].values, joined[0]["sample"].values):
            raise StoreError(
                f"the ablation stores at timesteps {block['timestep'].values.tolist()} hold other samples than those "
                f"at {joined[0]['timestep'].values.tolist()}; give all shards of all blocks"
            )
    varying = [name for name in joined[0].data_vars if "timestep" in joined[0][name].dims]
    data = xr.concat([block[varying] for block in joined], dim="timestep").sortby("timestep")
    data = data.assign(joined[0].drop_dims("timestep").data_vars)
    _check_controls(data)
    return data


def _join_samples(shards: Sequence[xr.Dataset]) -> xr.Dataset:
    filled = [shard for shard in shards if shard.sizes["sample"]] or list(shards[:1])
    varying = [name for name in filled[0].data_vars if "sample" in filled[0][name].dims]
    joined = xr.concat([shard[varying] for shard in filled], dim="sample").sortby("sample")
    # Not assigned to the first shard: that would keep the first shard's samples only.
    return joined.assign(filled[0].drop_dims("sample").data_vars)


def _check_controls(data: xr.Dataset) -> None:
    """Raise StoreError where a control changes its heads although its target keeps them: its mean would be a blend."""
    names, owners = texts(data["target"]), texts(data["control_of"])
    members = texts(data["members"].transpose("target", "timestep"))
    rows = {name: row for row, name in enumerate(names)}
    for row in np.flatnonzero(owners != ""):
        pairs = set(zip(members[rows[owners[row]]], members[row], strict=True))
        if len(pairs) > len({target for target, _ in pairs}):
            raise StoreError(
                f"{names[row]} is one set of heads in one block and another in the next; ablate mechanisms with the "
                "reference outputs of all blocks"
            )


def ran_on(data: xr.Dataset, method: int) -> Bool[np.ndarray, "sample"]:
    """Return on which samples the targets were ablated by the method at position `method`.

    Of all targets and timesteps: a target without heads at a timestep has the clean loss there, on samples that did not
    run too.
    """
    own = data["mse_ablated"].isel(target=texts(data["control_of"]) == "", method=method)
    ran: np.ndarray = np.isfinite(own.transpose("sample", "target", "timestep").values).all(axis=(1, 2))
    return ran


def with_units(data: xr.Dataset, groups: Groups) -> xr.Dataset:
    """Return the same images, marked with the unit that each belongs to; as they are without groups."""
    return data if groups is None else data.assign_coords({UNIT: ("sample", codes(groups))})


def in_units(data: xr.Dataset) -> xr.Dataset:
    """Return the means over the images of each unit, as samples numbered from 0; without marked units, the images.

    Of the images at hand, so those that a method did not run on must have been left out.
    """
    if UNIT not in data.coords:
        return data
    units, rest = data[UNIT].values, data.drop_vars([UNIT, "sample"])
    means = {
        name: (array.dims, over_units(array.values, units, axis=array.get_axis_num("sample")), array.attrs)
        for name, array in rest.data_vars.items()
        if "sample" in array.dims
    }
    return rest.drop_dims("sample").assign(means).assign_coords(sample=np.arange(int(codes(units).max(initial=-1)) + 1))


def texts(array: xr.DataArray) -> Shaped[np.ndarray, "..."]:
    """Return names kept as variable-length strings as NumPy's fixed-length ones, which compare and sort."""
    # NumPy's variable-length strings know no cast to its other ones.
    return np.array(array.values.tolist(), dtype=str)


def shifts_by_kind(
    stores: Mapping[str, Sequence[Path | str]],
    domains: Sequence[str],
    method: str,
    groups: GroupTables | None = None,
) -> dict[str, dict[str, Float[np.ndarray, "_unit _head"]]]:
    """Return the output shifts of ablated heads, mean over all timesteps of an image, by kind of attention and domain.

    They are (sample, head), where a domain has `groups` (unit, head). `stores` are those of each domain, all shards and
    blocks. Raises StoreError where they lack the method.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for domain in domains:
        data = open_ablation(stores[domain])
        methods = texts(data["method"]).tolist()
        if method not in methods:
            raise StoreError(f"{stores[domain][0]}: has no ablation {method!r}; it has {methods}, give one of these")
        shift = data["shift"].isel(method=methods.index(method)).transpose("sample", "target", "timestep")
        known = groups_of(groups or {}, domain, data["sample"].values)
        means = over_units(np.asarray(shift.values, dtype=np.float64).mean(axis=-1), known)
        kinds = texts(data["kind"])
        for kind in dict.fromkeys(kinds.tolist()):
            found.setdefault(kind, {})[domain] = means[:, kinds == kind]
    return found
