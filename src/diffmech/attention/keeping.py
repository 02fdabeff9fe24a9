"""What is kept of single passes beside the statistics: attention maps, or the queries and keys they come from. Ours.

Which passes and sites, `capture.maps_of` and `capture.factors_of` say. Maps exist for one chunk at a time; of factors
nothing as large as a map is ever made. `attention.factors` turns factors into maps again.
"""

import difflib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
import zarr
from jaxtyping import Float, Shaped
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.kernels import TILE_ELEMENTS, score_tiles
from diffmech.attention.layout import CHUNK_BYTES, Kept, SiteLayout
from diffmech.attention.scratch import scratch, scratch_parts
from diffmech.attention.sums import probability_tiles
from diffmech.attention.writing import Region
from diffmech.config.study import CaptureConfig, KeptPasses
from diffmech.errors import ConfigError, ModelError

# Takes an array of a store, a region of it, and the values that belong there.
Write = Callable[[zarr.Array, Region, Shaped[np.ndarray, "..."]], None]

# Factors are scaled so that this is their largest entry: well below where float16 ends, 2^28 above its normal smallest.
LARGEST_ENTRY = 2.0**14


def choose_kept(
    capture: CaptureConfig, layouts: Sequence[SiteLayout], samples: Sequence[int], timesteps: Mapping[int, int]
) -> dict[tuple[str, str], Kept]:
    """Return, by (site, "maps") and (site, "factors"), the samples and timesteps of which they are kept.

    `timesteps` gives, for each timestep of the store, the one of `capture.timesteps` that it stands for. Raises
    ConfigError where the configuration names no site of the model.
    """
    kept: dict[tuple[str, str], Kept] = {}
    for what, count, passes in (
        ("maps", capture.keep_maps, capture.maps_of),
        ("factors", capture.keep_factors, capture.factors_of),
    ):
        steps = [t for t, asked in timesteps.items() if passes.timesteps is None or asked in passes.timesteps]
        for site in choose_sites(passes, layouts, f"capture.{what}_of") if count else []:
            kept[site.name, what] = Kept(samples[:count], steps)
    return kept


def choose_sites(passes: KeptPasses, layouts: Sequence[SiteLayout], key: str) -> list[SiteLayout]:
    """Return the sites that `passes`, the section `key` of the configuration, selects, in the order of `layouts`.

    Raises ConfigError where a pattern matches no site, and where all sites that match have too many queries.
    """
    names = [site.name for site in layouts]
    for pattern in passes.sites:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = ", ".join(difflib.get_close_matches(pattern, names, n=3, cutoff=0.0))
            raise ConfigError(
                f"{key}.sites: {pattern!r} matches none of the {len(names)} attention sites of this model; "
                f"nearest: {near}"
            )
    matching = [site for site in layouts if any(fnmatchcase(site.name, pattern) for pattern in passes.sites)]
    chosen = [site for site in matching if passes.max_queries is None or site.queries <= passes.max_queries]
    if not chosen:
        fewest = min(matching, key=lambda site: site.queries)
        raise ConfigError(
            f"{key}.max_queries: {passes.max_queries} leaves no site; {fewest.name} has the fewest queries, "
            f"{fewest.queries}"
        )
    return chosen


class PassKeeper:
    """Observer that hands the maps and factors that are to be kept to `write`, as they come.

    `row` and `column` say where the running batch stands in the store, `before` where on the axes before them. Maps of
    one chunk at a time are made: on large images those of a whole batch would not fit anywhere.
    """

    needs_lse = True

    def __init__(
        self,
        arrays: Mapping[tuple[str, str], zarr.Array],
        kept: Mapping[tuple[str, str], Kept],
        timesteps: Sequence[int],
        write: Write,
    ) -> None:
        self.arrays = arrays
        self.write = write
        self.row = 0
        self.column = 0
        self.before: tuple[int, ...] = ()
        self._kept = {key: (len(some.samples), [t in some.timesteps for t in timesteps]) for key, some in kept.items()}

    def observe(self, call: AttentionCall) -> None:
        name = call.site.name
        for start, end in self._pieces(call, "maps", "maps"):
            array, rows = self.arrays[name, "maps"], slice(start - self.row, end - self.row)
            heads, queries = array.chunks[-3:-1]
            for head in range(0, call.query.shape[1], heads):
                some = slice(head, head + heads)
                for tokens, maps in map_blocks(call, rows, some, queries):
                    region: Region = (*self.before, slice(start, end), self.column, some, tokens)
                    self.write(array, region, maps.cpu().numpy())
        for start, end in self._pieces(call, "factors", "query_factor"):
            masked = (name, "key_bias") in self.arrays
            factors = attention_factors(call, slice(start - self.row, end - self.row), masked=masked)
            for variable, values in factors.items():
                rows_of: Region = (*self.before, slice(start, end), self.column)
                self.write(self.arrays[name, variable], rows_of, values.cpu().numpy())

    def _pieces(self, call: AttentionCall, what: str, variable: str) -> Iterator[tuple[int, int]]:
        """Yield the rows of the running batch that are kept, cut at the borders of chunks."""
        count, columns = self._kept.get((call.site.name, what), (0, []))
        stop = min(count, self.row + len(call.query))
        if self.row >= stop or not columns[self.column]:
            return
        step = self.arrays[call.site.name, variable].chunks[len(self.before)]
        borders = [self.row, *range((self.row // step + 1) * step, stop, step), stop]
        yield from itertools.pairwise(borders)


class FirstChunks:
    """Observer that keeps a chunk of what the largest site of a pass gives: `samples` by kind, to choose codecs by.

    Kinds are "maps", "query_factor" and "key_factor".
    """

    def __init__(self) -> None:
        self.samples: dict[str, np.ndarray] = {}
        self._largest = 0

    def observe(self, call: AttentionCall) -> None:
        size = call.query.shape[1] * call.query.shape[2] * call.key.shape[2]
        if size <= self._largest:
            return
        self._largest = size
        heads = max(1, min(call.query.shape[1], CHUNK_BYTES // (2 * call.query.shape[2] * call.key.shape[2])))
        queries = max(1, min(call.query.shape[2], CHUNK_BYTES // (2 * call.key.shape[2])))
        found = {
            "maps": next(map_blocks(call, slice(0, 1), slice(0, heads), queries))[1],
            **_factors(call, slice(0, 1)),
        }
        self.samples = {kind: found[kind].cpu().numpy() for kind in ("maps", "query_factor", "key_factor")}


def attention_maps(call: AttentionCall, samples: slice = slice(None)) -> Float[Tensor, "sample head query key"]:
    """Return the attention probabilities of some samples: float32 softmax, as float16."""
    [(_, maps)] = map_blocks(call, samples, slice(None), call.query.shape[-2])
    return maps


def map_blocks(
    call: AttentionCall, samples: slice, heads: slice, length: int
) -> Iterator[tuple[slice, Float[Tensor, "sample head query key"]]]:
    """Yield blocks of `length` queries (the last may be shorter) and their maps, float16."""
    queries = call.query.shape[2]
    for start in range(0, queries, length):
        rows = slice(start, min(start + length, queries))
        yield rows, _maps_of(call, samples, heads, rows)


def _maps_of(call: AttentionCall, samples: slice, heads: slice, rows: slice) -> Float[Tensor, "sample head query key"]:
    """Return the maps of some queries, float16, from tiles that stay in the caches."""
    query, key = call.query[samples, heads, rows], _keys_of_all_heads(call)[samples, heads]
    maps = scratch((*query.shape[:3], key.shape[2]), torch.float16, query.device)
    mask = _mask(call, samples)
    if call.lse is not None and mask is None and not call.is_causal:
        lse = call.lse[samples, heads, rows].to(torch.promote_types(query.dtype, torch.float32))
        tiles = probability_tiles(query.flatten(0, 1), key.flatten(0, 1), call.scale, lse.flatten(0, 1))
        for which, queries, _, p in tiles:
            maps.flatten(0, 1)[which, queries] = p
        return maps
    if mask is not None:
        mask = mask.expand(len(query), *call.query.shape[1:3], key.shape[2])[:, heads, rows]
    group = max(1, TILE_ELEMENTS // (query.shape[2] * key.shape[2]))
    for sample, head in itertools.product(range(len(query)), range(0, query.shape[1], group)):
        some = slice(sample, sample + 1), slice(head, head + group)
        part = None if mask is None else mask[some]
        for tile, scores in score_tiles(query[some], key[some], call.scale, part, call.is_causal, rows.start):
            maps[some][:, :, tile] = scores.softmax(-1)
    return maps


def attention_factors(
    call: AttentionCall, samples: slice = slice(None), *, masked: bool = False
) -> dict[str, Float[Tensor, "sample head ..."]]:
    """Return what gives the maps of some samples back: query_factor, key_factor, factor_scale; key_bias if `masked`.

    query_factor (sample, head, query, component) and key_factor (sample, head, key, component) are float16,
    factor_scale (sample, head) and key_bias (sample, head, key) float32. Raises ModelError where the mask depends on
    the query, and where there is one although `masked` is False.
    """
    mask = _mask(call, samples)
    if mask is not None:
        _require_key_mask(call.site.name, mask)
        if not masked:
            raise ModelError(f"{call.site.name}: got an attention mask, but had none on the first pass; {_INSTEAD}")
    factors = _factors(call, samples, masked=masked)
    if masked:
        factors["key_bias"].copy_(torch.zeros(1) if mask is None else _additive(mask[..., :1, :])[..., 0, :])
    return factors


def _factors(
    call: AttentionCall, samples: slice, *, masked: bool = False
) -> dict[str, Float[Tensor, "sample head ..."]]:
    """Return query_factor, key_factor and factor_scale, and if `masked` an empty key_bias."""
    dtype = torch.promote_types(call.query.dtype, torch.float32)
    query, key = call.query[samples].to(dtype), _keys_of_all_heads(call)[samples].to(dtype)
    key = key - key.mean(-2, keepdim=True)
    # Of a head whose keys are all equal, the scores are zero whatever they are divided by.
    query_peak, key_peak = (
        factor.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_ENTRY
        for factor in (query, key)
    )
    shapes = {
        "query_factor": (query.shape, torch.float16),
        "key_factor": (key.shape, torch.float16),
        "factor_scale": (query.shape[:2], torch.float32),
        **({"key_bias": (key.shape[:3], torch.float32)} if masked else {}),
    }
    factors = scratch_parts(shapes, query.device)  # they wait for the writer
    factors["query_factor"].copy_(query / query_peak)
    factors["key_factor"].copy_(key / key_peak)
    factors["factor_scale"].copy_((call.scale * query_peak * key_peak).flatten(1))
    return factors


_INSTEAD = "leave the site out of capture.factors_of.sites and keep its maps instead"


def _require_key_mask(site: str, mask: Tensor) -> None:
    if mask.shape[-2] > 1 and not (mask == mask[..., :1, :]).all():
        raise ModelError(f"{site}: its attention mask depends on the query, which factors cannot hold; {_INSTEAD}")


def _additive(mask: Tensor) -> Tensor:
    """Return a mask as what it adds to the scores: 0 and -inf where it is boolean."""
    return (
        mask
        if mask.dtype != torch.bool
        else torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
    )


def _keys_of_all_heads(call: AttentionCall) -> Float[Tensor, "sample head key channel"]:
    repeats = call.query.shape[1] // call.key.shape[1]  # grouped-query attention: a key head serves several query heads
    return call.key if repeats == 1 else call.key.repeat_interleave(repeats, dim=1)


def _mask(call: AttentionCall, samples: slice) -> Tensor | None:
    mask = call.attn_mask
    return mask[samples] if mask is not None and mask.dim() == 4 and len(mask) > 1 else mask
