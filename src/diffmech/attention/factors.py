"""Attention maps computed when they are read, from stored queries and keys. Ours.

A map is softmax(s_ij) over keys j with s_ij = scale q_i.k_j + bias_j, so query and key hold all of it in 2d/N of the
space. A constant per query changes nothing under the softmax: keys are stored centred over the keys, which makes the
scores, and with them the error of float16, smaller. Both factors are scaled per sample and head to the range of
float16, whatever the size of the activations. Reading needs neither torch nor the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import tokenize
from jaxtyping import Shaped

from diffmech.archives import StoreArchive
from diffmech.attention.layout import CHUNK_BYTES, FACTORS, KEY_BIAS, MAPS

Index = int | np.integer | slice | Shaped[np.ndarray, "position"] | Sequence[int]

SITE_FACTORS = (*FACTORS, "key_bias")
assert KEY_BIAS.dims == ("head", "key")


@runtime_checkable
class Orthogonal(Protocol):
    """An array that is read by orthogonal indexing, as zarr's are."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def ndim(self) -> int: ...

    @property
    def oindex(self) -> Any: ...


class MapsFromFactors:
    """An array (..., head, query, key) of float16 attention probabilities that is computed where it is indexed.

    `factors` are the arrays query_factor (..., head, query, component), key_factor (..., head, key, component),
    factor_scale (..., head) and perhaps key_bias (..., head, key), read by orthogonal indexing. Indices are those of
    numpy, but each axis is indexed on its own. A query that may see no key is NaN, as it is in stored maps.
    """

    def __init__(self, factors: Mapping[str, Orthogonal], *, causal: bool = False) -> None:
        self.factors = factors
        self.causal = causal
        query, key = factors["query_factor"], factors["key_factor"]
        self.shape: tuple[int, ...] = (*query.shape[:-1], key.shape[-2])
        self.ndim = len(self.shape)
        self.dtype = np.dtype(MAPS.dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        asked = index if isinstance(index, tuple) else (index,)
        if Ellipsis in [item for item in asked if not isinstance(item, np.ndarray)]:
            raise TypeError("maps from factors are indexed per axis; leave the last axes out instead of giving '...'")
        asked = (*asked, *[slice(None)] * (self.ndim - len(asked)))
        rows = [_positions(item, length) for item, length in zip(asked, self.shape, strict=True)]
        maps = self._compute(rows)
        squeezed = tuple(0 if isinstance(item, int | np.integer) else slice(None) for item in asked)
        return maps[squeezed]

    def _compute(self, rows: list[np.ndarray]) -> np.ndarray:
        """Return the maps at these positions of each axis, every axis kept; rows of keys are computed whole."""
        *leading, queries, keys = rows
        if not all(len(positions) for positions in rows):
            return np.empty([len(positions) for positions in rows], self.dtype)
        query = _read(self.factors["query_factor"], [*leading, queries]).astype(np.float32)
        key = _read(self.factors["key_factor"], leading).astype(np.float32)
        query *= _read(self.factors["factor_scale"], leading)[..., None, None]
        scores = query @ key.swapaxes(-1, -2)
        if "key_bias" in self.factors:
            scores += _read(self.factors["key_bias"], leading)[..., None, :]
        if self.causal:
            scores[..., np.arange(self.shape[-1]) > queries[:, None]] = -np.inf
        with np.errstate(invalid="ignore"):  # a query that sees no key
            scores -= scores.max(-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(-1, keepdims=True)
        return scores[..., keys].astype(self.dtype)


def with_maps(tree: xr.DataTree, path: Path) -> xr.DataTree:
    """Return the tree of one store with `maps` (kept_sample, timestep, head, query, key) wherever factors are kept.

    Where maps are stored too, they are taken; a pass of which neither is kept is NaN. Nothing is computed before it is
    asked for, and then only the heads and queries that are asked for.
    """
    if not any("query_factor" in node.data_vars for node in tree.children.values()):
        return tree
    store = zarr.open_group(StoreArchive(path), mode="r")
    nodes = {"/": tree.to_dataset()}
    for name, node in tree.children.items():
        site = node.to_dataset(inherit=False)
        if "query_factor" in site:
            present = {
                variable: _array(store, f"{name}/{variable}") for variable in site.data_vars if variable in SITE_FACTORS
            }
            maps = MapsFromFactors(present, causal=site["query_factor"].attrs["causal"])
            lazy = _lazy(maps, str(path), path.stat().st_mtime_ns, name)
            site = _replace_factors(site, lazy, tree.coords["timestep"].values.tolist())
        nodes[f"/{name}"] = site
    return xr.DataTree.from_dict(nodes)


def _replace_factors(site: xr.Dataset, computed: da.Array, timesteps: list[int]) -> xr.Dataset:
    """Return a site with `maps` that are stored where they can be and `computed` elsewhere, in place of the factors."""
    dims = tuple("kept_sample" if dim == "factor_sample" else str(dim) for dim in site["query_factor"].dims[:-1])
    samples = site["factor_sample"].values
    if "maps" in site:
        stored = site["maps"]
        of_maps, of_factors = (
            [timestep in array.attrs["kept_timesteps"] for timestep in timesteps]
            for array in (stored, site["query_factor"])
        )
        computed = _prefer_stored(stored.data, computed, dims, of_maps, of_factors)
        samples = max(samples, site["kept_sample"].values, key=len)
    maps = (*dims, "key"), computed, {"units": MAPS.units, "long_name": MAPS.long_name}
    kept = ("kept_sample", samples, {"long_name": "sample id whose maps are kept"})
    left_out = [*SITE_FACTORS, "factor_sample", "maps", "kept_sample"]
    return site.drop_vars(left_out, errors="ignore").assign_coords({"kept_sample": kept}).assign({"maps": maps})


def _prefer_stored(
    stored: da.Array, computed: da.Array, dims: tuple[str, ...], of_maps: list[bool], of_factors: list[bool]
) -> da.Array:
    """Join along samples and timesteps: stored maps where there are any, computed ones elsewhere."""
    sample_axis, time_axis = dims.index("kept_sample"), dims.index("timestep")

    def cut(array: da.Array, column: int, start: int, stop: int) -> da.Array:
        index: list[slice] = [slice(None)] * array.ndim
        index[sample_axis], index[time_axis] = slice(start, stop), slice(column, column + 1)
        return array[tuple(index)]

    columns = []
    for column in range(stored.shape[time_axis]):
        # Both are of the first samples of the shard; whichever is not kept of this timestep is NaN throughout.
        swap = of_factors[column] and not of_maps[column]
        pieces, done = [], 0
        for array in (computed, stored) if swap else (stored, computed):
            if array.shape[sample_axis] > done:
                pieces.append(cut(array, column, done, array.shape[sample_axis]))
                done = array.shape[sample_axis]
        columns.append(da.concatenate(pieces, axis=sample_axis))
    return da.concatenate(columns, axis=time_axis)


def _lazy(maps: MapsFromFactors, *identity: Any) -> da.Array:
    """Return `maps` as a dask array; its name comes from `identity`, so that equal stores are equal arrays."""
    chunks, budget = [maps.shape[-1]], CHUNK_BYTES // (maps.shape[-1] * maps.dtype.itemsize)
    # As much of each axis as fits; of the leading ones no more than a chunk of factors.
    stored: Any = maps.factors["query_factor"]  # in chunks, as arrays of a store are
    for most in reversed((*stored.chunks[:-3], *maps.shape[-3:-1])):
        chunks.insert(0, max(1, min(most, budget)))
        budget //= chunks[0]
    name = f"maps-from-factors-{tokenize(*identity)}"
    return da.from_array(maps, chunks=tuple(chunks), name=name, meta=np.empty((0,) * maps.ndim, maps.dtype))


def _array(store: zarr.Group, path: str) -> zarr.Array:
    array = store[path]
    assert isinstance(array, zarr.Array)
    return array


def _positions(item: Index, length: int) -> np.ndarray:
    return np.atleast_1d(np.arange(length)[item])


def _read(array: Orthogonal, rows: list[np.ndarray]) -> np.ndarray:
    """Read these positions of the first axes and all of the others; runs of positions as slices, which is faster."""
    index: list[Any] = []
    for positions in rows:
        start, stop = int(positions[0]), int(positions[-1]) + 1
        run = len(positions) == stop - start and (np.diff(positions) == 1).all()
        index.append(slice(start, stop) if run else positions)
    index += [slice(None)] * (array.ndim - len(index))
    return np.asarray(array.oindex[tuple(index)])
