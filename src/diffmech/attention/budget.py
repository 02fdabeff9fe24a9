"""What an attention store takes, told from its empty layout, and whether this machine has room for it. Ours.

Nothing here lists quantities or sizes: an empty store is laid out as a capture does it, and its arrays are counted.
"""

import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import zarr

from diffmech.attention.archive import ArchivingStore
from diffmech.attention.layout import FACTORS, SiteLayout
from diffmech.attention.results import LOSS_KEY
from diffmech.errors import ConfigError, StoreError
from diffmech.machine import free_disk, free_memory

Arrays = Mapping[tuple[str, str], zarr.Array]

# What an entry costs in a zip beside its content and twice its name: header 30, directory 46.
ZIP_ENTRY = 76
ZIP_END = 22

PARTS = ("statistics", "maps", "factors")

# Lower bounds of stored bytes over bytes of values, for refusals, which must be right: statistics of small chunks are
# hardly compressed, maps and factors at most so many times better than the first of them.
LEAST_OF_STATISTICS = 0.25
LEAST_OF_FIRST = 0.5


@dataclass(frozen=True)
class Contents:
    """What a store holds once it is full: bytes of values by variable, and of all that is around them by part."""

    values: Mapping[str, int]
    around: Mapping[str, int]

    def bytes(self, parts: Iterable[str] = PARTS, ratios: Mapping[str, float] | None = None) -> int:
        """Return the size of the file if it had but these parts; `ratios` are stored bytes over bytes of values."""
        values = {name: size for name, size in self.values.items() if part_of(name) in parts}
        stored = sum(size * (ratios or {}).get(name, 1.0) for name, size in values.items())
        return round(stored) + sum(size for part, size in self.around.items() if part in parts)

    def part(self, part: str) -> int:
        """Return the bytes of the values of one part."""
        return sum(size for name, size in self.values.items() if part_of(name) == part)


def store_contents(store: ArchivingStore, arrays: Arrays) -> Contents:
    """Return what `store`, in which these arrays were laid out, will hold."""
    values: Counter[str] = Counter()
    around = Counter({"statistics": ZIP_END})
    for key, value in store.small().items():
        around[part_of(PurePosixPath(key).parent.name)] += len(value) + entry_bytes(key)
    for (site, variable), array in arrays.items():
        chunks = math.ceil(array.nchunks * kept_share(array))
        values[variable] += round(array.size * kept_share(array)) * array.dtype.itemsize
        last = ".".join(["c", *(str(max(0, count - 1)) for count in array.cdata_shape)])
        around[part_of(variable)] += chunks * entry_bytes(f"{site}/{variable}/{last}".lstrip("/"))
    return Contents(dict(values), dict(around))


def stored_values(archive: Path, arrays: Arrays) -> dict[str, int]:
    """Return the bytes that the chunks of each variable take in a finished store."""
    stored = dict.fromkeys((variable for _, variable in arrays), 0)
    with zipfile.ZipFile(archive) as entries:
        for entry in entries.infolist():
            array, _, chunk = entry.filename.rpartition("/")
            site, _, variable = array.rpartition("/")
            if (site, variable) in arrays and chunk.startswith("c."):
                stored[variable] += entry.file_size
    return stored


def held_bytes(arrays: Arrays, batch: int) -> int:
    """Return the bytes of statistics that are held at a time when passes have `batch` images.

    Where that is a whole chunk, those of one site; otherwise those of all sites wait for the last batch of the chunk.
    """
    held: Counter[str] = Counter()
    for (site, variable), array in arrays.items():
        if part_of(variable) == "statistics":
            held[site] += math.prod(array.chunks) * array.dtype.itemsize
    return max(held.values()) if batch >= arrays[LOSS_KEY].chunks[-2] else held.total()


def kept_share(array: zarr.Array) -> float:
    """Return which share of the timesteps of an array is kept; the chunks of others are never written."""
    kept, names = array.attrs.get("kept_timesteps"), array.metadata.dimension_names  # type: ignore[union-attr]
    if kept is None or names is None:
        return 1.0
    return len(kept) / array.shape[names.index("timestep")]  # type: ignore[arg-type]


def part_of(name: str) -> str:
    """Return the part that a variable or coordinate of a site belongs to."""
    if name in ("maps", "kept_sample"):
        return "maps"
    return "factors" if name in (*FACTORS, "key_bias", "factor_sample") else "statistics"


def require_disk(output: Path, contents: Contents, compression: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise StoreError where the disk surely cannot hold the store `output` while it is written.

    `compression` tells how many times smaller the first maps and factors became (`choose_codecs`).
    """
    least: Counter[str] = Counter()
    for variable, size in contents.values.items():
        ratio = compression.get(variable, {}).get("ratio")
        least[part_of(variable)] += round(size * (LEAST_OF_FIRST / ratio if ratio else LEAST_OF_STATISTICS))
    needed, free = sum(least.values()), free_disk(output.parent)
    if needed > free:
        parts = " + ".join(f"{part} {readable(size)}" for part, size in least.items() if size)
        raise StoreError(
            f"{output}: needs at least {readable(needed)} of disk ({parts}), but "
            f"{readable(free)} are free in {output.parent}; {remedy(least)}, or free space"
        )


def require_memory(layouts: Sequence[SiteLayout], arrays: Arrays, *, batch: int, itemsize: int) -> None:
    """Raise ConfigError where the memory of this machine surely cannot hold passes of `batch` images on the CPU.

    Counted are the queries, keys, values and outputs of the largest site, with entries of `itemsize` bytes, and the
    statistics that are held: less than any model needs.
    """
    held = held_bytes(arrays, batch)
    per_image = max(
        itemsize * len(site.heads) * (site.queries + site.keys) * (site.components + site.channels) for site in layouts
    )
    needed, free = batch * per_image + held, free_memory()
    if free is not None and needed > free:
        fits = max(1, (free - held) // per_image)
        raise ConfigError(
            f"runtime.batch_size: passes of {batch} images need at least {readable(needed)} of memory ({batch} x "
            f"{readable(per_image)} of attention + {readable(held)} of results), but {readable(free)} are left; give "
            f"at most {fits}, or study smaller images (images.size)"
        )


def remedy(parts: Mapping[str, int]) -> str:
    """Return what to change so that less is written, the largest part first."""
    advice = {
        "maps": "lower capture.keep_maps or narrow capture.maps_of.sites",
        "factors": "lower capture.keep_factors or narrow capture.factors_of.sites",
        "statistics": "lower capture.shard_size",
    }
    return advice[max(parts, key=lambda part: parts[part])]


def readable(size: float) -> str:
    """Return a number of bytes in the largest unit that leaves at least one of it, with three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if size < 1000 else f"{size:,.0f} TB"


def entry_bytes(name: str) -> int:
    """Return what an entry of a zip takes beside its content."""
    return ZIP_ENTRY + 2 * len(name)
