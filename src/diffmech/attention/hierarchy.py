"""A Zarr hierarchy that is described first and then created at once. Ours.

A store has a dozen arrays per site. Created one by one each costs half a millisecond; described from what an equal one
was already found to need, and created together, a quarter of that.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Shaped
from zarr.abc.store import Store
from zarr.core.group import GroupMetadata
from zarr.storage import LocalStore

from diffmech.attention.compression import CODECS, COMPRESSOR

# Files of chunks lie side by side: a directory per dimension would cost more than writing them does.
FLAT: dict[str, Any] = {"name": "default", "separator": "."}

# Looking for chunks that are NaN throughout would cost more than compressing and writing them.
WRITE_ALL = {"array.write_empty_chunks": True}

# Each that is being created takes some kilobytes.
AT_ONCE = 100


@dataclass
class Hierarchy:
    """Groups and arrays by their paths, and the values of the arrays that are coordinates."""

    nodes: dict[str, Any] = field(default_factory=dict)
    coordinates: dict[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict)

    def group(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Describe a group."""
        self.nodes[path] = GroupMetadata(attributes=dict(attributes), zarr_format=3)

    def empty(
        self,
        path: str,
        sizes: Mapping[str, int],
        chunks: Mapping[str, int],
        dtype: str,
        attributes: Mapping[str, Any],
        codec: str | None = None,
    ) -> None:
        """Describe an array of NaN whose dimensions have these `sizes`; those that `chunks` does not name are not cut.

        It is compressed by `codec`, one of `CODECS`, or as statistics are.
        """
        lengths = tuple(max(1, chunks.get(dim, length)) for dim, length in sizes.items())
        about = json.dumps(dict(attributes))
        self.nodes[path] = _described(tuple(sizes.values()), lengths, dtype, tuple(sizes), about, codec, np.nan)

    def coordinate(
        self, path: str, dims: Sequence[str], values: Shaped[np.ndarray, "..."], attributes: Mapping[str, Any]
    ) -> None:
        """Describe an array of `values`, strings or numbers, in one chunk."""
        dtype = str if values.dtype.kind == "T" else values.dtype.name
        lengths = tuple(max(1, length) for length in values.shape)
        self.nodes[path] = _described(values.shape, lengths, dtype, tuple(dims), json.dumps(dict(attributes)))
        self.coordinates[path] = values

    def create(self, store: Path | Store) -> dict[str, zarr.Array]:
        """Create everything in a store, or a directory, that has none of it; return the arrays by path."""
        arrays: dict[str, zarr.Array] = {}
        place, waiting = LocalStore(store) if isinstance(store, Path) else store, iter(self.nodes.items())
        with zarr.config.set(WRITE_ALL):
            while some := dict(islice(waiting, AT_ONCE)):
                nodes = zarr.create_hierarchy(store=place, nodes=some)
                arrays |= {path: node for path, node in nodes if isinstance(node, zarr.Array)}
        for path, values in self.coordinates.items():
            if values.size:
                arrays[path][...] = values
        return arrays


@lru_cache(maxsize=1024)
def _described(
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: Any,
    dims: tuple[str, ...],
    attributes: str,
    codec: str | None = None,
    fill_value: float | None = None,
) -> Any:
    """Return the metadata of an array; those of equal arrays are one object."""
    filled: dict[str, Any] = {} if fill_value is None else {"fill_value": fill_value}
    array = zarr.create_array(
        {},
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        dimension_names=dims,
        attributes=json.loads(attributes),
        compressors=COMPRESSOR if codec is None else CODECS[codec],
        chunk_key_encoding=FLAT,
        **filled,
    )
    return array.metadata
