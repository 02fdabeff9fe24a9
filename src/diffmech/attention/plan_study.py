"""The budget of a whole study as a table: nothing of it need exist but the model, and not even that if it is trained.

A denoiser that is yet to be trained is built with random weights: its passes cost the same, its maps compress better.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from diffmech.attention.budget import readable
from diffmech.attention.calibration import STEPS, Calibration, calibrate, example_latents, spread
from diffmech.attention.generated import generated_latents
from diffmech.attention.passes import Latents, open_latents
from diffmech.attention.plan_others import Facts, plan_others
from diffmech.attention.planning import (
    Estimate,
    beside_latents,
    capture_jobs,
    image_bytes,
    makespan,
    plan_ablation,
    plan_captures,
    plan_latents,
    plan_untrained,
)
from diffmech.config.models import DenoiserConfig
from diffmech.config.root import Config
from diffmech.data.store import open_dataset
from diffmech.errors import StoreError
from diffmech.machine import duration, free_disk, free_memory
from diffmech.models.denoiser import Denoiser
from diffmech.models.importing import import_denoiser
from diffmech.models.load import count_parameters, load_denoiser
from diffmech.models.sampling import gallery_rows

RECORDED = "latents.zarr.zip"  # what was given to a pipeline's denoiser, as an example
COLUMNS = ("", "jobs", "disk", "at most", "memory/job", "GPU/job", "time", "")


@dataclass(frozen=True)
class Workload:
    """How the workflow cuts a study: shards of sample ids, blocks of timesteps, jobs, and how many run at a time."""

    shards: Sequence[Sequence[int]]
    blocks: Sequence[Sequence[int]]
    ablations: int
    side_by_side: int


def plan_study(config: Config, workload: Workload, *, results: Path, root: Path, generated: Path | None = None) -> str:
    """Return a table of what the study will take in `results`, on this machine, by what its captures keep.

    `root` is the project. `generated` is one shard of a pipeline's images, the only thing from which the shapes of its
    passes are known. Raises StoreError where it is not there, and what loading and observing a denoiser raise.
    """
    timesteps = config.capture.timesteps
    samples = [_samples(config, dataset, results) for dataset in config.study.domains.values()]
    jobs = capture_jobs(workload.shards, workload.blocks, samples)
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".plan.", dir=results) as temporary:
        folder = Path(temporary)
        denoiser, measured, load_seconds, notes = calibrate_study(
            config, max(count for count, _ in jobs), results=results, folder=folder, root=root, generated=generated
        )
        example = measured.example
        if config.model.source == "pipeline":
            # of the passes that were recorded: as much in each store as in that of the example
            count = len(example.samples)
            recorded = (folder / RECORDED).stat().st_size - image_bytes(example, count, example.timesteps.tolist())
            latents = plan_latents(jobs, example, lambda samples, _: recorded * samples // count)
        else:
            beside = partial(
                beside_latents,
                shape=denoiser.sample_shape,
                attributes=denoiser.attributes,
                latents=config.latents,
                folder=folder,
            )
            latents = plan_latents(jobs, example, beside)
        captures = plan_captures(jobs, measured, capture=config.capture, runtime=config.runtime, folder=folder)
        twins = plan_untrained(
            measured, timesteps, samples, untrained=config.untrained, load_seconds=load_seconds, folder=folder
        )
    ablations = plan_ablation(
        measured,
        config.ablation_timesteps,
        samples,
        workload.ablations,
        ablation=config.ablation,
        clusters=config.mechanisms.clusters + config.mechanisms.cross_clusters,
    )
    others = [
        work.estimate(measured.plain_seconds, measured.pass_seconds, load_seconds)
        for work in plan_others(config, facts_of(config, denoiser, measured, samples))
    ]
    rows = [latents, *captures, twins, ablations, *others]
    title = _title(config, measured, denoiser, samples, workload.side_by_side)
    return "\n".join([title, "", *_table(rows, workload.side_by_side), "", *_room(rows, workload, results), *notes])


def facts_of(config: Config, denoiser: Denoiser, measured: Calibration, samples: Sequence[int]) -> Facts:
    """Return what is known before the study runs: of the denoiser, and of data sets of so many samples."""
    prompted = config.model.source == "pipeline"
    by_name = 1 + sum(domain in denoiser.domains for domain in config.study.domains)
    # prompts are told by themselves, and nothing where guidance has a pass for it
    by_prompt = len(config.study.domains) + (len(measured.example.guidance) > 1)
    return Facts(
        images=list(samples),
        heads=sum(len(site.heads) for site in measured.layouts),
        sites=len(measured.layouts),
        tellings=by_prompt if prompted else by_name,
        conditional=len(measured.example.guidance) > 1 if prompted else denoiser.conditional,
        rows=0 if prompted else len(gallery_rows(denoiser, config.sampling)),
        on_cpu=denoiser.device.type == "cpu",
    )


def calibrate_study(
    config: Config, samples: int, *, results: Path, folder: Path, root: Path, generated: Path | None = None
) -> tuple[Denoiser, Calibration, float, list[str]]:
    """Return the studied denoiser, what captures of `samples` cost, the seconds it took to load, and notes on it.

    `folder` is for temporary files.
    """
    model_json, notes = _pointer(config, results, folder, root)
    start = time.perf_counter()
    denoiser = load_denoiser(model_json, device=config.runtime.device)
    load_seconds = time.perf_counter() - start
    count = min(config.runtime.batch_size, samples)
    if config.model.source == "pipeline":
        latents = _recorded(config, generated, model_json, folder / RECORDED, count)
    else:
        latents = example_latents(denoiser, count, config.capture.timesteps)
    return denoiser, calibrate(denoiser, latents, config.runtime, folder), load_seconds, notes


def _samples(config: Config, dataset: str, results: Path) -> int:
    """Return how many images of a data set are studied, as far as that is known before it is prepared."""
    known = [config.capture.samples]
    settings, store = config.datasets[dataset], results / "datasets" / f"{dataset}.zarr.zip"
    if settings.kind != "prompts":  # which are taken again and again
        known += [settings.count] if settings.count else []
        known += [len(open_dataset(store))] if store.is_file() else []
    return min(known)


def _pointer(config: Config, results: Path, folder: Path, root: Path) -> tuple[Path, list[str]]:
    """Return the pointer to the denoiser, perhaps to one made in `folder`, and what has to be said about it."""
    there = results / "models" / config.study.model / "model.json"
    if config.model.source in ("train", "untrained"):
        stores = {d: results / "datasets" / f"{name}.zarr.zip" for d, name in config.study.domains.items()}
        known = stores if all(store.is_file() for store in stores.values()) else {}
        random: DenoiserConfig = config.model.model_copy(update={"source": "untrained"})
        import_denoiser(random, folder / "model.json", root=root, images=config.images, datasets=known)
        if config.model.source == "untrained":
            return folder / "model.json", []
        if there.is_file() and _alike(there, folder / "model.json"):
            return there, []
        return folder / "model.json", [
            "The denoiser is not trained yet: this is its architecture with random weights, whose maps compress better."
        ]
    import_denoiser(config.model, folder / "model.json", root=root, images=config.images)
    return folder / "model.json", []


def _alike(one: Path, other: Path) -> bool:
    """Return whether two denoisers have images of one shape and as many weights."""
    first, second = (load_denoiser(path, device="cpu") for path in (one, other))
    return first.sample_shape == second.sample_shape and count_parameters(first) == count_parameters(second)


def _recorded(config: Config, generated: Path | None, model_json: Path, output: Path, count: int) -> Latents:
    """Return the first passes of a pipeline, from a shard of its images."""
    if generated is None or not generated.is_file():
        raise StoreError(
            f"{generated}: is not there yet, and the shapes of a pipeline's passes are known from generated images "
            f"only; run `snakemake {generated}` first, then plan again"
        )
    domain, dataset = next(iter(config.study.domains.items()))
    generated_latents(
        generated,
        model_json,
        output,
        dataset=dataset,
        domain=domain,
        timesteps=spread(config.capture.timesteps, STEPS),
        among=config.capture.timesteps,
        sample_ids=range(count),
        latents=config.latents,
    )
    latents = open_latents(output)
    # in memory, since the file is gone when the plan is made
    return replace(latents, x_t=latents.x_t.load(), noise=None if latents.noise is None else latents.noise.load())


def _title(config: Config, measured: Calibration, denoiser: Denoiser, samples: Sequence[int], side_by_side: int) -> str:
    heads = sum(len(site.heads) for site in measured.layouts)
    passes = sum(samples) * len(config.capture.timesteps) * (len(measured.example.guidance) or 1)
    milliseconds = 1000 * measured.pass_seconds
    return (
        f"{config.study.name}: {config.study.model} ({heads} heads at {len(measured.layouts)} sites), "
        f"{passes:,} passes of {milliseconds:.3g} ms in batches of {config.runtime.batch_size} on {denoiser.device}, "
        f"jobs at a time: {side_by_side}"
    )


def _table(rows: Sequence[Estimate], side_by_side: int) -> list[str]:
    cells: list[tuple[str, ...]] = [COLUMNS]
    for row in rows:
        mark = "<- configured" if row.what.startswith("captures") and row.configured else ""
        cells.append((*_cells(row, makespan([row], side_by_side)), mark))
    planned = [row for row in rows if row.configured]
    total = Estimate(
        "sum, as configured",
        jobs=sum(row.jobs for row in planned),
        disk=sum(row.disk for row in planned),
        most_disk=sum(row.most_disk for row in planned),
        seconds=0.0,
    )
    cells.append((*_cells(total, makespan(planned, side_by_side)), ""))
    if not any(row.device_memory for row in rows):
        cells = [(*line[:5], *line[6:]) for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [
        [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:-1], widths[1:], strict=False))]
        for line in cells
    ]
    return ["  ".join([*line, whole[-1]]).rstrip() for line, whole in zip(aligned, cells, strict=True)]


def _cells(row: Estimate, seconds: float) -> tuple[str, ...]:
    memory = [readable(size) if size else "" for size in (row.memory, row.device_memory)]
    return row.what, f"{row.jobs:,}", readable(row.disk), readable(row.most_disk), *memory, duration(seconds)


def _room(rows: Sequence[Estimate], workload: Workload, results: Path) -> list[str]:
    """Return what this machine has, and whether that is enough for what is configured."""
    captures = next(row for row in rows if row.what.startswith("captures") and row.configured)
    at_once = min(workload.side_by_side, captures.jobs)
    disk, free = sum(row.disk for row in rows if row.configured), free_disk(results)
    lines = [f"Disk: {readable(disk)}; {readable(free)} are free. {_verdict(disk, free)}"]
    memory, left = at_once * (captures.memory or 0), free_memory()
    if left is not None:
        lines.append(
            f"Memory: {readable(memory)}, captures at a time: {at_once}; {readable(left)} are free. "
            f"{_verdict(memory, left)}"
        )
    return lines


def _verdict(needed: int, free: int) -> str:
    return "It fits." if needed <= free else "IT DOES NOT FIT."
