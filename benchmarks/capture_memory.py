"""Does a capture need more memory for more samples, timesteps or layers? Peak resident memory of fresh processes.

An untrained U-Net of `--layers` attention layers is captured, and four and sixteen times as many samples, timesteps or
layers. Printed is what is added to a process that ran the model once unobserved, and for scale the bytes written. Held
are at most 2 MiB of statistics, or those of 16 images if that is more, and 16 MiB that wait to be written.

Run: python benchmarks/capture_memory.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import diffusers
import numpy as np
import torch
import xarray as xr
from capture import _peak

from diffmech.artifacts import write_store
from diffmech.attention.capture import capture_attention
from diffmech.attention.passes import open_latents
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import CaptureConfig
from diffmech.models.load import load_denoiser
from diffmech.models.storage import find_layout, write_pointer
from diffmech.workflow.memory import reuse_freed_memory


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
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(_captured(Size(**options.alone), options)))
        return
    base = Size(options.layers, options.samples, options.timesteps)
    print(f"kept beside statistics: {options.keep}; {options.side**2} keys, batch {options.batch_size}")
    print(f"{'layers':>8s}{'samples':>9s}{'timesteps':>11s}{'written MB':>12s}{'added peak MB':>15s}")
    sizes = [base, *(replace(base, **{f: m * getattr(base, f)}) for f in asdict(base) for m in (4, 16))]
    for size in sizes:
        command = [sys.executable, __file__, "--alone", json.dumps(asdict(size)), "--side", str(options.side)]
        command += ["--batch-size", str(options.batch_size), "--keep", options.keep]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        line = f"{size.layers:8d}{size.samples:9d}{size.timesteps:11d}{found['written']:12.0f}{found['added']:15.0f}"
        print(line, flush=True)


def _captured(size: Size, options: argparse.Namespace) -> dict[str, float]:
    """Return the memory, MB, that one capture adds to a process that has the model, and the MB written."""
    reuse_freed_memory()  # as every job of the workflow
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = _write_model(root / "model", size.layers, options.side)
        latents = _write_latents(root / "latents.zarr.zip", model, size, options.side)
        _plain_pass(model, latents, options.batch_size)
        before, output = _peak(), root / "attention.zarr.zip"
        count = size.samples
        kept = {"maps": {"keep_maps": count}, "factors": {"keep_maps": 0, "keep_factors": count}}
        config = CaptureConfig(shard_size=count, **kept.get(options.keep, {"keep_maps": 0}))
        runtime = RuntimeConfig(device="cpu", batch_size=options.batch_size, progress=False)
        capture_attention(latents, model, output, capture=config, runtime=runtime)
        return {"added": _peak() - before, "written": output.stat().st_size / 1e6}


def _plain_pass(model: Path, latents: Path, batch: int) -> None:
    """Run the model once as a capture does, but unobserved."""
    denoiser, passes = load_denoiser(model, device="cpu"), open_latents(latents)
    x_t, rows = torch.from_numpy(passes.x_t[:batch, 0].values), slice(0, batch)
    with torch.no_grad():
        denoiser.predict_noise(x_t, 0, passes.condition(rows, 0, denoiser.device))


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


def _write_latents(path: Path, model: Path, size: Size, side: int) -> Path:
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
    return path


if __name__ == "__main__":
    main()
