"""The layout of an attention store: its groups, quantities, units, coordinates and chunks. Ours.

A store is one Zarr hierarchy with a group per attention site (`down1.0.self`), laid out empty and then filled region by
region, so that no more than a chunk is ever held.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Shaped

from diffmech.attention.archive import ArchivingStore
from diffmech.attention.hierarchy import Hierarchy
from diffmech.attention.ranges import Dim, TokenRanges

# Dimension (or dimensions), values, attributes.
Coordinate = tuple[str | tuple[str, ...], Shaped[np.ndarray, "..."], dict[str, Any]]

# The coordinates of the leading dimensions, in order.
Axes = Mapping[str, Sequence[int] | Sequence[str]]

# A chunk is one timestep of all heads of as many samples as stay below this.
CHUNK_BYTES = 4 * 2**20

# Where batches are shorter, the statistics of all sites wait for the last batch of a chunk: deep models get short ones.
HELD_BYTES = 2 * 2**20

# A chunk is also the longest batch, so very deep models may hold more, until it has this many samples. Chunks of maps
# and factors, which are written batch by batch, are no longer.
FEW_SAMPLES = 16
MOST_HELD_BYTES = 64 * 2**20

# The share of an array of maps or factors that its last chunk may store in vain.
MOST_PADDING = 1 / 16

# Less for factors: a map is computed from a whole chunk of each of its two factors.
FACTOR_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Variable:
    """One quantity of a site: its dimensions after sample and timestep, and what it means."""

    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str


VARIABLES: dict[str, Variable] = {
    "entropy": Variable(("head",), "float32", "nat", "attention entropy, mean over queries"),
    "position_information": Variable(
        ("head",), "float32", "nat", "mutual information between query position and attended key"
    ),
    "distance": Variable(("head",), "float32", "image side", "root mean square attention distance"),
    "self_mass": Variable(("head",), "float32", "1", "attention on the query's own position"),
    "neighbourhood_mass": Variable(("head",), "float32", "1", "attention on the 3 x 3 positions around the query"),
    "mirror_mass": Variable(("head",), "float32", "1", "attention on the left-right mirror image of the query"),
    "received": Variable(
        ("head", "key"), "float16", "times uniform", "attention received by each key, 1 where uniform"
    ),
    "output_mean": Variable(("head", "channel"), "float32", "1", "mean over queries of the head's output"),
    "output_norm": Variable(("head",), "float32", "1", "root mean square norm of the head's output"),
}
# Only where other tokens stand beside those of the image; all others are then those of image queries.
PART_VARIABLES: dict[str, Variable] = {
    "part_mass": Variable(("head", "part"), "float32", "1", "attention of the part's queries that goes to its keys"),
    "part_entropy": Variable(("head", "part"), "float32", "nat", "mass-weighted entropy of attention within the part"),
}
# Beside these, of queries that are not the image's, by what they are.
RECEIVED_FROM: dict[str, Variable] = {
    rest: Variable(
        ("head", "key"),
        "float16",
        "times uniform",
        f"attention received by each key from {rest} queries, 1 where uniform",
    )
    for rest in ("text", "extra")
}
SPATIAL = ("distance", "self_mass", "neighbourhood_mass", "mirror_mass")
MAPS = Variable(("head", "query", "key"), "float16", "1", "attention probabilities of the first samples of the shard")
FACTORS: dict[str, Variable] = {
    "query_factor": Variable(("head", "query", "component"), "float16", "1", "query, scaled to the range of float16"),
    "key_factor": Variable(("head", "key", "component"), "float16", "1", "centred key, scaled to the range of float16"),
    "factor_scale": Variable(("head",), "float32", "1", "what multiplies the product of the factors"),
}
# Only where keys are masked.
KEY_BIAS = Variable(("head", "key"), "float32", "nat", "what the mask adds to the scores of each key")
LOSS = Variable((), "float32", "1", "mean squared error of the predicted noise")
COORDINATES = {
    "guidance": "pass of classifier-free guidance",
    "sample": "sample id",
    "kept_sample": "sample id whose maps are kept",
    "factor_sample": "sample id whose factors are kept",
    "timestep": "timestep of the scheduler, 0 = clean",
    "twin": "untrained initialisation",
}


@dataclass(frozen=True)
class SiteLayout:
    """The shape of one attention site.

    `grid` is (height, width) of the queries, (frames, height, width) of a video's; `tokens` names the keys that are
    not the image's, if it can. `ranges` tells these from the image's where both stand in one softmax; `grid` is then
    that of the image tokens.
    `components` is the length of a query or key, `channels` that of a head's output. `masked` tells whether some keys
    are masked, `causal` whether queries see only the keys up to themselves. `module_path`, `call`, `memory` and `order`
    are those of the site.
    """

    name: str
    kind: str
    heads: tuple[str, ...]
    queries: int
    keys: int
    channels: int
    grid: tuple[int, ...]
    tokens: tuple[str, ...] = ()
    components: int = 0
    masked: bool = False
    causal: bool = False
    ranges: TokenRanges | None = None
    module_path: str = ""
    call: int = 1
    memory: int = 0
    order: str | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The length of each dimension."""
        lengths = {"head": len(self.heads), "query": self.queries, "key": self.keys}
        parts = 0 if self.ranges is None else len(self.ranges.parts)
        return lengths | {"channel": self.channels, "component": self.components, "part": parts}

    @property
    def factors(self) -> dict[str, Variable]:
        """The arrays from which the maps of this site can be computed."""
        return FACTORS | ({"key_bias": KEY_BIAS} if self.masked else {})

    @property
    def variables(self) -> dict[str, Variable]:
        """The quantities this site has: those of space only where keys are positions, those of parts with `ranges`."""
        found = {name: v for name, v in VARIABLES.items() if self.kind != "cross" or name not in SPATIAL}
        if self.ranges is not None:
            found |= PART_VARIABLES
            if len(self.ranges.parts) > 2:
                found[f"received_from_{self.ranges.rest}"] = RECEIVED_FROM[self.ranges.rest]
        return found

    def coords(self) -> dict[str, Coordinate]:
        """Return the coordinates: head names, pixel centres in [0, 1] (NaN on other tokens), what tokens are."""
        coords: dict[str, Coordinate] = {"head": ("head", _text(self.heads), {"long_name": "attention head"})}
        dims: tuple[Dim, ...] = ("query", "key")
        for dim in dims[:1] if self.kind == "cross" else dims:
            coords |= self._places(dim)
        if self.tokens:
            what = (
                "conditioning token" if self.ranges is None or self.ranges.rest == "text" else "token without a place"
            )
            coords["token"] = ("key", _text(self._key_names()), {"long_name": what})
        if self.ranges is not None:
            coords["part"] = ("part", _text(self.ranges.parts), {"long_name": "queries -> keys"})
            about = {"long_name": f"image or {self.ranges.rest}"}
            coords |= {f"{dim}_range": (dim, _text(self.ranges.names(dim)), about) for dim in dims}
        return coords

    def _places(self, dim: Dim) -> dict[str, Coordinate]:
        """Return where the tokens of a dimension stand; text and extra tokens stand nowhere."""
        frames, height, width = (1, *self.grid) if len(self.grid) == 2 else self.grid
        image = slice(0, self.queries) if self.ranges is None else self.ranges.of_image(dim)
        assert frames * height * width == image.stop - image.start
        axes = np.arange(frames), (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        frame, y, x = (np.full(self.sizes[dim], np.nan) for _ in range(3))
        frame[image], y[image], x[image] = (c.ravel() for c in np.meshgrid(*axes, indexing="ij"))
        places: dict[str, Coordinate] = {
            f"{dim}_y": (dim, y, {"units": "image side", "long_name": f"height of the {dim}, 0 = top"}),
            f"{dim}_x": (dim, x, {"units": "image side", "long_name": f"position of the {dim}, 0 = left"}),
        }
        if len(self.grid) == 3:
            places[f"{dim}_frame"] = (dim, frame, {"units": "1", "long_name": f"frame of the {dim}, 0 = first"})
        return places

    def _key_names(self) -> Sequence[str]:
        """Return the name of every key, "" for those of the image."""
        if self.ranges is None:
            return self.tokens
        names = iter(self.tokens)
        return ["" if what == "image" else next(names) for what in self.ranges.names("key")]


@dataclass(frozen=True)
class Kept:
    """The samples of which maps or factors of a site are kept, and the timesteps, which may be some of the store's."""

    samples: Sequence[int]
    timesteps: Sequence[int]


@dataclass(frozen=True)
class Prompted:
    """The texts behind the samples of a store: prompts, and tokens where known."""

    prompts: Sequence[str]
    tokens: Shaped[np.ndarray, "sample text_token"] | None

    def key_names(self, site: SiteLayout) -> Shaped[np.ndarray, "sample key"] | None:
        """Return the token behind each key, "" on the image; None where the keys are other ones."""
        if self.tokens is None or site.kind == "self":
            return None
        first, last = (0, site.keys) if site.ranges is None else site.ranges.text
        if self.tokens.shape[1] != last - first:
            return None
        names = np.full((len(self.prompts), site.keys), "", dtype=np.dtypes.StringDType())
        names[:, first:last] = self.tokens
        return names


def samples_per_chunk(sites: Iterable[SiteLayout], samples: int) -> int:
    """Return how many samples of one timestep make a chunk of the largest quantity, or are held of all quantities."""
    sizes = [_bytes(site, variable) for site in sites for variable in site.variables.values()]
    held = max(HELD_BYTES // sum(sizes), min(FEW_SAMPLES, MOST_HELD_BYTES // sum(sizes)))
    return _aligned(min(CHUNK_BYTES // max(sizes), held), samples)


def _aligned(fit: int, samples: int) -> int:
    """Return the length of chunks of which `fit` samples fit into one: all `samples`, or a power of two.

    Then the shorter of two quantities' chunks, and mostly a batch too, ends where the longer one does, and chunks are
    written whole.
    """
    return max(1, samples if fit >= samples else 2 ** (max(1, fit).bit_length() - 1))


def timesteps_per_chunk(sites: Iterable[SiteLayout], samples: int, timesteps: int) -> int:
    """Return how many timesteps of so many samples are held of all quantities, where chunks have several."""
    size = sum(_bytes(site, variable) for site in sites for variable in site.variables.values())
    return max(1, min(timesteps, HELD_BYTES // (samples * size)))


def create_attention_store(
    store: Path | ArchivingStore,
    sites: Sequence[SiteLayout],
    *,
    axes: Axes,
    chunks: Mapping[str, int],
    kept: Mapping[tuple[str, str], Kept] | None = None,
    prompts: Prompted | None = None,
    compression: Mapping[str, Mapping[str, Any]] | None = None,
    attrs: Mapping[str, Any],
) -> dict[tuple[str, str], zarr.Array]:
    """Lay out an empty store, in a directory or one under construction; return its arrays by (site, variable).

    That of the root is ("", "loss"). `axes` gives the coordinates of the leading dimensions, in order (sample,
    timestep, and before them perhaps twin or guidance), and `chunks` their chunk lengths. `prompts` names the text of
    each sample. `kept` tells, by (site, "maps") and (site, "factors"), what is kept of them, and `compression` by which
    codec (`choose_codecs`). The order of `sites` is kept in the root's attribute `sites`, since a directory has none.
    """
    codecs = {name: choice["codec"] for name, choice in (compression or {}).items()}
    about_all = {**attrs, "sites": [site.name for site in sites], "compression": dict(compression or {})}
    hierarchy = Hierarchy()
    hierarchy.group("", about_all | ({} if prompts is None else {"coordinates": "prompt"}))
    for name, values in axes.items():
        _add_coordinate(hierarchy, name, _ids(name, values))
    if prompts is not None:
        about_prompts = {"long_name": "what the image was asked to show"}
        _add_coordinate(hierarchy, "prompt", ("sample", _text(prompts.prompts), about_prompts))
    _add(hierarchy, "loss", LOSS, axes, chunks, {})
    for site in sites:
        maps, factors = ((kept or {}).get((site.name, what)) for what in ("maps", "factors"))
        coords = site.coords()
        if prompts is not None and (names := prompts.key_names(site)) is not None:
            coords["token"] = (("sample", "key"), names, {"long_name": "token of the prompt"})
        for dim, some in (("kept_sample", maps), ("factor_sample", factors)):
            if some is not None:
                coords[dim] = _ids(dim, some.samples)
        about = {"kind": site.kind, "n_keys": site.keys, "h_max": math.log(site.keys), "grid": list(site.grid)}
        beside = " ".join(sorted(name for name, coordinate in coords.items() if name != coordinate[0]))
        hierarchy.group(site.name, {**about, "coordinates": beside})
        for name, coordinate in coords.items():
            _add_coordinate(hierarchy, f"{site.name}/{name}", coordinate)
        for name, variable in site.variables.items():
            _add(hierarchy, f"{site.name}/{name}", variable, axes, chunks, site.sizes)
        if maps is not None:
            _add_maps(hierarchy, site, maps, axes, codecs)
        if factors is not None:
            _add_factors(hierarchy, site, factors, axes, codecs)
    arrays = hierarchy.create(store)
    paths = (path for path in hierarchy.nodes if path in arrays and path not in hierarchy.coordinates)
    return {(path.rpartition("/")[0], path.rpartition("/")[2]): arrays[path] for path in paths}


def _leading(axes: Axes, dim: str, kept: Kept) -> Axes:
    """Return `axes` with the samples that are kept, as the dimension `dim`, in place of all samples."""
    return {dim if name == "sample" else name: kept.samples if name == "sample" else axes[name] for name in axes}


def _kept_per_chunk(fit: int, kept: Kept) -> int:
    """Return the samples of a chunk of maps or factors: no more than most batches, so that one writes it whole.

    Nor so many that the chunks, of which the last is stored in full, are clearly longer than what is kept.
    """
    count = len(kept.samples)
    length = min(_aligned(fit, count), FEW_SAMPLES)
    while length > 1 and -count % length > MOST_PADDING * count:
        length //= 2
    return length


def _add_maps(hierarchy: Hierarchy, site: SiteLayout, kept: Kept, axes: Axes, codecs: Mapping[str, str]) -> None:
    leading = _leading(axes, "kept_sample", kept)
    per_sample = _bytes(site, MAPS)
    lengths = dict.fromkeys(leading, 1) | {"kept_sample": _kept_per_chunk(CHUNK_BYTES // per_sample, kept)}
    # Maps of one sample and all heads can be hundreds of MB; then a chunk is a single head, or some of its queries.
    if per_sample > 2 * CHUNK_BYTES:
        lengths["head"] = 1
        if per_sample > 2 * CHUNK_BYTES * len(site.heads):
            pieces = math.ceil(per_sample / (CHUNK_BYTES * len(site.heads)))
            lengths["query"] = math.ceil(site.queries / pieces)  # of equal length: the last one is stored in full
    about = {"kept_timesteps": list(kept.timesteps)}
    _add(hierarchy, f"{site.name}/maps", MAPS, leading, lengths, site.sizes, codecs.get("maps"), **about)


def _add_factors(hierarchy: Hierarchy, site: SiteLayout, kept: Kept, axes: Axes, codecs: Mapping[str, str]) -> None:
    largest = max(_bytes(site, variable) for variable in site.factors.values())
    leading = _leading(axes, "factor_sample", kept)
    lengths = dict.fromkeys(leading, 1)
    lengths["factor_sample"] = _kept_per_chunk(FACTOR_CHUNK_BYTES // largest, kept)
    about = {"kept_timesteps": list(kept.timesteps), "causal": site.causal}
    for name, variable in site.factors.items():
        path = f"{site.name}/{name}"
        _add(hierarchy, path, variable, leading, lengths, site.sizes, codecs.get(name), **about)


def _text(values: Sequence[str]) -> np.ndarray:
    return np.asarray(values, dtype=np.dtypes.StringDType())


def _ids(name: str, values: Sequence[int] | Sequence[str]) -> Coordinate:
    named = any(isinstance(value, str) for value in values)
    array = np.asarray(values, np.dtypes.StringDType() if named else np.int64)
    return name, array, {"long_name": COORDINATES[name]}


def _bytes(site: SiteLayout, variable: Variable) -> int:
    return math.prod(site.sizes[dim] for dim in variable.dims) * np.dtype(variable.dtype).itemsize


def _add(
    hierarchy: Hierarchy,
    path: str,
    variable: Variable,
    axes: Axes,
    chunks: Mapping[str, int],
    sizes: Mapping[str, int],
    codec: str | None = None,
    **about: Any,
) -> None:
    """Add an empty array (axes..., dims of `variable`); dimensions that `chunks` does not name are not cut."""
    lengths = {dim: len(values) for dim, values in axes.items()} | {dim: sizes[dim] for dim in variable.dims}
    attributes = {"units": variable.units, "long_name": variable.long_name, **about}
    hierarchy.empty(path, lengths, chunks, variable.dtype, attributes, codec)


def _add_coordinate(hierarchy: Hierarchy, path: str, coordinate: Coordinate) -> None:
    dim, values, attributes = coordinate
    hierarchy.coordinate(path, [dim] if isinstance(dim, str) else dim, values, attributes)
