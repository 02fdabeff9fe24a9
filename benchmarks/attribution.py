"""Attribution patching against exact ablation of every head of the bundled model, on the very same passes.

Run: python benchmarks/attribution.py [images] [timesteps] [threads]. Prints the seconds of each way, how many times
faster than exact ablation it is in CPU time, and its correlations with it: of mean effects of heads and timesteps, as
heads are ranked by, and of single passes. Exact ablation is that of the rule: one clean pass, ablations in batches that
share their prefixes. Images are drawn faces. Times are sums over timesteps, and the ways take turns at each of them,
because machines are shared.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from diffmech.attention.latents import make_latents
from diffmech.attention.sites import AttentionSite, HeadId
from diffmech.config.analysis import AblationConfig
from diffmech.config.load import read_config
from diffmech.data.store import prepare_dataset
from diffmech.interventions.agreement import COEFFICIENTS, agreement, estimate_effects, exact_effects
from diffmech.interventions.attribution import Along
from diffmech.interventions.reference import ReferenceStore, collect_reference, tapped_sites
from diffmech.interventions.replay import LatentFiles, open_latent_files
from diffmech.models.denoiser import Denoiser
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_denoiser

ROOT = Path(__file__).parents[1]
TIMESTEPS = [20, 120, 220, 320, 420, 520, 620, 720, 820, 920]
METHODS = ("mean", "resample")
EXACT = "exact ablation"
WAYS: dict[str, tuple[int, Along]] = {
    "attribution patching": (0, "site"),
    "integrated, joint, 1 step": (1, "joint"),
    "integrated, joint, 4 steps": (4, "joint"),
    "integrated, by site, 1 step": (1, "site"),
    "integrated, by site, 4 steps": (4, "site"),
}


def prepare(folder: Path, images: int, timesteps: list[int]) -> tuple[Denoiser, LatentFiles]:
    """Return the bundled denoiser and noised drawn faces."""
    config = read_config(ROOT / "config.yaml")
    model, store, latents = folder / "model.json", folder / "images.zarr.zip", folder / "latents.zarr.zip"
    import_denoiser(config.model, model, root=ROOT, images=config.images)
    faces = config.datasets["synthetic_faces"].model_copy(update={"count": images})
    prepare_dataset(faces, config.images, store, name="synthetic_faces", runtime=config.runtime)
    make_latents(
        store,
        model,
        latents,
        domain="synthetic",
        timesteps=timesteps,
        sample_ids=range(images),
        latents=config.latents,
    )
    return load_denoiser(model, device="cpu"), open_latent_files([latents])


def compare(denoiser: Denoiser, files: LatentFiles, sites: list[AttentionSite], method: str) -> None:
    """Print one line per way."""
    config = read_config(ROOT / "config.yaml")
    runtime = config.runtime.model_copy(update={"progress": False})
    ablation = AblationConfig()
    tree = collect_reference({"synthetic": files}, denoiser, ablation=ablation, runtime=runtime)
    rows = tuple(("synthetic", sample) for sample in files.samples[: ablation.reference_samples])
    references = ReferenceStore(dict.fromkeys(files.timesteps, tree), rows)
    heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]

    def exact(timestep: int) -> xr.DataArray:
        return exact_effects(
            denoiser, sites, files, references, heads, files.samples, [timestep], method=method, seed=0, runtime=runtime
        )

    def estimated(steps: int, path: Along) -> Callable[[int], xr.DataArray]:
        return lambda timestep: estimate_effects(
            denoiser,
            sites,
            files,
            references,
            samples=files.samples,
            timesteps=[timestep],
            method=method,
            steps=steps,
            path=path,
            seed=0,
            runtime=runtime,
        )

    runs = {EXACT: exact} | {way: estimated(*options) for way, options in WAYS.items()}
    wall, busy = dict.fromkeys(runs, 0.0), dict.fromkeys(runs, 0.0)
    found: dict[str, list[np.ndarray]] = {way: [] for way in runs}
    for timestep in files.timesteps:
        for way, run in runs.items():
            start = time.perf_counter(), time.process_time()
            effects = run(timestep)
            wall[way] += time.perf_counter() - start[0]
            busy[way] += time.process_time() - start[1]
            found[way].append(effects.transpose("sample", "timestep", "head").values)
    truth = np.concatenate(found[EXACT], axis=1)
    for way in runs:
        coefficients = agreement(np.concatenate(found[way], axis=1), truth)
        numbers = "".join(f"{coefficients[name]:>18.3f}" for name in COEFFICIENTS)
        times = f"{wall[way]:>9.1f}{busy[way]:>9.1f}{busy[EXACT] / busy[way]:>14.2f}"
        print(f"{method:<10}{way:<30}{times}{numbers}", flush=True)


def main() -> None:
    images, count, threads = (int(text) for text in sys.argv[1:] + ["256", "10", "2"][len(sys.argv) - 1 :])
    torch.set_num_threads(threads)
    timesteps = [TIMESTEPS[k * len(TIMESTEPS) // count] for k in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        denoiser, files = prepare(Path(folder), images, timesteps)
        sites = tapped_sites(denoiser, files)
        heads = sum(site.heads for site in sites)
        print(f"{heads} heads x {len(timesteps)} timesteps x {images} images, {torch.get_num_threads()} threads")
        print(
            f"{'method':<10}{'way':<30}{'seconds':>9}{'times faster':>14}" + "".join(f"{n:>18}" for n in COEFFICIENTS)
        )
        for method in METHODS:
            compare(denoiser, files, sites, method)


if __name__ == "__main__":
    main()
