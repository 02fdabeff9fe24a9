"""What passes of a denoiser cost on this machine: a few of them are captured into a small store. Ours.

Images that look like none but have the spectrum of natural ones (amplitude 1/f, Field 1987) stand in for the study's,
so that nothing need be prepared; how well attention compresses depends on them little, and on the weights much.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from diffmech.artifacts import archive_of, zip_directory
from diffmech.attention.archive import archiving
from diffmech.attention.budget import PARTS, part_of, stored_values
from diffmech.attention.capture import lay_out, observe_passes, store_axes, survey_sites
from diffmech.attention.compression import choose_codecs
from diffmech.attention.keeping import FirstChunks, choose_kept
from diffmech.attention.latents import diffuse
from diffmech.attention.layout import SiteLayout
from diffmech.attention.passes import Latents
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import CaptureConfig
from diffmech.machine import forget_peak, peak_memory, resident_memory
from diffmech.models.denoiser import Denoiser
from diffmech.randomness import generator, noise

# Seconds that the passes of one part of the calibration may take, as far as a single pass does not take longer.
SECONDS = 1.0
SLOW = 3.0
STEPS = 3
KEPT = 4

# Of the images' pixels, on the scale [-1, 1].
CONTRAST = 0.4


@dataclass(frozen=True)
class Calibration:
    """What was measured. Seconds and bytes are of one pass of one image, unless said otherwise.

    `ratios`: stored bytes over bytes of values, by variable; `compression`: the codecs of maps and factors.
    `plain_seconds`: without observing; `pass_seconds`: with statistics; `kept_seconds`: per byte of maps and of
    factors. `store_seconds`: to lay out a store. `loaded_bytes`: memory of the process with the model;
    `pass_bytes`: what an image of a batch adds; `device_bytes` and `device_pass_bytes`: the same on a GPU, else 0.
    """

    layouts: list[SiteLayout]
    example: Latents
    ratios: Mapping[str, float]
    compression: Mapping[str, Mapping[str, Any]]
    plain_seconds: float
    pass_seconds: float
    kept_seconds: Mapping[str, float]
    store_seconds: float
    loaded_bytes: int
    pass_bytes: int
    device_bytes: int
    device_pass_bytes: int


@dataclass(frozen=True)
class _Run:
    """The seconds of one small capture, spent on passes and on its store, and the bytes of maps or factors it kept."""

    observing: float
    store: float
    kept_bytes: int

    @property
    def seconds(self) -> float:
        return self.observing + self.store


def calibrate(denoiser: Denoiser, latents: Latents, runtime: RuntimeConfig, folder: Path) -> Calibration:
    """Capture some passes of `latents` into temporary stores in `folder`, with and without maps and factors.

    `latents` has as many samples as a job at most, and its timesteps; fewer are run where they take long.
    """
    first = FirstChunks()
    layouts = survey_sites(denoiser, latents, first)
    one = min(_plain(denoiser, latents, 1) for _ in range(3))
    wanted = int(SECONDS / one) if one > SLOW else max(KEPT, int(SECONDS / one))
    batch = max(1, min(wanted, runtime.batch_size, len(latents.samples)))
    few = len(latents.timesteps) if batch > 1 else 1
    some, many = (first_passes(latents, count, few) for count in (min(KEPT, batch), batch))
    compression = choose_codecs(first.samples)
    ratios: dict[str, float] = {}
    quiet = runtime.model_copy(update={"progress": False, "batch_size": batch})

    def capture(passes: Latents, what: str = "statistics") -> _Run:
        count, timesteps = len(passes.samples), passes.timesteps.tolist()
        config = CaptureConfig(
            shard_size=count, keep_maps=count * (what == "maps"), keep_factors=count * (what == "factors")
        )
        kept = choose_kept(config, layouts, passes.samples.tolist(), dict(zip(timesteps, timesteps, strict=True)))
        with tempfile.TemporaryDirectory(prefix=".plan.", dir=folder) as temporary:
            directory, start = Path(temporary) / "store", time.perf_counter()
            with archiving(directory) as store:
                arrays = lay_out(
                    store,
                    layouts,
                    store_axes(passes),
                    kept=kept,
                    compression=compression,
                    prompts=passes.prompts,
                    attrs={},
                )
                laid_out = time.perf_counter()
                observe_passes(denoiser, layouts, passes, arrays, kept, quiet)
                observed = time.perf_counter()
            zip_directory(directory, archive_of(directory))
            zipped = time.perf_counter()
            stored = stored_values(archive_of(directory), arrays)
        sizes = Counter[str]()
        for (_, name), array in arrays.items():
            sizes[name] += array.nbytes
        # The last word on statistics have the chunks that are most like those of a job.
        ratios.update({name: stored[name] / sizes[name] for name in stored})
        kept_bytes = sum(size for name, size in sizes.items() if part_of(name) == what)
        return _Run(observed - laid_out, laid_out - start + zipped - observed, kept_bytes)

    # The first run of each kind is slowed by its start; where passes take long, that does not matter.
    rounds = [{what: capture(some, what) for what in PARTS} for _ in range(2 if batch > 1 else 1)]
    fastest = {what: min((found[what] for found in rounds), key=lambda run: run.seconds) for what in PARTS}
    alone = fastest.pop("statistics")
    loaded, device = resident_memory(), _device_memory(denoiser)
    forget_peak()
    whole = capture(many)
    peak, device_peak = peak_memory(), _device_peak(denoiser)
    return Calibration(
        layouts=layouts,
        example=latents,
        ratios=ratios,
        compression=compression,
        plain_seconds=_plain(denoiser, many, batch) / batch,
        pass_seconds=whole.observing / (len(many.samples) * few * (len(latents.guidance) or 1)),
        kept_seconds={what: max(0.0, run.seconds - alone.seconds) / run.kept_bytes for what, run in fastest.items()},
        store_seconds=min(alone.store, whole.store),
        loaded_bytes=loaded,
        pass_bytes=max(0, peak - loaded) // batch,
        device_bytes=device,
        device_pass_bytes=(device_peak - device) // batch,
    )


def example_latents(denoiser: Denoiser, count: int, timesteps: Sequence[int]) -> Latents:
    """Return `count` stand-ins for images, noised to `timesteps` (`STEPS` of them at most), with random conditions."""
    chosen = np.asarray(spread(timesteps, STEPS))
    shape, alphas = denoiser.sample_shape, denoiser.alphas_cumprod
    images = np.stack([example_image(shape, sample) for sample in range(count)])
    eps = np.stack([[noise(0, sample, int(t), shape) for t in chosen] for sample in range(count)])
    x_t = np.stack([diffuse(images, eps[:, column], alphas[t]) for column, t in enumerate(chosen)], axis=1)
    rng = generator(0, "conditions of a calibration")
    values = rng.integers(0, 2, (count, len(denoiser.attributes))).astype(np.float32)
    domain = np.zeros(count, np.int64) if denoiser.domains else np.full(count, -1)
    dims = ("sample", "timestep", "channel", "y", "x")
    return Latents(
        path=Path("calibration"),
        samples=np.arange(count),
        timesteps=chosen,
        x_t=xr.DataArray(x_t, dims=dims),
        noise=xr.DataArray(eps, dims=dims),
        given=xr.Dataset({"domain": ("sample", domain), "condition": (("sample", "attribute"), values)}),
        attrs={},
    )


def example_image(shape: tuple[int, int, int], sample: int) -> Float[np.ndarray, "channel y x"]:
    """Return noise with amplitude 1/f, float32 in [-1, 1], the same for all channels."""
    channels, height, width = shape
    white = np.fft.rfft2(noise(1, sample, 0, (height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    image = np.fft.irfft2(white / frequency, s=(height, width))
    scaled = np.clip(image / image.std() * CONTRAST, -1, 1).astype(np.float32)
    return np.broadcast_to(scaled, (channels, height, width))


def spread(values: Sequence[int], count: int) -> list[int]:
    """Return `count` of `values` (all if there are fewer), evenly spread from the first to the last."""
    if len(values) <= count:
        return list(values)
    return [values[index] for index in np.linspace(0, len(values) - 1, count).round().astype(int)]


def first_passes(latents: Latents, count: int, timesteps: int) -> Latents:
    """Return the passes of the first `count` samples at the middle one, or all, of the timesteps."""
    columns = slice(None) if timesteps > 1 else slice(len(latents.timesteps) // 2, len(latents.timesteps) // 2 + 1)
    given = latents.given.isel(sample=slice(0, count))
    return replace(
        latents,
        samples=latents.samples[:count],
        timesteps=latents.timesteps[columns],
        x_t=latents.x_t[:count, columns],
        noise=None if latents.noise is None else latents.noise[:count, columns],
        given=given.isel(timestep=columns) if "timestep" in given.dims else given,
    )


def _plain(denoiser: Denoiser, latents: Latents, batch: int) -> float:
    """Return the seconds of one pass of the first `batch` samples that nobody observes."""
    x_t = torch.from_numpy(np.ascontiguousarray(latents.x_t[:batch, 0].values)).to(denoiser.device)
    condition = latents.condition(slice(0, batch), 0, denoiser.device)
    start = time.perf_counter()
    with torch.no_grad():
        denoiser.predict_noise(x_t, int(latents.timesteps[0]), condition).cpu()
    return time.perf_counter() - start


def _device_memory(denoiser: Denoiser) -> int:
    if denoiser.device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(denoiser.device)
    return torch.cuda.memory_allocated(denoiser.device)


def _device_peak(denoiser: Denoiser) -> int:
    return torch.cuda.max_memory_allocated(denoiser.device) if denoiser.device.type == "cuda" else 0
