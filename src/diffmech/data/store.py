"""Data set stores: written image by image in bounded memory, read by sample id. Ours.

A store holds the images before matching, as bytes, together with the one gain and offset that match the data set's mean
and contrast to those of the others; reading applies them. The sample id is the position among the good images, so a
larger `count` adds ids and changes no image.
"""

import json
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from diffmech.artifacts import atomic_path, building_store, file_sha256, open_store, progress, provenance
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import AnyDataset, ImagesConfig
from diffmech.data.moments import Matching, Measured, match_moments
from diffmech.data.source import BadFile, ImageSource, Sample, open_source
from diffmech.errors import DataError, StoreError

CHUNK = 256  # images per chunk, fewer where they are large
CHUNK_BYTES = 16 << 20
CACHE_BYTES = 256 << 20  # decoded chunks that a reader keeps
READ = 32  # images that one thread reads at a time
MINIMUM = 2  # a contrast between domains needs more than one image

logger = logging.getLogger(__name__)


def prepare_dataset(
    config: AnyDataset,
    images: ImagesConfig,
    output: Path,
    *,
    name: str,
    runtime: RuntimeConfig,
    generated: Sequence[Path | str] = (),
    digest: Path | str | None = None,
) -> None:
    """Write the data set `name` to the store `output`, and the SHA-256 of that to the file `digest`.

    `generated` holds the images of a data set of prompts.

    Variables: `image` (sample, channel, y, x) uint8, `attribute_value` (sample, attribute) float32, `mask` (sample,
    part, y, x) uint8, `kept_area` (sample,) float32; coordinates sample, file, attribute, part. Memory does not grow
    with the number of images. Raises DataError, and writes nothing, for fewer than two good images and, unless
    `on_bad_file: skip`, for a bad file or fewer images than `count`.
    """
    source = open_source(config, images, generated)
    skipped = list(source.misfits)
    if skipped and config.on_bad_file == "error":
        raise _bad(source, skipped[0], skipped[1:])
    _check_enough(source, config)
    with building_store(output) as directory:
        group = zarr.create_group(directory, zarr_format=3)
        arrays = _create_arrays(group, source, images, config.count)
        files, kept, bad = _write_samples(source, config, arrays, name, runtime)
        skipped += bad
        if len(files) < MINIMUM:
            first = f", for example {skipped[0].file}: {skipped[0].reason}" if skipped else ""
            raise DataError(
                f"{source.location}: {len(files)} usable image(s), {len(skipped)} left out{first}; "
                f"at least {MINIMUM} are needed"
            )
        if skipped:
            logger.warning(
                "%s: %d images, %d left out, for example %s: %s",
                *(source.location, len(files), len(skipped), skipped[0].file, skipped[0].reason),
            )
        for array in arrays.values():
            array.resize((len(files), *array.shape[1:]))
        _write_coordinate(group, "sample", np.arange(len(files)))
        _write_coordinate(group, "file", files, dimension="sample")
        _write_coordinate(group, "kept_area", np.array(kept, dtype=np.float32), dimension="sample")
        _write_coordinate(group, "attribute", list(source.attribute_names))
        _write_coordinate(group, "part", list(source.part_names))
        image = arrays["image"]
        rows = image.chunks[0]
        matching = match_moments(
            lambda: (np.asarray(image[start : start + rows]) for start in range(0, len(files), rows)),
            # generated images stay as the pipeline made them, since it is not shown them again
            None if generated else images.match,
            name=name,
        )
        group.attrs.update(_attributes(config, images, name, matching, skipped))
    if digest is not None:
        with atomic_path(digest) as temporary:
            temporary.write_text(file_sha256(output) + "\n", encoding="utf-8")


def open_dataset(path: Path) -> "ImageSet":
    """Open a data set store. Raises StoreError if it is missing, half-written or no data set."""
    return ImageSet(path)


class ImageSet:
    """Reads a data set store by sample id, in chunks, of which it keeps the last used ones up to 256 MiB."""

    def __init__(self, path: Path) -> None:
        self._data = open_store(path).dataset
        missing = [name for name in ("image", "attribute_value", "mask") if name not in self._data]
        if missing or "gain" not in self._data.attrs:
            raise StoreError(f"{path}: is no data set store (no {missing or 'gain'}); prepare the data set anew")
        self.path = Path(path)
        self.ids: np.ndarray = self._data["sample"].values
        self.attributes: tuple[str, ...] = tuple(str(name) for name in self._data["attribute"].values)
        self.parts: tuple[str, ...] = tuple(str(name) for name in self._data["part"].values)
        self.gain = float(self._data.attrs["gain"])
        self.offset = float(self._data.attrs["offset"])
        self._chunk = int(self._data["image"].encoding["chunks"][0])
        self._cache: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def attrs(self) -> dict[str, Any]:
        """What is recorded about the set: dataset, kind, gain, offset, moments, clipped share, skipped, provenance."""
        attrs = dict(self._data.attrs)
        for key in ("moments_before", "moments_after", "skipped", "provenance"):
            attrs[key] = json.loads(attrs[key])
        return attrs

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(channel, y, x)` of every image."""
        _, channels, height, width = self._data["image"].shape
        return channels, height, width

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The source name of each sample."""
        return tuple(str(name) for name in self._data["file"].values)

    @cached_property
    def kept_area(self) -> np.ndarray:
        """The share of each source image's pixels that was kept when it was cut to a square, `(sample,)`."""
        if "kept_area" not in self._data:
            raise StoreError(f"{self.path}: does not say what was cut off its images; prepare the data set anew")
        return np.asarray(self._data["kept_area"].values)

    def images(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 images `(sample, channel, y, x)` in [-1, 1], matched in mean and contrast."""
        return matched(self.raw_images(ids), self.gain, self.offset)

    def raw_images(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return uint8 images `(sample, channel, y, x)` as prepared, before matching."""
        return self._rows("image", ids)

    def attribute_values(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 `(sample, attribute)` in [0, 1], NaN where unknown."""
        return self._rows("attribute_value", ids)

    def masks(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 `(sample, part, y, x)`, the share of each pixel that the part covers."""
        return self._rows("mask", ids).astype(np.float32) / np.float32(255)

    def _rows(self, variable: str, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(ids, dtype=np.int64).reshape(-1)
        outside = (wanted < 0) | (wanted >= len(self))
        if outside.any():
            raise DataError(
                f"{self.path}: has sample ids 0 to {len(self) - 1}, not {wanted[outside][0]}; ask for those"
            )
        array = self._data[variable]
        rows = np.empty((len(wanted), *array.shape[1:]), dtype=array.dtype)
        chunks = wanted // self._chunk
        for chunk in np.unique(chunks):
            here = chunks == chunk
            rows[here] = self._load(variable, int(chunk))[wanted[here] - chunk * self._chunk]
        return rows

    def _load(self, variable: str, chunk: int) -> np.ndarray:
        key = (variable, chunk)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        start = chunk * self._chunk
        loaded = self._data[variable][start : start + self._chunk].values
        self._cache[key] = loaded
        while len(self._cache) > 1 and sum(part.nbytes for part in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return loaded


def matched(raw: np.ndarray, gain: float, offset: float) -> np.ndarray:
    """Return uint8 images on the scale [-1, 1] in float32, by one gain and one offset, clipped."""
    pixels = raw.astype(np.float32)
    pixels *= np.float32(gain / 127.5)
    pixels += np.float32(offset - gain)
    return np.clip(pixels, -1, 1, out=pixels)


def _create_arrays(
    group: zarr.Group, source: ImageSource, images: ImagesConfig, count: int | None
) -> dict[str, zarr.Array]:
    """Create the variables for as many samples as there can be; they are cut to those there are in the end."""
    size, attributes, parts = images.size, len(source.attribute_names), len(source.part_names)
    most = min(len(source), count or len(source))
    sample_bytes = (images.channels + parts) * size * size
    chunk = min(CHUNK, max(1, CHUNK_BYTES // sample_bytes))
    shapes = {
        "image": ((images.channels, size, size), ("channel", "y", "x"), "uint8"),
        "attribute_value": ((attributes,), ("attribute",), "float32"),
        "mask": ((parts, size, size), ("part", "y", "x"), "uint8"),
    }
    return {
        variable: group.create_array(
            variable,
            shape=(most, *shape),
            chunks=(chunk, *(max(1, length) for length in shape)),
            dtype=dtype,
            dimension_names=["sample", *dimensions],
            attributes={"units": "1", "coordinates": "file"},
        )
        for variable, (shape, dimensions, dtype) in shapes.items()
    }


def _write_samples(
    source: ImageSource, config: AnyDataset, arrays: dict[str, zarr.Array], name: str, runtime: RuntimeConfig
) -> tuple[list[str], list[float], list[BadFile]]:
    """Write the first good samples up to `count`; return their files, the kept share of each, what was left out."""
    wanted = min(len(source), config.count or len(source))
    rows = arrays["image"].chunks[0]
    files: list[str] = []
    kept: list[float] = []
    skipped: list[BadFile] = []
    waiting: list[Sample] = []
    marked: set[str] = set()

    def flush() -> None:
        stop = len(files)
        start = stop - len(waiting)
        arrays["image"][start:stop] = np.stack([sample.image for sample in waiting])
        if source.attribute_names:
            arrays["attribute_value"][start:stop] = np.stack([sample.attributes for sample in waiting])
        if source.part_names:
            masks = np.stack([sample.masks for sample in waiting])
            arrays["mask"][start:stop] = masks
            marked.update(source.part_names[part] for part in np.flatnonzero(masks.any(axis=(0, 2, 3))))
        waiting.clear()

    found = _read_all(source, runtime.threads)
    for item in progress(found, f"prepare {name}", total=wanted, show=runtime.progress):
        if isinstance(item, BadFile):
            if config.on_bad_file == "error":
                raise _bad(source, item)
            skipped.append(item)
            continue
        files.append(item.file)
        kept.append(item.kept_area)
        waiting.append(item)
        if len(waiting) == rows:
            flush()
        if len(files) == wanted:
            break
    if waiting:
        flush()
    if empty := [part for part in source.part_names if part not in marked]:
        logger.warning(
            "%s: the masks of %s mark nothing in any of %d images (white = the part)",
            *(name, ", ".join(empty), len(files)),
        )
    return files, kept, skipped


def _read_all(source: ImageSource, threads: int) -> Iterator[Sample | BadFile]:
    """Yield all samples in order, read by several threads, with a few ranges at most in memory."""
    with ThreadPoolExecutor(threads) as pool:
        span = READ * threads
        for start in range(0, len(source), span):
            stop = min(start + span, len(source))
            ranges = [range(first, min(first + READ, stop)) for first in range(start, stop, READ)]
            for samples in pool.map(source.read, ranges):
                yield from samples


def _check_enough(source: ImageSource, config: AnyDataset) -> None:
    there = len(source)
    if config.count is not None and there < config.count:
        if config.on_bad_file == "error":
            raise DataError(
                f"{source.location}: count is {config.count} but there are {there} images; "
                f"add images, or set count to {there} or null"
            )
        logger.warning("%s: count is %d but there are %d images; using those", source.location, config.count, there)
    if there < MINIMUM:
        raise DataError(f"{source.location}: holds {there} usable image(s); at least {MINIMUM} are needed")


def _bad(source: ImageSource, bad: BadFile, more: Sequence[BadFile] = ()) -> DataError:
    where = bad.file if Path(bad.file).is_absolute() else f"{source.location}/{bad.file}"
    alike = sum(other.reason == bad.reason for other in more)
    counts = [f"{alike} more such files"] if alike else []
    if unlike := len(more) - alike:
        counts.append(f"{unlike} that cannot be used for other reasons")
    others = f" (and {', and '.join(counts)})" if counts else ""
    return DataError(
        f"{where}: {bad.reason}{others}; mend or remove it, or set on_bad_file: skip to leave such files out"
    )


def _write_coordinate(
    group: zarr.Group, name: str, values: np.ndarray | list[str], *, dimension: str | None = None
) -> None:
    dtype: Any = str if isinstance(values, list) else values.dtype
    array = group.create_array(
        name, shape=(len(values),), chunks=(max(1, len(values)),), dtype=dtype, dimension_names=[dimension or name]
    )
    if len(values):
        array[:] = np.asarray(values, dtype=object if dtype is str else dtype)


def _attributes(
    config: AnyDataset, images: ImagesConfig, name: str, matching: Matching, skipped: Sequence[BadFile]
) -> dict[str, Any]:
    return {
        "dataset": name,
        "kind": config.kind,
        "gain": matching.gain,
        "offset": matching.offset,
        **recorded_moments(matching),
        "skipped": json.dumps([{"file": bad.file, "reason": bad.reason} for bad in skipped]),
        "provenance": provenance(dataset=config.canonical(), images=images.canonical()),
    }


def recorded_moments(matching: Matching) -> dict[str, Any]:
    """Return the attributes of a store that say what matching did to its images."""
    return {
        "moments_before": _moments(matching.before),
        "moments_after": _moments(matching.after),
        "clipped_share": matching.after.clipped_share,
    }


def _moments(measured: Measured) -> str:
    return json.dumps({"mean": measured.mean, "contrast": measured.contrast}, sort_keys=True)
