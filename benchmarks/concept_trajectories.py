"""What one trajectory for all timesteps saves over sampling anew up to every one, as the released code of CAD does.

    python benchmarks/concept_trajectories.py [--steps 50] [--samples 1]

Both ways give the very same points, which is checked; guided steps are counted, and both are timed in one run.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from diffmech.concepts.asking import asking_for
from diffmech.concepts.trajectories import restarted_trajectories, sample_trajectories
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.concepts import NamedConcept
from diffmech.models.load import load_layout
from diffmech.models.storage import find_layout

FACES = Path(__file__).parents[1] / "resources" / "models" / "faces"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1)
    arguments = parser.parse_args()
    denoiser = load_layout(find_layout(FACES), device="cpu")
    (told,) = asking_for(denoiser, NamedConcept(name="glasses")).conditions("asked", arguments.samples, 0, [0])
    runtime = RuntimeConfig(device="cpu", progress=False)
    settings = {"steps": arguments.steps, "guidance": 3.0, "seed": 0, "runtime": runtime}
    found = {}
    for way in (sample_trajectories, restarted_trajectories):
        start = time.process_time()
        found[way.__name__] = way(denoiser, told, **settings)
        seconds = time.process_time() - start
        print(f"{way.__name__} guided_steps={found[way.__name__].guided_steps} seconds={seconds:.1f}")
    once, anew = found.values()
    print(f"same_points={torch.equal(once.points, anew.points)} ratio={anew.guided_steps / once.guided_steps:.1f}")


if __name__ == "__main__":
    main()
