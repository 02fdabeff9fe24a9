"""What is kept of single passes beside the statistics: attention maps, or the queries and keys they come from. Ours.

Which passes and sites, `capture.maps_of` and `capture.factors_of` say. Maps exist for one chunk at a time; of factors
nothing as large as a map is ever made. `attention.factors` turns factors into maps again.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise

import numpy as np
import torch
import zarr
from torch import Tensor

from diffmech.attention.kernels import score_tiles
from diffmech.attention.layout import Kept, SiteLayout
from diffmech.attention.tap import AttentionCall
from diffmech.config.study import CaptureConfig, KeptPasses
from diffmech.errors import ConfigError, ModelError

# Takes an array of a store, a region of it, and the values that belong there.
Write = Callable[[zarr.Array, tuple[slice | int, ...], np.ndarray], None]

# Factors are scaled so that this is their largest entry: well below where float16 ends, 2^28 above its normal smallest.
LARGEST_ENTRY = 2.0**14


def choose_kept(
    capture: CaptureConfig, layouts: Sequence[SiteLayout], samples: Sequence[int], timesteps: Sequence[int]
) -> dict[tuple[str, str], Kept]:
    """Return, by (site, "maps") and (site, "factors"), the samples and timesteps of which they are kept.

    Raises ConfigError where the configuration names no site of the model.
    """
    kept: dict[tuple[str, str], Kept] = {}
    for what, count, passes in (
        ("maps", capture.keep_maps, capture.maps_of),
        ("factors", capture.keep_factors, capture.factors_of),
    ):
        steps = [t for t in timesteps if passes.timesteps is None or t in passes.timesteps]
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
            maps = attention_maps(call, slice(start - self.row, end - self.row))
            self.write(self.arrays[name, "maps"], (*self.before, slice(start, end), self.column), maps.cpu().numpy())
        for start, end in self._pieces(call, "factors", "query_factor"):
            masked = (name, "key_bias") in self.arrays
            factors = attention_factors(call, slice(start - self.row, end - self.row), masked=masked)
            for variable, values in factors.items():
                region: tuple[slice | int, ...] = (*self.before, slice(start, end), self.column)
                self.write(self.arrays[name, variable], region, values.cpu().numpy())

    def _pieces(self, call: AttentionCall, what: str, variable: str) -> Iterable[tuple[int, int]]:
        """Yield the rows of the running batch that are kept, cut at the borders of chunks."""
        count, columns = self._kept.get((call.site.name, what), (0, []))
        stop = min(count, self.row + len(call.query))
        if self.row >= stop or not columns[self.column]:
            return
        step = self.arrays[call.site.name, variable].chunks[len(self.before)]
        borders = [self.row, *range((self.row // step + 1) * step, stop, step), stop]
        yield from pairwise(borders)


def attention_maps(call: AttentionCall, samples: slice = slice(None)) -> Tensor:
    """Return the attention probabilities (sample, head, query, key) of some samples: float32 softmax, as float16."""
    query, key = call.query[samples], call.key[samples]
    maps = query.new_empty((*query.shape[:3], key.shape[2]), dtype=torch.float16)
    for rows, scores in score_tiles(query, key, call.scale, _mask(call, samples), call.is_causal):
        maps[:, :, rows] = scores.softmax(-1)
    return maps


def attention_factors(call: AttentionCall, samples: slice = slice(None), *, masked: bool = False) -> dict[str, Tensor]:
    """Return what gives the maps of some samples back: query_factor, key_factor, factor_scale; key_bias if `masked`.

    query_factor (sample, head, query, component) and key_factor (sample, head, key, component) are float16,
    factor_scale (sample, head) and key_bias (sample, head, key) float32. Raises ModelError where the mask depends on
    the query, and where there is one although `masked` is False.
    """
    dtype = torch.promote_types(call.query.dtype, torch.float32)
    query, key = call.query[samples].to(dtype), call.key[samples].to(dtype)
    if key.shape[1] != query.shape[1]:  # grouped-query attention: each key head serves several query heads
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    key = key - key.mean(-2, keepdim=True)
    # Of a head whose keys are all equal, the scores are zero whatever they are divided by.
    query_peak, key_peak = (
        factor.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_ENTRY
        for factor in (query, key)
    )
    factors = {
        "query_factor": (query / query_peak).to(torch.float16),
        "key_factor": (key / key_peak).to(torch.float16),
        "factor_scale": (call.scale * query_peak * key_peak).flatten(1).float(),
    }
    mask = _mask(call, samples)
    if mask is not None:
        _require_key_mask(call.site.name, mask)
        if not masked:
            raise ModelError(f"{call.site.name}: got an attention mask, but had none on the first pass; {_INSTEAD}")
    if masked:
        bias = torch.zeros(1, device=query.device) if mask is None else _additive(mask[..., :1, :])
        factors["key_bias"] = bias.expand(*key.shape[:2], 1, key.shape[2])[..., 0, :].float()
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


def _mask(call: AttentionCall, samples: slice) -> Tensor | None:
    mask = call.attn_mask
    return mask[samples] if mask is not None and mask.dim() == 4 and len(mask) > 1 else mask
