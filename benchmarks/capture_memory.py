"""Does a capture need more memory for more samples, timesteps or layers? Peak resident memory of fresh processes.

An untrained U-Net of `--layers` attention layers is captured, and four and sixteen times as many samples, timesteps or
layers. Printed is what is added to a process that runs the same passes of the same model unobserved, in the median of
several heaps, the least and the most of them, and for scale the bytes written. Among these passes is the one of a
single sample from which a capture learns shapes: after it, a model's own arrays often take more of a heap.

Run: python benchmarks/capture_memory.py
"""

import argparse
import json
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import diffusers
import numpy as np
import torch
import xarray as xr
from heaps import HEAPS, gaps

from diffmech.artifacts import write_store
from diffmech.attention.capture import capture_attention, cuts
from diffmech.attention.passes import open_latents
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import CaptureConfig
from diffmech.machine import peak_memory
from diffmech.models.load import load_denoiser
from diffmech.models.storage import find_layout, write_pointer
from diffmech.workflow.memory import reuse_freed_memory

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
    options = parser.parse_args()
    base = Size(options.layers, options.samples, options.timesteps)
    print(f"kept beside statistics: {options.keep}; {options.side**2} keys, batch {options.batch_size}")
    print(f"{'layers':>8s}{'samples':>9s}{'timesteps':>11s}{'written MB':>12s}{'added peak MB':>15s}{'range':>10s}")
    sizes = [base, *(replace(base, **{f: m * getattr(base, f)}) for f in asdict(base) for m in (4, 16))]
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            added, written = _measured(Path(folder), size, options)
        line = f"{size.layers:8d}{size.samples:9d}{size.timesteps:11d}{written / 1e6:12.0f}"
        spread = f"{min(added) / 1e6:.0f}-{max(added) / 1e6:.0f}"
        print(f"{line}{statistics.median(added) / 1e6:15.0f}{spread:>10s}", flush=True)


def _measured(folder: Path, size: Size, options: argparse.Namespace) -> tuple[list[int], int]:
    """Return the bytes that a capture adds on each of several heaps, and those that it writes."""
    # Two processes at a time; none is used twice, and none is forked, whose libraries would be there in part.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        pool.submit(_prepare, folder, size, options.side).result()
        pairs = [
            (
                pool.submit(_captured, folder, size, options, heap),
                pool.submit(_unobserved, folder, options.batch_size, heap),
            )
            for heap in range(HEAPS)
        ]
        found = [(*captured.result(), unobserved.result()) for captured, unobserved in pairs]
    return [captured - unobserved for captured, _, unobserved in found], found[0][1]


def _captured(folder: Path, size: Size, options: argparse.Namespace, heap: int) -> tuple[int, int]:
    """Return the peak memory, bytes, of a process that captures all passes, and the bytes that it wrote."""
    _as_a_job()
    kept = {"maps": {"keep_maps": size.samples}, "factors": {"keep_maps": 0, "keep_factors": size.samples}}
    config = CaptureConfig(shard_size=size.samples, **kept.get(options.keep, {"keep_maps": 0}))
    runtime = RuntimeConfig(device="cpu", batch_size=options.batch_size, progress=False)
    with gaps(heap) as held:
        output = folder / f"{heap}-{STORE}"
        capture_attention(folder / LATENTS, folder / MODEL, output, capture=config, runtime=runtime)
        peak = peak_memory() - held
    written = output.stat().st_size
    output.unlink()
    return peak, written


def _unobserved(folder: Path, batch: int, heap: int) -> int:
    """Return the peak memory, bytes, of a process that runs the passes of a capture and nothing else."""
    _as_a_job()
    with gaps(heap) as held:
        denoiser, passes = load_denoiser(folder / MODEL, device="cpu"), open_latents(folder / LATENTS)
        every = cuts(slice(0, len(passes.samples)), batch)
        steps = [(0, slice(0, 1)), *((column, rows) for column in range(len(passes.timesteps)) for rows in every)]
        for column, rows in steps:
            x_t, condition = passes.x_t[rows, column].values, passes.condition(rows, column, denoiser.device)
            with torch.no_grad():
                denoiser.predict_noise(torch.from_numpy(x_t), int(passes.timesteps[column]), condition)
        return peak_memory() - held


def _as_a_job() -> None:
    reuse_freed_memory()
    torch.set_num_threads(1)


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
