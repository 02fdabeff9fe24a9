"""The untrained null: what the heads of the same architecture do with random weights, several times over.

Whatever a trained head shows must exceed what its twins show by initialisation alone. Asking this follows the model
randomisation test of Adebayo et al. 2018; ranking a head among twins is ours.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr

from diffmech.artifacts import building_store, progress
from diffmech.attention.archive import Region, archiving, write_region
from diffmech.attention.capture import Observe, cuts, observing, store_attrs, survey_sites
from diffmech.attention.layout import create_attention_store, samples_per_chunk, timesteps_per_chunk
from diffmech.attention.passes import Latents, join_given, open_latents
from diffmech.attention.results import ChunkResults, Key
from diffmech.batches import Batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import UntrainedConfig
from diffmech.errors import StoreError
from diffmech.models.denoiser import Denoiser
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
    samples, timesteps = passes.samples.tolist(), passes.timesteps.tolist()
    axes = {"twin": list(range(untrained.seeds)), "sample": samples, "timestep": timesteps}
    attrs = store_attrs("capture_untrained", passes, model_json, untrained=untrained.canonical())
    x_t = torch.from_numpy(passes.x_t.values)
    noise = None if passes.noise is None else torch.from_numpy(passes.noise.values)
    with building_store(output) as directory, archiving(directory) as store:
        if not samples:
            create_attention_store(store, [], axes=axes, chunks=dict.fromkeys(axes, 1), attrs=attrs)
            return
        arrays: dict[Key, zarr.Array] = {}
        batches = Batches(runtime.batch_size)

        def run(denoiser: Denoiser, observe: Observe, results: ChunkResults, column: int, rows: slice) -> None:
            added = None if noise is None else noise[rows, column].to(denoiser.device)
            condition = passes.condition(rows, column, denoiser.device)
            noised = x_t[rows, column].to(denoiser.device)
            observe(partial(results.fill, (rows, column)), noised, added, timesteps[column], condition)

        def written(region: Region, key: Key, values: np.ndarray) -> None:
            write_region(arrays[key], region, values)

        for twin in progress(axes["twin"], "untrained twins", total=untrained.seeds, show=runtime.progress):
            denoiser = load_denoiser(Path(model_json), device=runtime.device, untrained_seed=twin)
            layouts = survey_sites(denoiser, passes)
            # Several timesteps make a chunk where they are small: a chunk each would make thousands of tiny ones.
            group = samples_per_chunk(layouts, len(samples))
            columns = timesteps_per_chunk(layouts, group, len(timesteps))
            if not arrays:
                chunks = {"twin": 1, "sample": group, "timestep": columns}
                arrays = create_attention_store(
                    store, layouts, axes=axes, chunks=chunks, prompts=passes.prompts, attrs=attrs
                )
            with channels_last(denoiser.module), observing(denoiser, layouts) as observe:
                for rows, steps in product(
                    cuts(slice(0, len(samples)), group), cuts(slice(0, len(timesteps)), columns)
                ):
                    results = ChunkResults(layouts, (rows, steps), partial(written, (twin, rows, steps)))
                    for column in range(steps.start, steps.stop):
                        batches.run(rows, partial(run, denoiser, observe, results, column))


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
