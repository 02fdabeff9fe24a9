"""How small and how fast codecs make what a capture stores: the table behind `attention/compression.py`.

Maps, factors and received attention of the bundled denoiser on drawn faces, at three timesteps, in chunks as they are
stored; bytes as stored over bytes as they are, and MB/s of one core, through zarr in memory.

Run: python benchmarks/compression.py
"""

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import zarr

from diffmech.attention.calls import AttentionCall
from diffmech.attention.compression import CODECS, encoded_bytes
from diffmech.attention.keeping import attention_factors, attention_maps
from diffmech.attention.statistics import attention_statistics
from diffmech.attention.tap import AttentionTap
from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.data.drawn import SyntheticFacesSource
from diffmech.models.load import load_denoiser
from diffmech.models.storage import find_layout, write_pointer

BUNDLED = Path(__file__).parent.parent / "resources/models/faces"
TIMESTEPS = (20, 420, 920)


def main() -> None:
    """Print a table for each kind of array."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind, chunks in _real_chunks(options.samples).items():
        megabytes = sum(chunk.nbytes for chunk in chunks) / 1e6
        print(f"\n{kind}: {len(chunks)} chunks, {megabytes:.0f} MB")
        print(f"{'codec':16s}{'size':>8s}{'write MB/s':>12s}{'read MB/s':>12s}")
        for codec in CODECS:
            size = sum(encoded_bytes(chunk, codec) for chunk in chunks) / sum(chunk.nbytes for chunk in chunks)
            times = [_seconds(chunks, codec) for _ in range(options.rounds)]
            write, read = (megabytes / min(column) for column in zip(*times, strict=True))
            print(f"{codec:16s}{size:8.3f}{write:12.0f}{read:12.0f}")


def _seconds(chunks: list[np.ndarray], codec: str) -> tuple[float, float]:
    """Return seconds to write and to read the chunks, each as one chunk of an array in memory."""
    written = read = 0.0
    for chunk in chunks:
        array = zarr.create_array(
            zarr.storage.MemoryStore(),
            shape=chunk.shape,
            chunks=chunk.shape,
            dtype=chunk.dtype,
            compressors=CODECS[codec],
        )
        start = time.perf_counter()
        array[:] = chunk
        middle = time.perf_counter()
        array[:]
        written, read = written + middle - start, read + time.perf_counter() - middle
    return written, read


def _real_chunks(samples: int) -> dict[str, list[np.ndarray]]:
    """Return, by kind, a chunk of every self- and cross-attention site at every timestep."""
    with tempfile.TemporaryDirectory() as folder:
        write_pointer(Path(folder) / "model.json", find_layout(BUNDLED), parameters=0, source="bundled")
        denoiser = load_denoiser(Path(folder) / "model.json", device="cpu")
    size = denoiser.sample_shape[-1]
    faces = SyntheticFacesSource(SyntheticFaces(kind="synthetic_faces"), ImagesConfig(size=size)).read(range(samples))
    images = torch.from_numpy(np.stack([face.image for face in faces])).float() / 127.5 - 1
    found: dict[str, list[np.ndarray]] = defaultdict(list)

    def collect(call: AttentionCall) -> None:
        grid = denoiser.site_grid(call.site, call.query.shape[-2])
        arrays = {"maps": attention_maps(call), "received": attention_statistics(call, grid).received.half()}
        arrays |= attention_factors(call)
        del arrays["factor_scale"]
        for kind, values in arrays.items():
            found[f"{kind} ({call.site.kind})"].append(values.numpy())

    for timestep in TIMESTEPS:
        share = denoiser.alphas_cumprod[timestep]
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(timestep))
        with torch.no_grad(), AttentionTap(denoiser.module, [collect]):
            denoiser.predict_noise(share**0.5 * images + (1 - share) ** 0.5 * noise, timestep)
    return dict(found)


if __name__ == "__main__":
    main()
