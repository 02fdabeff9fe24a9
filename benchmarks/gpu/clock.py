"""Milliseconds and memory of what runs on a GPU; on a CPU, for trials, milliseconds of the wall clock."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timed:
    """Median, smallest and largest milliseconds of some runs, and the peak of allocated bytes beyond the start."""

    median: float
    least: float
    most: float
    runs: int
    extra: int


def timed(run: Callable[[], Any], device: str, *, runs: int = 7, seconds: float = 1.0) -> Timed:
    """Time `run` after one run that warms up, `runs` times, or at least twice and for so many `seconds`."""
    run()
    wait(device)
    before = 0
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < 2 or (len(found) < runs and time.perf_counter() - start < seconds):
        found.append(_once(run, device))
    extra = torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
    return Timed(statistics.median(found), min(found), max(found), len(found), extra)


def _once(run: Callable[[], Any], device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - start)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last)


def wait(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
