"""Measuring ways: interleaved rounds in one process for time, fresh processes per way and row for memory.

Fresh processes are forked from a server that has imported everything and computed nothing, so that their peaks differ
by the way alone.
"""

import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from heaps import gaps
from rows import ROWS, Subject, make
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from ways import STORE, WAYS, Prepared, attention_bytes, reference_entropies

from diffmech.machine import peak_memory
from diffmech.workflow.memory import reuse_freed_memory

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = [
    "diffmech.attention.capture",
    "diffmech.attention.store",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.models.transformers.transformer_sd3",
]

# Ways of ours that claim never to hold an array as large as a map.
WITHOUT_MAPS = ("our statistics", "our factors")

# Heaps that memory is measured on, and runs on each: a second pass finds the gaps that the first has left.
HEAPS, RUNS = 5, 2

# What every way is compared with.
PLAIN = "plain forward"


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    rounds: int
    passes: int  # timesteps of a capture, by which a time is divided
    threads: int
    quick: bool
    device: str


@dataclass
class Alone:
    """What fresh processes found of one way: bytes, nats, and the elements of the largest tensor where that is asked.

    `peaks` are of memory, on each of `HEAPS` heaps or on the first alone. `moved` are the bytes that must at least be
    read and left, known on CUDA. `parts` are bytes on disk by array of the store. `reason` says why the way could not
    be run.
    """

    peaks: list[int] = field(default_factory=list)
    disk: int = 0
    moved: int = 0
    error: float | None = None
    largest: int | None = None
    note: str = ""
    reason: str = ""
    parts: dict[str, int] = field(default_factory=dict)


@dataclass
class Times:
    """Seconds of one pass, mean over the passes of every round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def fastest(self) -> float:
        """Seconds of the fastest round: what else runs on a machine only ever adds."""
        return min(self.seconds)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `function` returns in a fresh process."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        return pool.submit(function, *arguments).result()


def reference(index: int, settings: Settings) -> dict[str, list[float]]:
    """Return the entropies of a row in float64, by site."""
    with torch.no_grad():
        found = reference_entropies(_subject(index, settings))
    return {site: values.tolist() for site, values in found.items()}


def all_of(index: int, name: str, settings: Settings, expected: dict[str, list[float]]) -> Alone:
    """Return all that fresh processes find of one way but its times."""
    found: Alone = apart(alone, index, name, settings, expected)
    if not found.reason:
        # Others keep what they see, hundreds of megabytes, beside which a heap's gaps do not matter.
        ours = name == PLAIN or name.startswith("our ")
        heaps = HEAPS if ours and settings.device == "cpu" and not settings.quick else 1
        found.peaks = [apart(peak, index, name, settings, heap) for heap in range(heaps)]
    return found


def peak(index: int, name: str, settings: Settings, heap: int) -> int:
    """Return the peak memory in bytes of a process that prepares a way and runs it a few times."""
    subject = _subject(index, settings)
    with gaps(heap) as held, torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        prepared = WAYS[name](subject)
        for _ in range(RUNS):
            prepared.run(Path(folder), 1)
        return torch.cuda.max_memory_allocated() if settings.device == "cuda" else peak_memory() - held


def extra_memory(found: Mapping[str, Alone], name: str) -> float:
    """Return the bytes that a way takes beyond the plain forward, in the median of the heaps that both ran on."""
    pairs = zip(found[name].peaks, found[PLAIN].peaks, strict=False)
    return statistics.median(mine - plain for mine, plain in pairs)


def alone(index: int, name: str, settings: Settings, expected: dict[str, list[float]]) -> Alone:
    """Run one way once and tell what it left, in memory and on disk."""
    subject = _subject(index, settings)
    found = Alone()
    with torch.no_grad(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            prepared = WAYS[name](subject)
            prepared.run(folder, 1)
        except Exception as error:  # a way that cannot do a row is a result
            return Alone(reason=f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
        found.note = prepared.note
        prepared.write(folder)
        found.disk = sum(file.stat().st_size for file in folder.iterdir())
        found.parts = _parts(folder / STORE)
        entropies = prepared.entropies(folder)
        if entropies:
            assert entropies.keys() == expected.keys()
            found.error = max(
                (values.double() - torch.tensor(expected[site], dtype=torch.float64)).abs().max().item()
                for site, values in entropies.items()
            )
        if settings.device == "cuda":
            found.moved = found.disk + attention_bytes(subject)
        if name in WITHOUT_MAPS:
            with _Largest() as largest:
                prepared.run(folder, 1)
            found.largest = largest.elements
    return found


def times(index: int, names: list[str], settings: Settings) -> dict[str, Times]:
    """Run the ways in turn in a process of their own, `settings.rounds` times, each into an empty folder."""
    found = {name: Times() for name in names}
    CONTEXT.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        pool.submit(_prepare, index, names, settings).result()
        for _ in range(settings.rounds):
            for name in names:
                found[name].seconds.append(pool.submit(_timed, name, settings).result())
    return found


def bandwidth() -> float:
    """Return the bytes per second that a copy within CUDA memory reads and writes."""
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


_prepared: dict[str, Prepared] = {}  # of a process that times ways


def _prepare(index: int, names: list[str], settings: Settings) -> None:
    with torch.no_grad():
        shared = _subject(index, settings)
        for name in names:
            # nnsight rewrites the forwards of a model for good: it has its own.
            _prepared[name] = WAYS[name](_subject(index, settings) if name == "nnsight" else shared)
        shared.forward()


@torch.no_grad()
def _timed(name: str, settings: Settings) -> float:
    folder = Path(tempfile.mkdtemp())
    try:
        _wait(settings)
        start = time.perf_counter()
        _prepared[name].run(folder, settings.passes)
        _wait(settings)
        return (time.perf_counter() - start) / settings.passes
    finally:
        shutil.rmtree(folder)


def _wait(settings: Settings) -> None:
    if settings.device == "cuda":
        torch.cuda.synchronize()


def _subject(index: int, settings: Settings) -> Subject:
    reuse_freed_memory()  # as every job of the workflow
    torch.set_num_threads(settings.threads)
    return make(ROWS[index], quick=settings.quick, device=settings.device)


def _parts(store: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    if store.is_file():
        for entry in ZipFile(store).infolist():
            array = entry.filename.rpartition("/")[0]
            found[array] = found.get(array, 0) + entry.file_size
    return found


class _Largest(TorchDispatchMode):
    """Notes the largest tensor, in elements of its storage, that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return output
