"""How many ablated passes and captured samples a second there are, and that a batch that does not fit is halved."""

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ablation import default_denoiser
from capture import plain_passes, write_latents, write_model
from clock import timed, wait
from rows import Subject

from diffmech.attention.capture import capture_attention
from diffmech.attention.sites import HeadId, find_sites
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.tap import AttentionTap
from diffmech.batches import Batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import CaptureConfig
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import ZeroHead
from diffmech.interventions.prefix import SharedPrefix
from diffmech.models.denoiser import Condition, Denoiser

# What the test of halving leaves free of a GPU, so that a batch of a small model can be too large for it.
LEFT_FREE = 4 * 2**30


def denoiser_on(device: str) -> Denoiser:
    """Return the default study's denoiser, of 48 heads, with random weights."""
    found = default_denoiser()
    assert found.tokens is not None
    return replace(found, module=found.module.to(device), tokens=found.tokens.to(device))


def ablated(device: str, rows: int, *, shared: bool) -> dict[str, Any]:
    """Return ablated passes per second of the default denoiser, each row with another head replaced by nothing.

    With `shared` prefixes rows of a batch are of one site, and start from what the clean pass left there.
    """
    denoiser = denoiser_on(device)
    sites, attributes = find_sites(denoiser.module), len(denoiser.attributes)
    x_t = torch.randn(rows, *denoiser.sample_shape, device=device)

    def clean(images: int) -> torch.Tensor:
        return denoiser.predict_noise(x_t[:images], 500, Condition.null(images, attributes).to(device))

    def ablate(heads: list[HeadId]) -> None:
        plan = AblationPlan([[ZeroHead(head)] for head in heads], sites, device=device)
        with AttentionTap(denoiser.module, interventions=[plan], sites=sites):
            clean(rows)

    with torch.inference_mode():
        before = timed(lambda: clean(rows), device)
        if not shared:
            every = [HeadId(site.name, head) for site in sites for head in range(site.heads)]
            found = timed(lambda: ablate([every[row % len(every)] for row in range(rows)]), device)
            count = rows
        else:
            prefix, here = SharedPrefix(denoiser.module, sites, clean), torch.arange(rows, device=device)
            with prefix.recording():
                clean(rows)

            def run() -> None:
                for site in sites:
                    with prefix.replaying(site.name, here):
                        ablate([HeadId(site.name, row % site.heads) for row in range(rows)])

            found, count = timed(run, device), rows * len(sites)
    return {
        "passes_per_s": 1000 * count / found.median,
        "ms": found.median,
        "clean_passes_per_s": 1000 * rows / before.median,
    }


def ablated_subject(some: Subject, device: str) -> dict[str, Any]:
    """Return ablated passes per second of a network, each image with another head replaced by nothing."""
    sites = find_sites(some.model)
    every = [HeadId(site.name, head) for site in sites for head in range(site.heads)]
    rows = [[ZeroHead(every[row * len(every) // some.batch])] for row in range(some.batch)]

    def run() -> None:
        plan = AblationPlan(rows, sites, device=device)
        with AttentionTap(some.model, interventions=[plan], sites=sites):
            some.forward()

    with torch.inference_mode():
        clean, found = timed(some.forward, device), timed(run, device)
    return {
        "passes_per_s": 1000 * some.batch / found.median,
        "ms": found.median,
        "clean_passes_per_s": 1000 * some.batch / clean.median,
        "heads": len(every),
    }


@contextlib.contextmanager
def study(samples: int) -> Iterator[tuple[Path, Path, Path]]:
    """Yield latents of some samples at two timesteps, the default denoiser that they are for, and where to write."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        yield write_latents(Path(folder), model, samples, 2), model, Path(folder) / "attention.zarr.zip"


def captured(device: str, samples: int, batch: int, *, maps: int, factors: int) -> dict[str, Any]:
    """Return passes per second of a capture with its store on disk, and of the passes alone, both with all reading."""
    runtime = RuntimeConfig(device=device, batch_size=batch, progress=False)
    config = CaptureConfig(keep_maps=maps, keep_factors=factors)
    with study(samples) as (latents, model, output):
        plain_passes(latents, model, runtime)  # warms up
        plain = _seconds(lambda: plain_passes(latents, model, runtime), device)
        capture_attention(latents, model, output, capture=config, runtime=runtime)
        seconds = _seconds(lambda: capture_attention(latents, model, output, capture=config, runtime=runtime), device)
        size = output.stat().st_size
    passes = 2 * samples
    return {
        "passes_per_s": passes / seconds,
        "plain_passes_per_s": passes / plain,
        "seconds": seconds,
        "MB_on_disk": size / 1e6,
    }


def halved(device: str) -> dict[str, Any]:
    """Watch a batch of four times what is free of the GPU, and return how often it was halved and what came of it."""
    if device != "cuda":
        return {"skipped": "a CPU has no memory that runs out"}
    denoiser = denoiser_on(device)
    attributes, told = len(denoiser.attributes), _Told()
    observer = StatisticsObserver()

    def watched(x_t: torch.Tensor) -> torch.Tensor:
        condition = Condition.null(len(x_t), attributes).to(device)
        with AttentionTap(denoiser.module, [observer]):
            return denoiser.predict_noise(x_t, 500, condition)

    logger = logging.getLogger("diffmech.batches")
    logger.addHandler(told)
    try:
        with torch.inference_mode():
            x_t = torch.randn(256, *denoiser.sample_shape, device=device)
            expected = watched(x_t)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            watched(x_t)
            torch.cuda.synchronize()
            per_image = (torch.cuda.max_memory_allocated() - before) / len(x_t)
            observer.results.clear()
            torch.cuda.empty_cache()
            images = int(4 * LEFT_FREE / per_image)
            many = x_t.repeat(-(-images // len(x_t)), 1, 1, 1)[:images]
            ballast = torch.empty(torch.cuda.mem_get_info()[0] - LEFT_FREE, dtype=torch.uint8, device=device)
            batches, start = Batches(images), time.perf_counter()
            found = batches.run(slice(0, images), lambda piece: watched(many[piece]).float().cpu())
            seconds = time.perf_counter() - start
            del ballast
    finally:
        logger.removeHandler(told)
    first = torch.cat(found)[: len(x_t)].to(device)
    error = float((first - expected).abs().max() / expected.abs().max())
    return {
        "images": images,
        "MB_per_image": per_image / 1e6,
        "halvings": len(told.messages),
        "batch_in_the_end": batches.size,
        "images_per_s": images / seconds,
        "largest_difference": error,
        "messages": told.messages,
    }


class _Told(logging.Handler):
    """Keeps the messages of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _seconds(run: Any, device: str) -> float:
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start
