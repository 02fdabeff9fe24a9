"""How long a step of the training takes here: the study's own training, for seconds, on a few drawn faces.

Run as a process of its own, which gives the card back: python -m benchmarks.paper.pace STUDY.yaml SECONDS
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from diffmech.config.images import SyntheticFaces
from diffmech.config.load import read_config
from diffmech.config.root import Config
from diffmech.data.store import prepare_dataset
from diffmech.models.train import DenoiserRun
from diffmech.models.training_set import TrainingSet
from diffmech.training.device import resolve_device
from diffmech.training.schedule import learning_rate

ROOT = Path(__file__).parents[2]
FACES = 32
WARM_UP = 10  # steps in which kernels are chosen and memory is taken


def seconds_per_step(config: Config, seconds: float) -> float:
    """Return the mean time of a step of the training of `config`, over `seconds` after a few steps of warm-up."""
    device = resolve_device(config.runtime.device)
    with tempfile.TemporaryDirectory() as folder:
        stores = {}
        for seed, domain in enumerate(config.study.domains):
            stores[domain] = Path(folder) / f"{domain}.zarr.zip"
            faces = SyntheticFaces(kind="synthetic_faces", count=FACES, seed=seed)
            prepare_dataset(faces, config.images, stores[domain], name=domain, runtime=config.runtime)
        run = DenoiserRun(config.model, TrainingSet(stores, config.model.training), device)
        for _ in range(WARM_UP):
            _step(run)
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            _step(run)
            steps += 1
        return (time.perf_counter() - start) / steps


def _step(run: DenoiserRun) -> None:
    run.step(learning_rate(run.progress.step, run.settings))  # ends with the loss on the CPU, so nothing is under way
    run.progress.step += 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(seconds_per_step(read_config(ROOT / "config.yaml", Path(sys.argv[1])), float(sys.argv[2])))
