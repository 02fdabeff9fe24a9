"""The untrained null: what the heads of the same architecture do with random weights, several times over.

Whatever a trained head shows must exceed what its twins show by initialisation alone. Asking this follows the model
randomisation test of Adebayo et al. 2018; ranking a head among twins is ours.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr

from diffmech.artifacts import building_store, progress
from diffmech.attention.archive import ArchivingStore, Region, archiving, write_region
from diffmech.attention.capture import Observe, cuts, observing, store_attrs, survey_sites
from diffmech.attention.layout import SiteLayout, create_attention_store, samples_per_chunk, timesteps_per_chunk
from diffmech.attention.passes import Latents, join_given, open_latents
from diffmech.attention.results import ChunkResults, Key
from diffmech.batches import Batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import UntrainedConfig
from diffmech.errors import StoreError
from diffmech.models.load import load_denoiser
from diffmech.models.memory_format import channels_last


def capture_untrained(
    latents: Sequence[Path | str],
    model_json: Path | str,
    output: Path | str,
    *,
    untrained: UntrainedConfig,
    runtime: RuntimeConfig,
) -> None:
    """Observe `untrained.seeds` random initialisations on the first `untrained.samples` samples of `latents`.

    `latents` are stores of one data set: blocks of timesteps, each in one or more shards. The store has the quantities
    of a capture, no maps, and a leading dimension `twin`; twin s depends on the architecture and s alone. Raises
    StoreError when blocks differ in their samples.
    """
    passes = first_samples([open_latents(path) for path in latents], untrained.samples)
    observe_twins({output: passes}, model_json, untrained=untrained, runtime=runtime)


def observe_twins(
    passes: Mapping[Path | str, Latents],
    model_json: Path | str,
    *,
    untrained: UntrainedConfig,
    runtime: RuntimeConfig,
) -> None:
    """Observe the twins on all `passes`, which are in memory, and write the store that is named with them.

    A twin is made once for all of them.
    """
    twins = list(range(untrained.seeds))
    with ExitStack() as stack:
        writers = []
        for output, some in passes.items():
            attrs = store_attrs("capture_untrained", some, model_json, untrained=untrained.canonical())
            store = stack.enter_context(archiving(stack.enter_context(building_store(output))))
            writers.append(_Twins(store, some, twins, attrs, Batches(runtime.batch_size)))
        if not any(writer.lay_out_empty() for writer in writers):
            return
        layouts: list[SiteLayout] = []  # those of all twins: one architecture
        for twin in progress(twins, "untrained twins", total=len(twins), show=runtime.progress):
            denoiser = load_denoiser(Path(model_json), device=runtime.device, untrained_seed=twin)
            layouts = layouts or survey_sites(denoiser, next(iter(passes.values())))
            with channels_last(denoiser.module), observing(denoiser, layouts) as observe:
                for writer in writers:
                    writer.observe(twin, denoiser.device, layouts, observe)


class _Twins:
    """The store of one set of passes, to which the twins add one after the other."""

    def __init__(
        self,
        store: ArchivingStore,
        passes: Latents,
        twins: Sequence[int],
        attrs: Mapping[str, Any],
        batches: Batches,
    ) -> None:
        self.store, self.passes, self.attrs, self.batches = store, passes, attrs, batches
        self.axes = {"twin": list(twins), "sample": passes.samples.tolist(), "timestep": passes.timesteps.tolist()}
        self.x_t = torch.from_numpy(passes.x_t.values)
        self.noise = None if passes.noise is None else torch.from_numpy(passes.noise.values)
        self.arrays: dict[Key, zarr.Array] = {}

    def lay_out_empty(self) -> bool:
        """Lay out the store where there are no passes; return whether there are any."""
        if not self.axes["sample"]:
            create_attention_store(self.store, [], axes=self.axes, chunks=dict.fromkeys(self.axes, 1), attrs=self.attrs)
        return bool(self.axes["sample"])

    def observe(self, twin: int, device: torch.device, layouts: list[SiteLayout], observe: Observe) -> None:
        """Run all passes through one twin, which `observe` watches."""
        samples, timesteps = self.axes["sample"], self.axes["timestep"]
        if not samples:
            return
        # Several timesteps make a chunk where they are small: a chunk each would make thousands of tiny ones.
        group = samples_per_chunk(layouts, len(samples))
        columns = timesteps_per_chunk(layouts, group, len(timesteps))
        if not self.arrays:
            chunks = {"twin": 1, "sample": group, "timestep": columns}
            self.arrays = create_attention_store(
                self.store, layouts, axes=self.axes, chunks=chunks, prompts=self.passes.prompts, attrs=self.attrs
            )

        def run(results: ChunkResults, column: int, rows: slice) -> None:
            added = None if self.noise is None else self.noise[rows, column].to(device)
            condition = self.passes.condition(rows, column, device)
            noised = self.x_t[rows, column].to(device)
            observe(partial(results.fill, (rows, column)), noised, added, timesteps[column], condition)

        def written(region: Region, key: Key, values: np.ndarray) -> None:
            write_region(self.arrays[key], region, values)

        for rows, steps in product(cuts(slice(0, len(samples)), group), cuts(slice(0, len(timesteps)), columns)):
            results = ChunkResults(layouts, (rows, steps), partial(written, (twin, rows, steps)))
            for column in range(steps.start, steps.stop):
                self.batches.run(rows, partial(run, results, column))


def first_samples(latents: Sequence[Latents], count: int) -> Latents:
    """Return the first `count` samples of all `latents` at all their timesteps, as one in memory.

    Raises StoreError when the blocks do not hold the same samples or hold a timestep twice.
    """
    blocks: dict[tuple[int, ...], list[Latents]] = {}
    for shard in latents:
        blocks.setdefault(tuple(shard.timesteps.tolist()), []).append(shard)
    joined = [_shards(shards, count) for _, shards in sorted(blocks.items())]
    first = joined[0]
    timesteps = np.concatenate([block.timesteps for block in joined])
    for block in joined[1:]:
        if not np.array_equal(block.samples, first.samples):
            raise StoreError(
                f"{block.path}: holds other samples than {first.path}; let the workflow make the missing latents"
            )
    if len(np.unique(timesteps)) != len(timesteps):
        raise StoreError(f"{first.path}: its data set has latents with the same timestep twice; delete the older ones")
    order = np.argsort(timesteps)
    x_t = xr.concat([block.x_t for block in joined], "timestep", join="exact")[:, order]
    known = [block.noise for block in joined if block.noise is not None]
    noise = xr.concat(known, "timestep", join="exact")[:, order] if known else None
    given = join_given([block.given for block in joined], "timestep") if "timestep" in first.given.dims else first.given
    return replace(first, timesteps=timesteps[order], given=given, x_t=x_t, noise=noise)


def _shards(shards: Sequence[Latents], count: int) -> Latents:
    """Return the first `count` samples of the shards of one block."""
    # An empty shard, beyond the end of a small data set, comes last.
    shards = sorted(shards, key=lambda shard: (not len(shard.samples), shard.samples[:1].tolist()))
    left, parts = count, list[tuple[Latents, slice]]()
    for shard in shards:
        some = slice(0, min(left, len(shard.samples)))
        if some.stop or not parts:
            parts.append((shard, some))
            left -= some.stop
    given = join_given([shard.given.isel(sample=some) for shard, some in parts], "sample")
    x_t = xr.concat([shard.x_t[some].load() for shard, some in parts], "sample")
    known = [shard.noise[some].load() for shard, some in parts if shard.noise is not None]
    noise = xr.concat(known, "sample") if known else None
    return replace(shards[0], samples=x_t["sample"].values, given=given, x_t=x_t, noise=noise)
