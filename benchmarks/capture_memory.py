"""Does a capture need more memory for more samples, timesteps or layers? Peak resident memory of fresh processes.

An untrained U-Net of `--layers` attention layers is captured, and four and sixteen times as many samples, timesteps or
layers. Printed is what is added to a process that runs the same passes of the same model unobserved, among them the
one of a single sample from which a capture learns shapes. Every array has pages of its own, so that what is held at a
time counts and nothing else (glibc). With `--heaps` also the median, least and most with the allocator of a job, on
so many heaps: whether the next array fits a gap there is chance. For scale, the bytes written.

Run: python benchmarks/capture_memory.py
"""

import argparse
import ctypes
import json
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import diffusers
import numpy as np
import torch
import xarray as xr
from heaps import gaps

from diffmech.artifacts import write_store
from diffmech.attention.capture import capture_attention, cuts
from diffmech.attention.passes import open_latents
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import CaptureConfig
from diffmech.machine import peak_memory
from diffmech.models.load import load_denoiser
from diffmech.models.storage import find_layout, write_pointer
from diffmech.workflow.memory import MMAP_THRESHOLD, TRIM_THRESHOLD, reuse_freed_memory

# Arrays from this size on have pages of their own where memory is measured exactly (glibc).
PAGES_FROM = 2**14

MODEL, LATENTS, STORE = "model/model.json", "latents.zarr.zip", "attention.zarr.zip"


@dataclass(frozen=True)
class Size:
    """What is captured: attention layers (self and cross), samples, timesteps."""

    layers: int
    samples: int
    timesteps: int


def main() -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--timesteps", type=int, default=1)
    parser.add_argument("--side", type=int, default=16, help="of the latents; keys = side x side")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--keep", choices=["nothing", "maps", "factors"], default="nothing")
    parser.add_argument("--heaps", type=int, default=0, help="measure on so many heaps too")
    options = parser.parse_args()
    base = Size(options.layers, options.samples, options.timesteps)
    print(f"kept beside statistics: {options.keep}; {options.side**2} keys, batch {options.batch_size}")
    heading = f"{'layers':>8s}{'samples':>9s}{'timesteps':>11s}{'written MB':>12s}{'added MB':>10s}"
    print(heading + (f"{'heaps':>8s}{'range':>9s}" if options.heaps else ""))
    sizes = [base, *(replace(base, **{f: m * getattr(base, f)}) for f in asdict(base) for m in (4, 16))]
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            held, added, written = _measured(Path(folder), size, options)
        line = f"{size.layers:8d}{size.samples:9d}{size.timesteps:11d}{written / 1e6:12.0f}{held / 1e6:10.1f}"
        if added:
            spread = f"{min(added) / 1e6:.0f}-{max(added) / 1e6:.0f}"
            line += f"{statistics.median(added) / 1e6:8.0f}{spread:>9s}"
        print(line, flush=True)


def _measured(folder: Path, size: Size, options: argparse.Namespace) -> tuple[int, list[int], int]:
    """Return the bytes that a capture adds, on exact pages and on each heap, and those that it writes."""
    # Two processes at a time; none is used twice, and none is forked, whose libraries would be there in part.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        pool.submit(_prepare, folder, size, options.side).result()
        pairs = [
            (
                pool.submit(_captured, folder, size, options, heap),
                pool.submit(_unobserved, folder, options.batch_size, heap),
            )
            for heap in (None, *range(options.heaps))
        ]
        found = [(*captured.result(), unobserved.result()) for captured, unobserved in pairs]
    held, *added = [captured - unobserved for captured, _, unobserved in found]
    return held, added, found[0][1]


def _captured(folder: Path, size: Size, options: argparse.Namespace, heap: int | None) -> tuple[int, int]:
    """Return the peak memory, bytes, of a process that captures all passes, and the bytes that it wrote."""
    kept = {"maps": {"keep_maps": size.samples}, "factors": {"keep_maps": 0, "keep_factors": size.samples}}
    config = CaptureConfig(shard_size=size.samples, **kept.get(options.keep, {"keep_maps": 0}))
    runtime = RuntimeConfig(device="cpu", batch_size=options.batch_size, progress=False)
    output = folder / f"{heap}-{STORE}"
    with _allocator(heap) as between:
        capture_attention(folder / LATENTS, folder / MODEL, output, capture=config, runtime=runtime)
        peak = peak_memory() - between
    written = output.stat().st_size
    output.unlink()
    return peak, written


def _unobserved(folder: Path, batch: int, heap: int | None) -> int:
    """Return the peak memory, bytes, of a process that runs the passes of a capture and nothing else."""
    with _allocator(heap) as between:
        denoiser, passes = load_denoiser(folder / MODEL, device="cpu"), open_latents(folder / LATENTS)
        every = cuts(slice(0, len(passes.samples)), batch)
        steps = [(0, slice(0, 1)), *((column, rows) for column in range(len(passes.timesteps)) for rows in every)]
        for column, rows in steps:
            x_t, condition = passes.x_t[rows, column].values, passes.condition(rows, column, denoiser.device)
            with torch.no_grad():
                denoiser.predict_noise(torch.from_numpy(x_t), int(passes.timesteps[column]), condition)
        return peak_memory() - between


@contextmanager
def _allocator(heap: int | None) -> Iterator[int]:
    """Run the body with the allocator of a job on a heap with gaps, or on exact pages; yield the bytes between gaps."""
    torch.set_num_threads(1)
    if heap is None:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, PAGES_FROM)
        mallopt(TRIM_THRESHOLD, 0)
        yield 0
        return
    reuse_freed_memory()
    with gaps(heap) as between:
        yield between


def _prepare(folder: Path, size: Size, side: int) -> None:
    _write_latents(folder / LATENTS, _write_model(folder / Path(MODEL).parent, size.layers, side), size, side)


def _write_model(directory: Path, layers: int, side: int) -> Path:
    """Write an unconditional U-Net of one level whose blocks hold `layers` self-attention layers in all."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=side,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16,),
        layers_per_block=max(1, (layers - 1) // 2),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
        attention_head_dim=4,
        norm_num_groups=4,
    )
    unet.save_pretrained(directory / "unet")
    diffusers.DDPMScheduler().save_pretrained(directory / "scheduler")
    write_pointer(directory / "model.json", find_layout(directory), parameters=0, source="untrained")
    return directory / "model.json"


def _write_latents(path: Path, model: Path, size: Size, side: int) -> None:
    """Write latents of noise, one chunk per timestep."""
    shape = (size.samples, size.timesteps, 1, side, side)
    passes = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    dims = ("sample", "timestep", "channel", "y", "x")
    dataset = xr.Dataset(
        {
            "x_t": (dims, passes),
            "noise": (dims, passes),
            "domain": ("sample", np.full(size.samples, -1)),
            "condition": (("sample", "attribute"), np.zeros((size.samples, 0), np.float32)),
        },
        coords={"sample": np.arange(size.samples), "timestep": np.arange(size.timesteps)},
        attrs={
            "model_sha256": json.loads(model.read_text())["sha256"],
            **dict.fromkeys(("dataset", "domain", "domain_note", "condition"), "noise"),
            "seed": 0,
            "provenance": "{}",
        },
    )
    chunks = {"chunks": (min(64, size.samples), 1, 1, side, side)}
    write_store(path, dataset, encoding={"x_t": chunks, "noise": chunks})


if __name__ == "__main__":
    main()
