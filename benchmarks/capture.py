"""What observing costs: a capture of statistics against the plain forward passes, in one run, writing included.

Each round runs the plain passes and every kind of capture once, one after the other, so that a busy machine slows all
of them; ratios are taken within each round and their median is printed, for wall time and for processor time (of all
threads; on a shared CPU the steadier of the two). Peak memory is that of a fresh process per line. The target is a
ratio of at most 1.35 for statistics on long captures, where the fixed cost of a store (about a second) counts little,
and memory that stops growing with the images once a chunk is full.

Run: python benchmarks/capture.py --samples 200 --timesteps 3 --rounds 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.attention.calls import AttentionCall
from diffmech.attention.capture import capture_attention
from diffmech.attention.latents import make_latents
from diffmech.attention.passes import open_latents
from diffmech.attention.tap import AttentionTap
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.models import Architecture
from diffmech.config.study import CaptureConfig, LatentsConfig
from diffmech.machine import peak_memory
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.load import load_denoiser
from diffmech.models.storage import find_layout, save_denoiser, write_pointer

SHAPE = (1, 32, 32)
ATTRIBUTES = [f"attribute{index}" for index in range(11)]


def main() -> None:
    """Print one table of times and one of peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--timesteps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--keep", type=int, default=8, help="samples whose maps, or factors, are kept")
    parser.add_argument("--no-memory", action="store_true", help="skip the table of peak memory")
    parser.add_argument("--alone", nargs=2, metavar=("LATENTS", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    runtime = RuntimeConfig(device=options.device, batch_size=options.batch_size, progress=False)
    if options.alone:
        latents, model = map(Path, options.alone)
        print(json.dumps(_memory_of_one_capture(latents, model, runtime)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = write_model(root / "model")
        few = write_latents(root, model, options.samples, options.timesteps)
        _compare_times(few, model, root, runtime, options.rounds, options.keep)
        if not options.no_memory:
            many = write_latents(root, model, 4 * options.samples, options.timesteps)
            _compare_memory({options.samples: few, 4 * options.samples: many}, model, options)


def _compare_times(latents: Path, model: Path, root: Path, runtime: RuntimeConfig, rounds: int, keep: int) -> None:
    output = root / "attention.zarr.zip"

    def capture(maps: int, factors: int = 0) -> Callable[[], None]:
        config = CaptureConfig(keep_maps=maps, keep_factors=factors)
        return lambda: capture_attention(latents, model, output, capture=config, runtime=runtime)

    ways = {
        "plain passes": lambda: plain_passes(latents, model, runtime),
        "statistics": capture(0),
        f"statistics + {keep} maps": capture(keep),
        f"statistics + {keep} factors": capture(0, keep),
        f"naive + {keep} maps": lambda: _naive(latents, model, runtime, keep, output),
    }
    written: dict[str, float] = {}
    plain_passes(latents, model, runtime)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start, busy = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - busy)
            written[name] = output.stat().st_size / 1e6 if output.exists() else 0.0
            output.unlink(missing_ok=True)
    passes = open_latents(latents)
    count = len(passes.samples) * len(passes.timesteps)
    size, batch, threads = f"{SHAPE[1]} x {SHAPE[2]}", runtime.batch_size, torch.get_num_threads()
    print(f"{count} passes of {size} images, batch {batch}, {threads} threads, {rounds} rounds")
    print(
        f"{'':24s}{'seconds':>10s}{'ratio':>8s}{'range':>12s}{'processor s':>14s}{'ratio':>8s}{'range':>12s}{'MB':>8s}"
    )
    for name in ways:
        print(f"{name:24s}{_columns(wall, name, 10)}{_columns(processor, name, 14)}{written[name]:8.1f}")


def _columns(seconds: dict[str, list[float]], name: str, width: int) -> str:
    ratios = [mine / plain for mine, plain in zip(seconds[name], seconds["plain passes"], strict=True)]
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    return f"{statistics.median(seconds[name]):{width}.2f}{statistics.median(ratios):8.2f}{spread:>12s}"


def plain_passes(latents: Path, model: Path, runtime: RuntimeConfig) -> None:
    """Do what a capture does without observing or writing: load, read, run every pass, keep the prediction's loss."""
    passes, denoiser = open_latents(latents), load_denoiser(model, device=runtime.device)
    with torch.no_grad():
        for column, timestep in enumerate(passes.timesteps.tolist()):
            x_t, noise = (array[:, column].values for array in (passes.x_t, passes.noise))
            for start in range(0, len(x_t), runtime.batch_size):
                rows = slice(start, min(start + runtime.batch_size, len(x_t)))
                noised = torch.from_numpy(x_t[rows]).to(denoiser.device)
                prediction = denoiser.predict_noise(noised, timestep, passes.condition(rows, column, denoiser.device))
                np.square(prediction.cpu().numpy() - noise[rows]).mean((1, 2, 3))


def _naive(latents: Path, model: Path, runtime: RuntimeConfig, keep: int, output: Path) -> None:
    """Do what is commonly done: a softmax per site and pass, its entropy and column means, some maps into a file."""
    passes, denoiser = open_latents(latents), load_denoiser(model, device=runtime.device)
    found: dict[str, np.ndarray] = {}
    now = ""

    def observe(call: AttentionCall) -> None:
        p = (call.scale * call.query @ call.key.mT).softmax(-1)
        found[f"{now}-{call.site.name}-entropy"] = (-(p * (p + 1e-12).log()).sum(-1).mean(-1)).cpu().numpy()
        found[f"{now}-{call.site.name}-received"] = p.mean(-2).half().cpu().numpy()
        if rows.start < keep:
            found[f"{now}-{call.site.name}-maps"] = p[: keep - rows.start].half().cpu().numpy()

    with torch.no_grad(), AttentionTap(denoiser.module, [observe]):
        for column, timestep in enumerate(passes.timesteps.tolist()):
            x_t = passes.x_t[:, column].values
            for start in range(0, len(x_t), runtime.batch_size):
                rows = slice(start, min(start + runtime.batch_size, len(x_t)))
                now = f"{timestep}-{start}"
                noised = torch.from_numpy(x_t[rows]).to(denoiser.device)
                denoiser.predict_noise(noised, timestep, passes.condition(rows, column, denoiser.device))
    with output.open("wb") as file:
        np.savez(file, **found)


def _compare_memory(latents: dict[int, Path], model: Path, options: argparse.Namespace) -> None:
    print(f"{'peak memory':24s}{'before':>10s}{'at most':>10s}{'added':>8s}   MB")
    for samples, path in latents.items():
        command = [sys.executable, __file__, "--alone", str(path), str(model), "--device", options.device]
        command += ["--batch-size", str(options.batch_size)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        added = found["peak"] - found["before"]
        print(f"{f'{samples} samples':24s}{found['before']:10.0f}{found['peak']:10.0f}{added:8.0f}")


def _memory_of_one_capture(latents: Path, model: Path, runtime: RuntimeConfig) -> dict[str, float]:
    """Return peak resident memory, MB, once the model is loaded and after a whole capture."""
    load_denoiser(model, device=runtime.device)
    before = peak_memory() / 1e6
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "attention.zarr.zip"
        capture_attention(latents, model, output, capture=CaptureConfig(keep_maps=0), runtime=runtime)
    return {"before": before, "peak": peak_memory() / 1e6}


def write_model(directory: Path) -> Path:
    architecture = Architecture()
    unet, tokens = build_model(architecture, SHAPE, ATTRIBUTES, ["real", "synthetic"], seed=0)
    save_denoiser(directory, unet, tokens, build_scheduler(architecture))
    write_pointer(directory / "model.json", find_layout(directory), parameters=0, source="untrained")
    return directory / "model.json"


def write_latents(root: Path, model: Path, samples: int, timesteps: int) -> Path:
    rng = np.random.default_rng(0)
    text = np.dtypes.StringDType()
    dataset = xr.Dataset(
        {
            "image": (("sample", "channel", "y", "x"), rng.integers(0, 256, (samples, *SHAPE), np.uint8)),
            "attribute_value": (("sample", "attribute"), rng.random((samples, len(ATTRIBUTES)), np.float32)),
            "mask": (("sample", "part", "y", "x"), np.zeros((samples, 0, *SHAPE[1:]), np.uint8)),
        },
        coords={
            "sample": np.arange(samples),
            "attribute": np.asarray(ATTRIBUTES, text),
            "part": np.asarray([], text),
            "file": ("sample", np.asarray([str(index) for index in range(samples)], text)),
        },
        attrs={"gain": 1.0, "offset": 0.0},
    )
    images, output = root / f"images{samples}.zarr.zip", root / f"latents{samples}.zarr.zip"
    write_store(images, dataset)
    steps = np.linspace(20, 920, timesteps).round().astype(int).tolist()
    everyone = list(range(samples))
    make_latents(images, model, output, domain="real", timesteps=steps, sample_ids=everyone, latents=LatentsConfig())
    return output


if __name__ == "__main__":
    main()
