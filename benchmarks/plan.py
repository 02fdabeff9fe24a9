"""How true the plan is: bytes, memory and time of captures as planned, beside those of captures that were run.

Three studies: the default one, the tiny overlay, and one like the faces-folder overlay (many images, 4 maps a shard)
with the bundled denoiser. Of each, the captures of the first block and shard of both data sets are run on latents of
its real images, each in a fresh process with one thread; the plan, which sees none of these images, is made in a fresh
process before each of them, so that a busy machine slows both. Time is that of the whole process; its imports are
planned as on an idle machine, so that short jobs on a busy one take longer than planned.

Run: OMP_NUM_THREADS=1 python benchmarks/plan.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from diffmech.attention.capture import capture_attention
from diffmech.attention.latents import make_latents
from diffmech.attention.plan_study import calibrate_study
from diffmech.attention.planning import plan_captures
from diffmech.config.load import read_config
from diffmech.config.root import Config
from diffmech.data.store import prepare_dataset
from diffmech.machine import peak_memory
from diffmech.models.importing import import_denoiser
from diffmech.workflow.shards import blocks, shards

ROOT = Path(__file__).parents[1]
FOLDER_LIKE = {
    "study": {"name": "folder-like", "model": "faces", "domains": {"real": "photographs"}},
    "datasets": {
        "photographs": {"kind": "synthetic_faces", "count": 300, "zoom": 1.4, "seed": 5},
        "synthetic_faces": {"count": 300},
    },
    "capture": {"samples": 300, "shard_size": 1000, "keep_maps": 4, "keep_factors": 4},
}
STUDIES = ("default", "tiny", "folder-like")


def main() -> None:
    """Print one line per study and quantity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=STUDIES)
    parser.add_argument("--alone", nargs=3, metavar=("WHAT", "STUDY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        what, study, folder = options.alone
        config, place = _config(study, Path(folder)), Path(folder)
        print(json.dumps(_predict(config, place) if what == "plan" else _capture(config, place, what)))
        return
    print(f"{'':14s}{'':8s}{'planned':>12s}{'measured':>12s}{'ratio':>8s}")
    with tempfile.TemporaryDirectory() as temporary:
        for study in options.studies:
            folder = Path(temporary) / study
            folder.mkdir()
            (folder / "overlay.yaml").write_text(yaml.safe_dump(FOLDER_LIKE if study == "folder-like" else {}))
            config = _config(study, folder)
            _prepare(config, folder)
            planned, measured = [], []
            for dataset in config.study.domains.values():
                planned.append(_alone("plan", study, folder))
                start = time.perf_counter()
                measured.append(_alone(dataset, study, folder))
                measured[-1]["seconds"] = time.perf_counter() - start
            for name, unit, scale in (("disk", "MB", 1e6), ("memory", "MB", 1e6), ("seconds", "s", 1.0)):
                left, right = (sum(found[name] for found in some) / scale for some in (planned, measured))
                print(f"{study:14s}{name:8s}{left:10.1f} {unit}{right:10.1f} {unit}{left / right:8.2f}", flush=True)


def _alone(what: str, study: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", what, study, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _config(study: str, folder: Path) -> Config:
    overlay = ROOT / "resources/studies/tiny.yaml" if study == "tiny" else folder / "overlay.yaml"
    return read_config(ROOT / "config.yaml", overlay)


def _first(config: Config) -> tuple[list[int], list[int]]:
    """Return the sample ids and timesteps of the first job."""
    shard = next(iter(shards(config.capture.samples, config.capture.shard_size).values()))
    return shard, next(iter(blocks(config.capture.timesteps, config.capture.block_span).values()))


def _prepare(config: Config, folder: Path) -> None:
    """Write the model and the latents that are captured. What would be trained gets random weights."""
    model = config.model
    if model.source == "train":
        model = model.model_copy(update={"source": "untrained"})
    import_denoiser(model, folder / "model.json", root=ROOT, images=config.images)
    samples, timesteps = _first(config)
    runtime = config.runtime.model_copy(update={"progress": False})
    for domain, dataset in config.study.domains.items():
        images = folder / f"{dataset}.images.zarr.zip"
        some = config.datasets[dataset].model_copy(update={"count": len(samples)})
        prepare_dataset(some, config.images, images, name=dataset, runtime=runtime)
        make_latents(
            images,
            folder / "model.json",
            folder / f"{dataset}.latents.zarr.zip",
            domain=domain,
            timesteps=timesteps,
            sample_ids=samples,
            latents=config.latents,
        )


def _predict(config: Config, folder: Path) -> dict[str, float]:
    samples, timesteps = _first(config)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        results = folder / "results"
        measured = calibrate_study(config, len(samples), results=results, folder=Path(temporary), root=ROOT)[1]
        jobs = {(len(samples), tuple(timesteps)): 1}
        rows = plan_captures(jobs, measured, capture=config.capture, runtime=config.runtime, folder=Path(temporary))
    row = next(row for row in rows if row.configured)
    return {"disk": row.disk, "memory": row.memory or 0, "seconds": row.seconds}


def _capture(config: Config, folder: Path, dataset: str) -> dict[str, float]:
    output = folder / f"{dataset}.attention.zarr.zip"
    latents, runtime = folder / f"{dataset}.latents.zarr.zip", config.runtime.model_copy(update={"progress": False})
    capture_attention(latents, folder / "model.json", output, capture=config.capture, runtime=runtime)
    return {"disk": output.stat().st_size, "memory": peak_memory()}


if __name__ == "__main__":
    main()
