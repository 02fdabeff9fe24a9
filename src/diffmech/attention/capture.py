"""Watch every attention of a denoiser on stored latents and write what each head does: statistics, and some maps.

Each (sample, timestep) is one forward pass under `AttentionTap`, with the statistics of `attention.statistics` and the
denoising loss of Ho et al. 2020 (eq. 14) against the stored noise. At most one chunk (one timestep of some samples) is
held in memory, and of that only what its later passes are still to fill: memory depends neither on the number of
samples nor on that of timesteps, nor, where a batch is a chunk, on that of sites.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from jaxtyping import Float, Shaped
from torch import Tensor

from diffmech.artifacts import building_store, file_sha256, progress, provenance, read_json
from diffmech.attention.archive import ArchivingStore, Region, archiving
from diffmech.attention.budget import require_disk, require_memory, store_contents
from diffmech.attention.calls import AttentionCall
from diffmech.attention.compression import choose_codecs
from diffmech.attention.extra_tokens import extra_ranges
from diffmech.attention.keeping import FirstChunks, PassKeeper, Write, choose_kept
from diffmech.attention.layout import Kept, SiteLayout, create_attention_store, samples_per_chunk
from diffmech.attention.passes import Latents, open_latents
from diffmech.attention.ranges import TokenRanges, count
from diffmech.attention.results import LOSS_KEY, ChunkResults, Key
from diffmech.attention.sites import AttentionSite, head_ids
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.survey import attention_sites
from diffmech.attention.tap import AttentionTap
from diffmech.attention.text_tokens import token_ranges
from diffmech.attention.writing import writing
from diffmech.batches import Batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import CaptureConfig
from diffmech.errors import DiffmechError, ModelError, StoreError
from diffmech.models.denoiser import Conditioning, Denoiser
from diffmech.models.load import load_denoiser

INHERITED_ATTRS = ("model_sha256", "dataset", "domain", "domain_note", "condition", "seed")


def capture_attention(
    latents: Path | str,
    model_json: Path | str,
    output: Path | str,
    *,
    capture: CaptureConfig,
    runtime: RuntimeConfig,
    untrained_seed: int | None = None,
    load: Callable[..., Denoiser] = load_denoiser,
) -> None:
    """Run the denoiser once per (sample, timestep) of `latents` and write the attention store `output`.

    `untrained_seed` replaces the weights by random ones; `load` is called where there is anything to run. Batch size
    and device change the speed, not the result. Raises ModelError, naming site and timestep, where activations are not
    finite, and where a site cannot be observed, and, before the first pass, StoreError and ConfigError where disk and
    memory surely do not suffice.
    """
    passes = open_latents(latents)
    choices = ("keep_maps", "keep_factors", "maps_of", "factors_of")
    parameters = {name: value for name, value in capture.canonical().items() if name in choices}
    attrs = store_attrs("capture_attention", passes, model_json, **parameters, untrained_seed=untrained_seed)
    with building_store(output) as directory, archiving(directory) as store:
        if not len(passes.samples):
            axes = store_axes(passes)
            create_attention_store(store, [], axes=axes, chunks=dict.fromkeys(axes, 1), attrs=attrs)
            return
        denoiser = load(Path(model_json), device=runtime.device, untrained_seed=untrained_seed)
        first = FirstChunks()
        layouts = survey_sites(denoiser, passes, first)
        timesteps = passes.timesteps.tolist()
        asked = passes.attrs.get("asked_timesteps", timesteps)  # a trajectory has the sampling steps nearest to them
        kept = choose_kept(capture, layouts, passes.samples.tolist(), dict(zip(timesteps, asked, strict=True)))
        compression = choose_codecs(first.samples) if kept else {}
        arrays = lay_out(
            store,
            layouts,
            store_axes(passes),
            kept=kept,
            compression=compression,
            prompts=passes.prompts,
            attrs=attrs,
        )
        require_disk(Path(output), store_contents(store, arrays), compression)
        if denoiser.device.type == "cpu":
            itemsize = next(denoiser.module.parameters()).element_size()
            require_memory(layouts, arrays, batch=min(runtime.batch_size, len(passes.samples)), itemsize=itemsize)
        store.append_small()
        observe_passes(denoiser, layouts, passes, arrays, kept, runtime)


def capture_shards(
    latents: Path | str,
    model_json: Path | str,
    output: Path | str,
    ahead: Mapping[Path, Path],
    *,
    capture: CaptureConfig,
    runtime: RuntimeConfig,
) -> None:
    """Capture one shard, then those of `ahead`, stores by latents, with the denoiser that is loaded.

    What cannot be captured ahead of its turn is left to its own job, which tells why. Raises as `capture_attention`.
    """
    load = lru_cache(maxsize=1)(load_denoiser)
    capture_attention(latents, model_json, output, capture=capture, runtime=runtime, load=load)
    for others, store in ahead.items():
        with suppress(DiffmechError, OSError):
            capture_attention(others, model_json, store, capture=capture, runtime=runtime, load=load)


def store_axes(passes: Latents) -> dict[str, Any]:
    """Return the leading dimensions of the store of `passes`, with their coordinates."""
    guided = {"guidance": list(passes.guidance)} if passes.guidance else {}
    return {**guided, "sample": passes.samples.tolist(), "timestep": passes.timesteps.tolist()}


def lay_out(
    store: Path | ArchivingStore, layouts: Sequence[SiteLayout], axes: Mapping[str, Any], **contents: Any
) -> dict[Key, zarr.Array]:
    """Lay out the empty store of a capture with these `axes`; for `contents` see `create_attention_store`."""
    group = samples_per_chunk(layouts, len(axes["sample"]))
    chunks = {**dict.fromkeys(axes, 1), "sample": group}
    return create_attention_store(store, layouts, axes=axes, chunks=chunks, **contents)


def observe_passes(
    denoiser: Denoiser,
    layouts: list[SiteLayout],
    passes: Latents,
    arrays: Mapping[Key, zarr.Array],
    kept: Mapping[Key, Kept],
    runtime: RuntimeConfig,
) -> None:
    """Run all `passes` and fill the arrays of `lay_out` with what is observed."""
    with writing() as write:
        keeper = PassKeeper(arrays, kept, passes.timesteps.tolist(), write)
        with observing(denoiser, layouts, keeper) as observe:
            _observe_chunks(observe, layouts, passes, arrays, runtime, denoiser.device, keeper, write)


def survey_sites(denoiser: Denoiser, latents: Latents, *observers: Any) -> list[SiteLayout]:
    """Return the layout of every attention site, as `survey_pass` learns it from the first of `latents`."""
    x_t = torch.from_numpy(latents.x_t[:1, 0].values).to(denoiser.device)
    condition = latents.condition(slice(0, 1), 0, denoiser.device)
    return survey_pass(denoiser, x_t, int(latents.timesteps[0]), condition, *observers)


def survey_pass(
    denoiser: Denoiser,
    x_t: Float[Tensor, "sample ..."],
    timestep: int,
    condition: Conditioning,
    *observers: Any,
) -> list[SiteLayout]:
    """Return the layout of every attention site, learned from one pass of one sample, which `observers` may see.

    Raises ModelError naming the sites that cannot be tapped, or that are not laid out on the image.
    """

    def run() -> Tensor:
        return denoiser.predict_noise(x_t, timestep, condition)

    seen: dict[str, SiteLayout] = {}

    def learn(call: AttentionCall) -> None:
        seen[call.site.name] = SiteLayout(
            name=call.site.name,
            kind=call.site.kind,
            heads=head_ids(call.site),
            queries=call.query.shape[-2],
            keys=call.key.shape[-2],
            channels=call.output.shape[-1],
            grid=(),
            components=call.query.shape[-1],
            masked=call.attn_mask is not None,
            causal=call.is_causal,
            module_path=call.site.module_path,
            call=call.site.call,
            memory=call.site.memory,
            order=call.site.order,
        )

    sites = attention_sites(denoiser.module, run, learn, *observers)
    layouts = [seen[site.name] for site in sites]
    tokens = {layout.name: (layout.queries, layout.keys) for layout in layouts if layout.kind == "self"}
    ranges = token_ranges(denoiser.module, run)
    ranges |= extra_ranges(denoiser.module, run, sites, tokens, denoiser.has_grid)
    return [_placed(denoiser, layout, ranges.get(layout.name)) for layout in layouts]


def _placed(denoiser: Denoiser, site: SiteLayout, ranges: TokenRanges | None) -> SiteLayout:
    """Return the layout with where the tokens stand and what they are called."""
    names = denoiser.token_names
    if site.kind == "self":
        names = () if ranges is None else tuple(f"extra {index}" for index in range(sum(ranges.extra)))
    elif len(names) != (site.keys if ranges is None else count(ranges.of_rest("key"))):
        names = ()
    grid = denoiser.site_grid(site, site.queries if ranges is None else count(ranges.of_image("query")))
    return replace(site, grid=grid, tokens=names, ranges=ranges)


# Takes a site and what was found there, by variable.
Fill = Callable[[str, Mapping[str, Shaped[np.ndarray, "..."]]], None]

# (what to fill, x_t, noise, timestep, condition)
Observe = Callable[[Fill, Float[Tensor, "sample ..."], Float[Tensor, "sample ..."] | None, int, Conditioning], None]


@contextmanager
def observing(denoiser: Denoiser, layouts: list[SiteLayout], *observers: Any) -> Iterator[Observe]:
    """Yield a function that fills in the statistics and the loss (sample, ...) of one forward pass.

    On a sampling trajectory there is no noise to compare with, and the loss is NaN.
    """
    statistics, expected = _Collector(layouts), [layout.name for layout in layouts]
    sites = [_site(layout) for layout in layouts]
    tap = AttentionTap(denoiser.module, [statistics, *observers], sites=sites, whole=True)

    def observe(fill: Fill, x_t: Tensor, noise: Tensor | None, timestep: int, condition: Conditioning) -> None:
        statistics.begin(fill, timestep)
        tap.where = f"at timestep {timestep}: "
        try:
            prediction = denoiser.predict_noise(x_t, timestep, condition)
            size = (prediction if noise is None else prediction - noise).square().flatten(1).mean(1)
            statistics.hand_over()
            _require_calls(tap.calls, expected, timestep)
        finally:  # also where memory ran out in the middle of the pass
            statistics.results.clear()
        loss = size.float().cpu().numpy()
        _require_finite(loss, "the predicted noise", timestep)
        fill(LOSS_KEY[0], {LOSS_KEY[1]: loss if noise is not None else np.full_like(loss, np.nan)})

    with torch.no_grad(), tap:
        yield observe


def _site(layout: SiteLayout) -> AttentionSite:
    kind, heads = layout.kind, len(layout.heads)
    return AttentionSite(layout.name, layout.module_path, kind, heads, layout.call, layout.memory, layout.order)  # type: ignore[arg-type]


class _Collector(StatisticsObserver):
    """Observer that hands the statistics of every site of the running pass over.

    On a CPU at once: small arrays that are made between the large ones of a pass, and outlive them, would tear the heap
    to pieces. What a GPU found is copied when the pass has ended, since a copy per site would stall it.
    """

    def __init__(self, layouts: Sequence[SiteLayout]) -> None:
        super().__init__(
            {layout.name: layout.grid for layout in layouts},
            {layout.name: layout.ranges for layout in layouts if layout.ranges is not None},
        )
        self.variables = {layout.name: layout.variables for layout in layouts}

    def begin(self, fill: Fill, timestep: int) -> None:
        """Hand what is found from here on to `fill`."""
        self.fill, self.timestep = fill, timestep

    def observe(self, call: AttentionCall) -> None:
        super().observe(call)
        if call.query.device.type == "cpu":
            self.hand_over()

    def hand_over(self) -> None:
        """Hand over what was found, in the order of the sites."""
        for site in list(self.results):
            found = self.results.pop(site)
            values = {
                name: getattr(found, name).float().cpu().numpy().astype(variable.dtype, copy=False)
                for name, variable in self.variables[site].items()
            }
            for name, array in values.items():
                _require_finite(array, f"{site}: {name}", self.timestep)
            self.fill(site, values)


def _observe_chunks(
    observe: Observe,
    layouts: list[SiteLayout],
    latents: Latents,
    arrays: Mapping[Key, zarr.Array],
    runtime: RuntimeConfig,
    device: torch.device,
    keeper: PassKeeper,
    write: Write,
) -> None:
    """Run every chunk, some samples at one timestep, in batches, and hand what is found to `write`.

    With guidance, each chunk is run once per branch. A batch that does not fit into memory is halved, see `Batches`.
    """
    branches: list[tuple[int, ...]] = [(branch,) for branch in range(len(latents.guidance))] or [()]
    steps = [
        (column, chunk, branch, rows)
        for column in range(len(latents.timesteps))
        for chunk in cuts(slice(0, len(latents.samples)), arrays[LOSS_KEY].chunks[-2])
        for branch in branches
        for rows in cuts(chunk, runtime.batch_size)
    ]
    batches = Batches(runtime.batch_size)

    def written(region: Region, key: Key, values: np.ndarray) -> None:
        write(arrays[key], region, values)

    def run(
        column: int, start: int, branch: tuple[int, ...], x_t: np.ndarray, noise: np.ndarray | None, rows: slice
    ) -> None:
        some = slice(rows.start - start, rows.stop - start)
        keeper.before, keeper.row, keeper.column = branch, rows.start, column
        noised = torch.from_numpy(x_t[some]).to(device)
        added = None if noise is None else torch.from_numpy(noise[some]).to(device)
        condition = latents.condition(rows, column, device, *branch)
        observe(partial(results.fill, (rows,)), noised, added, int(latents.timesteps[column]), condition)

    for column, chunk, branch, rows in progress(steps, "capture (batches)", total=len(steps), show=runtime.progress):
        if rows.start == chunk.start:  # a chunk of latents is read once, not once per batch
            x_t = latents.x_t[chunk, column].values
            noise = None if latents.noise is None else latents.noise[chunk, column].values
            results = ChunkResults(layouts, (chunk,), partial(written, (*branch, chunk, column)))
        batches.run(rows, partial(run, column, chunk.start, branch, x_t, noise))


def cuts(rows: slice, length: int) -> list[slice]:
    """Return `rows` in pieces of at most `length`."""
    return [slice(start, min(start + length, rows.stop)) for start in range(rows.start, rows.stop, length)]


def store_attrs(rule: str, latents: Latents, model_json: Path | str, **parameters: Any) -> dict[str, Any]:
    """Return the attributes of a store: what its files must agree on, and where everything in it comes from.

    Raises StoreError when the latents were made for another model.
    """
    model = read_json(model_json)
    if latents.attrs["model_sha256"] != model["sha256"]:
        raise StoreError(
            f"{latents.path}: was made for model {latents.attrs['model_sha256']}, but {model_json} is "
            f"{model['sha256']}; let the workflow make the latents anew"
        )
    return {
        "model": Path(model_json).parent.name,
        **{key: latents.attrs[key] for key in INHERITED_ATTRS},
        "provenance": provenance(
            rule=rule,
            parameters=parameters,
            inputs={"latents": file_sha256(latents.path), "model": model["sha256"]},
            latents=json.loads(latents.attrs["provenance"]),
        ),
    }


def _require_calls(found: Sequence[str], expected: Sequence[str], timestep: int) -> None:
    if list(found) != list(expected):  # those that are missing, the tap has named
        more = ", ".join(dict.fromkeys(name for name in found if name not in expected))
        raise ModelError(
            f"at timestep {timestep} the model makes other attention calls than in the first pass"
            f"{f' ({more})' if more else ', or in another order'}; give capture.timesteps at which it makes the same "
            "calls, and study the others on their own"
        )


def _require_finite(values: np.ndarray, what: str, timestep: int) -> None:
    # Sites are asked in the order in which they ran and the loss last, so the first one named is where it began.
    if not np.isfinite(values).all():
        raise ModelError(
            f"{what} is not finite at timestep {timestep}; "
            "check the model's weights and run it in float32 on images in [-1, 1]"
        )
