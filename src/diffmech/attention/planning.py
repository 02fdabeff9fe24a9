"""The budget of a study: what its stores take on disk, its jobs of memory and time, before any of them runs. Ours.

Sizes are counted on empty stores of every shape that the study has; how far values are compressed, how long a pass
takes and what memory it needs is measured on a few passes (`attention.calibration`).
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from diffmech.artifacts import building_store, provenance
from diffmech.attention.archive import archiving
from diffmech.attention.budget import Arrays, Contents, entry_bytes, held_bytes, store_contents
from diffmech.attention.calibration import Calibration
from diffmech.attention.capture import lay_out
from diffmech.attention.keeping import choose_kept
from diffmech.attention.latents import lay_out_latents, samples_per_chunk
from diffmech.attention.layout import Prompted
from diffmech.attention.passes import Latents
from diffmech.attention.writing import QUEUE_BYTES
from diffmech.config.analysis import AblationConfig, RuntimeConfig
from diffmech.config.study import CaptureConfig, LatentsConfig, UntrainedConfig

# What a job takes before it does anything, with torch and diffusers and without: measured, one core.
JOB_SECONDS = 6.0
LIGHT_JOB_SECONDS = 1.5

LENGTH = 20  # of the field for the lengths of an entry that may be larger than 4 GB, as `artifacts` writes them all
HASH = "0" * 64  # as long as that of any model

# Maps or factors of so many samples are planned for where none are configured.
DEFAULT_KEPT = 8


@dataclass(frozen=True)
class Estimate:
    """What one kind of jobs takes: files on disk, as measured and uncompressed, memory of one job, seconds of each.

    `memory` is None where it is not told. `device_memory` is that of a GPU, 0 without one.
    """

    what: str
    jobs: int
    disk: int
    most_disk: int
    seconds: float
    longest: float = 0.0
    memory: int | None = None
    device_memory: int = 0
    configured: bool = True


# How many jobs there are of (samples, timesteps).
Jobs = Mapping[tuple[int, tuple[int, ...]], int]


def capture_jobs(
    shards: Iterable[Sequence[int]], blocks: Iterable[Sequence[int]], samples: Iterable[int]
) -> Counter[tuple[int, tuple[int, ...]]]:
    """Return how many captures there are of each size; `samples` are those that each data set has."""
    shards, blocks = list(shards), list(blocks)
    sizes = [sum(sample < there for sample in shard) for there in samples for shard in shards]
    return Counter((size, tuple(block)) for size in sizes for block in blocks if size)


def plan_captures(
    jobs: Jobs, calibration: Calibration, *, capture: CaptureConfig, runtime: RuntimeConfig, folder: Path
) -> list[Estimate]:
    """Return what the captures take with statistics only, with maps, with factors and with both.

    Where the configuration keeps no maps or no factors, those of as many samples as the other, or of eight, are told.
    """
    other = capture.keep_maps or capture.keep_factors or DEFAULT_KEPT
    counts = {"maps": capture.keep_maps or other, "factors": capture.keep_factors or other}
    both = capture.model_copy(update={"keep_maps": counts["maps"], "keep_factors": counts["factors"]})
    contents, held = {}, {}
    for samples, timesteps in jobs:
        found, arrays = _contents(calibration, samples, timesteps, both, folder, guided=True)
        contents[samples, timesteps] = found
        held[samples, timesteps] = held_bytes(arrays, runtime.batch_size)
    configured = {"statistics", *(["maps"] * bool(capture.keep_maps)), *(["factors"] * bool(capture.keep_factors))}
    estimates = []
    for extra in ([], ["maps"], ["factors"], ["maps", "factors"]):
        parts = ["statistics", *extra]
        seconds = {job: capture_seconds(calibration, *job, contents[job], parts) for job in jobs}
        batch = min(runtime.batch_size, max(samples for samples, _ in jobs))
        queued = max(_queued(contents[job], len(job[1]), extra) for job in jobs)
        estimates.append(
            Estimate(
                what="captures: " + (", ".join(f"{part} of {counts[part]}" for part in extra) or "statistics only"),
                jobs=sum(jobs.values()),
                disk=sum(n * contents[job].bytes(parts, calibration.ratios) for job, n in jobs.items()),
                most_disk=sum(n * contents[job].bytes(parts) for job, n in jobs.items()),
                seconds=sum(n * seconds[job] for job, n in jobs.items()),
                longest=max(seconds.values()),
                memory=calibration.loaded_bytes + batch * calibration.pass_bytes + max(held.values()) + queued,
                device_memory=calibration.device_bytes + batch * calibration.device_pass_bytes,
                configured=set(parts) == configured,
            )
        )
    return estimates


def capture_seconds(
    calibration: Calibration, samples: int, timesteps: Sequence[int], contents: Contents, parts: Iterable[str]
) -> float:
    """Return how long one capture of so many samples at `timesteps` takes, from the start of its job."""
    passes = samples * len(timesteps) * (len(calibration.example.guidance) or 1)
    kept = sum(seconds * contents.part(part) for part, seconds in calibration.kept_seconds.items() if part in parts)
    return JOB_SECONDS + calibration.store_seconds + passes * calibration.pass_seconds + kept


def plan_latents(jobs: Jobs, example: Latents, beside: Callable[[int, Sequence[int]], int]) -> Estimate:
    """Return what the latents take, told from an example of them; they are not compressed.

    `beside` gives the bytes that a store of so many samples at some timesteps has beside the values of its images.
    """
    disk = sum(
        n * (image_bytes(example, samples, steps) + beside(samples, steps)) for (samples, steps), n in jobs.items()
    )
    total = sum(jobs.values())
    return Estimate("latents", total, disk, disk, total * LIGHT_JOB_SECONDS, LIGHT_JOB_SECONDS)


def image_bytes(example: Latents, samples: int, timesteps: Sequence[int]) -> int:
    """Return the bytes of the clean and noised images of so many samples, and of the noise where it is known."""
    image = example.x_t.nbytes // (len(example.samples) * len(example.timesteps))
    return samples * image * (1 + len(timesteps) * (1 if example.noise is None else 2))


def beside_latents(
    samples: int,
    timesteps: Sequence[int],
    *,
    shape: tuple[int, ...],
    attributes: Sequence[str],
    latents: LatentsConfig,
    folder: Path,
) -> int:
    """Return the bytes that a store of `make_latents` has beside the values of its images.

    They are those of an empty store, which is laid out in `folder`, of the entries of its chunks, and of what fills the
    last chunk up.
    """
    chunk = samples_per_chunk(samples, shape)
    pieces, image = math.ceil(samples / chunk), 4 * math.prod(shape)
    condition = np.full(samples, -1), np.eye(samples, len(attributes), dtype=np.float32)
    noise = "(seed, sample, timestep)"
    attrs = {
        "dataset": "data_set",
        "domain": "domain",
        "domain_note": "domain is a domain of the model",
        "condition": latents.condition,
        "seed": latents.seed,
        "model_sha256": HASH,
        "provenance": provenance(rule="make_latents", latents=latents.canonical(), model=HASH, noise=noise),
    }
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        store = Path(temporary) / "latents.zarr.zip"
        with building_store(store) as directory:
            lay_out_latents(directory, range(samples), timesteps, shape, attributes, condition, attrs)
        empty = store.stat().st_size
    chunks = [f"x_0/c/{piece}/0/0/0" for piece in range(pieces)]
    for name, piece, step in product(("x_t", "noise"), range(pieces), range(len(timesteps))):
        chunks.append(f"{name}/c/{piece}/{step}/0/0/0")
    entries = sum(entry_bytes(chunk) + LENGTH for chunk in chunks)
    return empty + entries + (pieces * chunk - samples) * image * (1 + 2 * len(timesteps))


def plan_untrained(
    calibration: Calibration,
    timesteps: Sequence[int],
    samples: Sequence[int],
    *,
    untrained: UntrainedConfig,
    load_seconds: float,
    folder: Path,
) -> Estimate:
    """Return what the untrained twins take on data sets of so many samples: one job each, all twins in turn."""
    plain = CaptureConfig(keep_maps=0)
    each = []
    for there in samples:
        count = min(untrained.samples, there)
        contents, _ = _contents(calibration, count, timesteps, plain, folder, guided=False)
        values = {name: size * untrained.seeds for name, size in contents.values.items()}
        twins = Contents(values, contents.around)
        passes = count * len(timesteps)
        seconds = JOB_SECONDS + untrained.seeds * (load_seconds + passes * calibration.pass_seconds)
        each.append((twins.bytes(ratios=calibration.ratios), twins.bytes(), seconds))
    disk, most, seconds_of = zip(*each, strict=True)
    return Estimate("untrained twins", len(each), sum(disk), sum(most), sum(seconds_of), max(seconds_of))


def plan_ablation(
    calibration: Calibration,
    timesteps: Sequence[int],
    samples: Sequence[int],
    jobs: int,
    *,
    ablation: AblationConfig,
    clusters: int,
) -> Estimate:
    """Return the most that ablations and their reference outputs take on data sets of so many samples.

    Which mechanisms there are is found by the study; each of the `clusters` that are asked for is counted as one, with
    all its controls. Passes share what comes before the first replaced head, which is not counted.
    """
    sites, steps = calibration.layouts, len(timesteps)
    sets = {"heads": sum(len(site.heads) for site in sites), "layers": len(sites), "mechanisms": clusters}
    targets = sum(count for group, count in sets.items() if group in ablation.groups)
    controls = clusters * ablation.controls if "mechanisms" in ablation.groups else 0
    passes = cells = 0
    for there in samples:
        count = min(ablation.samples, there)
        further = (len(ablation.methods) - 1) * min(ablation.method_samples or count, count)
        passes += steps * (count * (len(ablation.groups) + targets + controls) + further * targets)
        cells += steps * count * (targets + controls) * len(ablation.methods)
    references = sum(min(ablation.reference_samples, there) for there in samples)
    outputs = sum(len(site.heads) * site.queries * site.channels for site in sites)
    disk = 4 * (3 * cells + steps * outputs * (references + len(samples)))
    seconds = jobs * JOB_SECONDS + (passes + steps * references) * calibration.plain_seconds
    return Estimate("ablations, at most", jobs, disk, disk, seconds, seconds / max(1, jobs))


def makespan(estimates: Iterable[Estimate], side_by_side: int) -> float:
    """Return the seconds until all jobs are done, so many of them at a time, one kind after the other."""
    return sum(max(estimate.longest, estimate.seconds / side_by_side) for estimate in estimates)


def _queued(contents: Contents, timesteps: int, extra: Sequence[str]) -> int:
    """Return the bytes that wait to be written when the maps and factors of one timestep come at once."""
    return min(QUEUE_BYTES, sum(contents.part(part) for part in extra) // timesteps)


def _contents(
    calibration: Calibration,
    samples: int,
    timesteps: Sequence[int],
    capture: CaptureConfig,
    folder: Path,
    *,
    guided: bool,
) -> tuple[Contents, Arrays]:
    """Return what the store of a capture holds, and its arrays, which are laid out and gone."""
    example, ids = calibration.example, list(range(samples))
    guidance = {"guidance": list(example.guidance)} if guided and example.guidance else {}
    prompts = example.prompts
    if prompts is not None:
        rows = [sample % len(prompts.prompts) for sample in ids]
        tokens = None if prompts.tokens is None else prompts.tokens[rows]
        prompts = Prompted([prompts.prompts[row] for row in rows], tokens)
    kept = choose_kept(capture, calibration.layouts, ids, dict(zip(timesteps, timesteps, strict=True)))
    with (
        tempfile.TemporaryDirectory(prefix=".plan.", dir=folder) as temporary,
        archiving(Path(temporary) / "store") as store,
    ):
        arrays = lay_out(
            store,
            calibration.layouts,
            {**guidance, "sample": ids, "timestep": list(timesteps)},
            kept=kept,
            compression=calibration.compression,
            prompts=prompts,
            attrs={},
        )
        return store_contents(store, arrays), arrays
