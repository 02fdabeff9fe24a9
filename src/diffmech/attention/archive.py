"""A store under construction whose finished chunks go straight into the archive that it becomes. Ours.

Maps are large: written into a directory first and zipped afterwards, they would cross the disk twice. A chunk that is
written whole is final, so it is appended to the archive at once. Metadata and coordinates, hundreds of small files,
wait in memory. Only chunks that are written in parts wait in the directory, until `artifacts.building_store` appends
them.
"""

import asyncio
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Shaped
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from diffmech.artifacts import archive_entry, archive_of

Region = tuple[slice | int, ...]

# What is smaller waits in memory: metadata, coordinates, names of tokens.
SMALL = 2**18


class ArchivingStore(WrapperStore[MemoryStore]):
    """What is small in memory, what is not in `directory`, and what is written while `straight` in the archive.

    What the archive has is never written again: a pass that is repeated, because memory ran out after some of its
    chunks, gives the same values.
    """

    def __init__(self, directory: Path, archive: zipfile.ZipFile) -> None:
        super().__init__(MemoryStore())
        self.archive = archive
        self.straight = False
        self._parts = LocalStore(directory)
        self._in_parts: set[str] = set()
        self._appending = threading.Lock()

    async def set(self, key: str, value: Buffer) -> None:
        """Store `value` under `key`."""
        if self.straight:
            await asyncio.to_thread(self._append, key, value)
        elif len(value) < SMALL and key not in self._in_parts:
            await super().set(key, value)
        else:
            await super().delete(key)
            await self._parts.set(key, value)
            self._in_parts.add(key)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what memory or the directory has under `key`."""
        # Only what is there is looked up on the disk: creating an array asks for much that is not.
        store = self._parts if key in self._in_parts else self._store
        return await store.get(key, prototype, byte_range)

    def small(self) -> dict[str, Buffer]:
        """Return what waits in memory, in order of the keys."""
        return dict(sorted(self._store._store_dict.items()))

    def append_small(self) -> None:
        """Append what waits in memory to the archive: it is final, and of deep models it is megabytes."""
        for key, value in self.small().items():
            self._append(key, value)
        self._store._store_dict.clear()

    def _append(self, key: str, value: Buffer) -> None:
        with self._appending:
            if key not in self.archive.NameToInfo:
                self.archive.writestr(archive_entry(key), value.as_buffer_like())


@contextmanager
def archiving(directory: Path) -> Iterator[ArchivingStore]:
    """Yield the store of `directory`, as `artifacts.building_store` gives it, with its archive open.

    What waits in memory is appended at the end if not before; what is in the directory then, `artifacts.zip_directory`
    appends.
    """
    with zipfile.ZipFile(archive_of(directory), "w", zipfile.ZIP_STORED) as archive:
        store = ArchivingStore(directory, archive)
        yield store
        store.append_small()


def write_region(array: Any, region: Region, values: Shaped[np.ndarray, "..."]) -> None:
    """Write `array[region] = values`; whole chunks of an `ArchivingStore` go straight into its archive."""
    store = array.store if isinstance(array, zarr.Array) else None
    if not isinstance(store, ArchivingStore) or not covers_chunks(region, array.shape, array.chunks):
        array[region] = values
        return
    store.straight = True
    try:
        array[region] = values
    finally:
        store.straight = False


def covers_chunks(region: Region, shape: Sequence[int], chunks: Sequence[int]) -> bool:
    """Return whether `region` (which may name fewer dimensions than there are) consists of whole chunks."""
    for part, length, step in zip(region, shape, chunks, strict=False):
        start, stop, stride = (part, part + 1, 1) if isinstance(part, int) else part.indices(length)
        if stride != 1 or start >= stop or start % step or (stop % step and stop != length):
            return False
    return True
