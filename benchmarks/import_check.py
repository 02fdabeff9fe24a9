"""What the checks of a denoiser at its import cost, in CPU time, beside passes of the batches that a study runs.

Run: OMP_NUM_THREADS=1 python benchmarks/import_check.py
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from diffmech.attention.hearing import mixed_images
from diffmech.attention.import_check import check_denoiser
from diffmech.config.load import read_config
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_denoiser

ROOT = Path(__file__).parents[1]
ROUNDS = 5


def seconds(run: Callable[[], object]) -> list[float]:
    """Return the CPU seconds of `run`, in several rounds after one that does not count, ascending."""
    run()
    found = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return sorted(found)


def main() -> None:
    """Print the table."""
    config = read_config(ROOT / "config.yaml")
    with TemporaryDirectory() as folder:
        import_denoiser(config.model, Path(folder) / "model.json", root=ROOT, images=config.images)
        denoiser = load_denoiser(Path(folder) / "model.json", device="cpu")
    images = torch.randn(config.runtime.batch_size, *denoiser.sample_shape)
    mixed = len(mixed_images(denoiser.sample_shape, 0))
    sizes = (1, mixed, len(images))
    with torch.no_grad():
        passes = {n: seconds(lambda n=n: denoiser.predict_noise(images[:n], 500)) for n in sizes}
    whole = seconds(lambda: check_denoiser(denoiser, "the bundled denoiser"))
    for n, found in passes.items():
        print(f"pass of {n:3d} images        {found[0]:.3f} to {found[-1]:.3f} s")
    print(f"all checks of an import   {whole[0]:.3f} to {whole[-1]:.3f} s")
    print(f"  all of it: {whole[0] / passes[len(images)][0]:.2f} passes of a batch of {len(images)}")


if __name__ == "__main__":
    main()
