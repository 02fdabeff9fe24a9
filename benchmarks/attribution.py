"""Exact ablation of every head of the bundled model, and attribution patching of the very same passes.

Run: python benchmarks/attribution.py [images=256] [timesteps=10] [processes=2] [method=mean]. Each process has one
thread and its share of the images, as the jobs of the workflow do. Prints minutes, seconds of CPU time, what share of
exact ablation's each way needs, and its correlations with it: of mean effects of heads and timesteps, as heads are
ranked by, and of single passes. Exact ablation is that of the rule: one clean pass per image and timestep, ablations in
batches that share their prefixes. Images are drawn faces. The ways take turns at each timestep, all processes at the
same one, because machines are shared.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from diffmech.attention.latents import make_latents
from diffmech.attention.sites import HeadId
from diffmech.config.analysis import AblationConfig, RuntimeConfig
from diffmech.config.load import read_config
from diffmech.data.store import prepare_dataset
from diffmech.interventions.agreement import COEFFICIENTS, agreement, estimate_effects, exact_effects
from diffmech.interventions.attribution import Along
from diffmech.interventions.reference import collect_reference, store_of, tapped_sites
from diffmech.interventions.replay import open_latent_files
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_denoiser
from diffmech.workflow.memory import reuse_freed_memory

ROOT = Path(__file__).parents[1]
RUNTIME = RuntimeConfig(progress=False, device="cpu")
TIMESTEPS = [20, 120, 220, 320, 420, 520, 620, 720, 820, 920]
EXACT = "exact ablation"


@dataclass(frozen=True)
class Way:
    """How `estimate_effects` is called."""

    steps: int = 0
    path: Along = "site"
    probes: int = 0


WAYS = {
    "gradient": Way(),
    "gradient and curvature, 1 probe": Way(probes=1),
    "integrated, joint, 1 step": Way(1, "joint"),
    "integrated, by site, 1 step": Way(1),
}
MOST_MINUTES, LARGEST_SHARE = 8, 1 / 10


@dataclass(frozen=True)
class Spent:
    """Seconds of a way, by the clock and of CPU time, and the effects (sample, timestep, head) it found."""

    wall: float
    busy: float
    effects: np.ndarray


def prepare(folder: Path, images: int, timesteps: list[int]) -> None:
    """Write the pointer of the bundled denoiser and noised drawn faces."""
    config = read_config(ROOT / "config.yaml")
    model, store = folder / "model.json", folder / "images.zarr.zip"
    import_denoiser(config.model, model, root=ROOT, images=config.images)
    faces = config.datasets["synthetic_faces"].model_copy(update={"count": images + AblationConfig().reference_samples})
    prepare_dataset(faces, config.images, store, name="synthetic_faces", runtime=RUNTIME)
    make_latents(
        store,
        model,
        folder / "latents.zarr.zip",
        domain="synthetic",
        timesteps=timesteps,
        sample_ids=range(images + AblationConfig().reference_samples),
        latents=config.latents,
    )


def work(folder: Path, number: int, processes: int, method: str, together: Barrier) -> dict[str, Spent]:
    """Run all ways on every so many-th image and return what they took and found."""
    reuse_freed_memory()
    torch.set_num_threads(1)
    denoiser, files = (
        load_denoiser(folder / "model.json", device="cpu"),
        open_latent_files([folder / "latents.zarr.zip"]),
    )
    studied = files.samples[: -AblationConfig().reference_samples]
    sites, samples = tapped_sites(denoiser, files), studied[number::processes]
    references = files.samples[-AblationConfig().reference_samples :]
    tree = collect_reference({"synthetic": files}, denoiser, reference_ids=references, runtime=RUNTIME)
    given = denoiser, sites, files, store_of(tree)
    heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]

    def exact(timestep: int) -> xr.DataArray:
        return exact_effects(*given, heads, samples, [timestep], method=method, seed=0, runtime=RUNTIME)

    def estimated(way: Way) -> Callable[[int], xr.DataArray]:
        return lambda timestep: estimate_effects(
            *given,
            samples=samples,
            timesteps=[timestep],
            method=method,
            steps=way.steps,
            path=way.path,
            probes=way.probes,
            seed=0,
            runtime=RUNTIME,
        )

    runs = {EXACT: exact} | {name: estimated(way) for name, way in WAYS.items()}
    found: dict[str, list[Spent]] = {name: [] for name in runs}
    for timestep in files.timesteps:
        for name, run in runs.items():
            together.wait()
            start = time.perf_counter(), time.process_time()
            effects = run(timestep).transpose("sample", "timestep", "head").values
            found[name].append(Spent(time.perf_counter() - start[0], time.process_time() - start[1], effects))
        if number == 0:
            print(f"timestep {timestep}: exact {found[EXACT][-1].wall:.1f} s", file=sys.stderr, flush=True)
    return {
        name: Spent(
            sum(each.wall for each in parts),
            sum(each.busy for each in parts),
            np.concatenate([each.effects for each in parts], axis=1),
        )
        for name, parts in found.items()
    }


def joined(parts: Sequence[Spent]) -> Spent:
    """Return what processes side by side took and found together."""
    effects = np.concatenate([part.effects for part in parts])
    return Spent(max(part.wall for part in parts), sum(part.busy for part in parts), effects)


def main() -> None:
    images, count, processes = (int(text) for text in sys.argv[1:4] + ["256", "10", "2"][len(sys.argv[1:4]) :])
    method = sys.argv[4] if len(sys.argv) > 4 else "mean"
    timesteps = [TIMESTEPS[k * len(TIMESTEPS) // count] for k in range(count)]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, context.Manager() as manager, context.Pool(processes) as pool:
        prepare(Path(name), images, timesteps)
        together = manager.Barrier(processes)
        tasks = [(Path(name), number, processes, method, together) for number in range(processes)]
        found = pool.starmap(work, tasks, chunksize=1)
    ways = {name: joined([part[name] for part in found]) for name in found[0]}
    exact = ways[EXACT]
    heads = exact.effects.shape[2]
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"{heads} heads x {count} timesteps x {images} images, {method} ablation, {processes} processes of one thread"
    )
    print(f"load over the last 1, 5, 15 minutes: {load}")
    print(f"{'way':<34}{'minutes':>9}{'CPU s':>9}{'share':>8}" + "".join(f"{n:>18}" for n in COEFFICIENTS))
    for name, way in ways.items():
        coefficients = agreement(way.effects, exact.effects)
        numbers = "".join(f"{coefficients[name]:>18.3f}" for name in COEFFICIENTS)
        share = f"1/{exact.busy / way.busy:.1f}"
        print(f"{name:<34}{way.wall / 60:>9.2f}{way.busy:>9.1f}{share:>8}{numbers}")
    print(f"exact: {1000 * exact.busy / exact.effects.size:.2f} ms of CPU time per ablated pass; ", end="")
    print(f"{exact.busy / 60 / processes:.2f} minutes if each process had a core of its own")
    print(f"{exact.wall / 60 <= MOST_MINUTES!s:<6} exact ablation takes at most {MOST_MINUTES} minutes")
    for name in WAYS:
        print(f"{ways[name].busy <= LARGEST_SHARE * exact.busy!s:<6} at most 1/10 of that: {name}")


if __name__ == "__main__":
    main()
