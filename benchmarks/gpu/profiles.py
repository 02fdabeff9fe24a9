"""Where the time of a pass goes: kernels, launches, and how much of the time the GPU is at work."""

import time
from typing import Any

import torch
from clock import wait
from recording import Record
from rows import Subject
from table import PLAIN, STATISTICS, TABLE
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from diffmech.attention.tap import AttentionTap


def add_profile(record: Record, name: str, some: Subject, device: str) -> None:
    """Write a table of kernels for the plain forward, for the tap with nobody watching, and for statistics."""
    with torch.no_grad():
        statistics = TABLE[STATISTICS](some)

    def unwatched() -> None:
        with AttentionTap(some.model, [lambda call: None]):
            some.forward()

    runs = {PLAIN: some.forward, "a tap alone": unwatched, STATISTICS: lambda: statistics.run(None, 1)}  # type: ignore[arg-type]
    for way, run in runs.items():
        record.run(
            "profile", f"{name}: {way}", lambda way=way, run=run: _profiled(record, f"{name}: {way}", run, device)
        )


def _profiled(record: Record, name: str, run: Any, device: str) -> dict[str, Any]:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with torch.no_grad():
        run()
        wait(device)
        start = time.perf_counter()
        run()
        wait(device)
        unprofiled = 1000 * (time.perf_counter() - start)
        with profile(activities=activities) as seen:
            run()
            wait(device)
    events = seen.key_averages()
    order = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    table = events.table(sort_by=order, row_limit=25, max_name_column_width=90)
    record.keep("profiles.txt", f"== {name}\n{table}\n")
    # Operations of the CPU are charged with the kernels that they start: only kernels themselves are counted.
    kernels = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    busy = sum(event.self_device_time_total for event in kernels) / 1000
    return {
        "ms": unprofiled,
        "kernels_ms": busy,
        "busy": busy / unprofiled,
        "kernels": sum(event.count for event in kernels),
        "launches": _calls(events, "LaunchKernel"),
        "waits": _calls(events, "Synchronize"),
        "copies": _calls(events, "cudaMemcpy"),
    }


def _calls(events: Any, part: str) -> int:
    """Return how often CUDA was asked for what has `part` in its name; the profiler itself waits once, at its end."""
    return sum(event.count for event in events if part in event.key and event.key.startswith("cu"))
