"""What it costs to see attention: our ways and others' beside the plain forward, on four denoisers, in one run.

Run: python benchmarks/engine [--quick] [--threads N] [--rows small flux]. Prints one table and how the engine's claims
fare. A run is a capture of some timesteps, rounds interleave. Times are those of the fastest round, since what else
runs on a machine only ever adds, beside the smallest and largest ratio within a round. Memory is the peak of a fresh
process beyond that of the plain forward. All ways run under the allocator settings of our jobs. The error is that of
entropy against float64. docs/benchmarks.md says what each way is.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import diffusers
import torch

sys.path.append(str(Path(__file__).parents[1]))  # what benchmarks share

from claims import claims
from measuring import PLAIN, Alone, Settings, Times, all_of, apart, bandwidth, extra_memory, reference, times
from rows import ROWS
from ways import WAYS

FOOTNOTES = "abcdefghijklmnop"


def main() -> None:
    """Print the machine, the table, footnotes, and the claims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="smaller inputs and two rounds, one to two minutes")
    parser.add_argument("--rounds", type=int, default=None, help="3, or 2 if quick")
    parser.add_argument("--passes", type=int, default=None, help="timesteps of a capture: 4, or 1 if quick")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", nargs="+", default=[""], help="parts of names, e.g. small flux")
    options = parser.parse_args()
    rounds, passes = options.rounds or (2 if options.quick else 3), options.passes or (1 if options.quick else 4)
    settings = Settings(rounds, passes, options.threads, options.quick, options.device)
    start, found = time.perf_counter(), []
    notes: dict[str, str] = {}
    print(_machine(settings), flush=True)
    fastest = apart(bandwidth) if settings.device == "cuda" else None
    print(_line("", "ms", "x plain", "range", "extra MB", "MB on disk", "entropy error", fastest and "bandwidth"))
    for index, row in enumerate(ROWS):
        if not any(part.lower() in row.name.lower() for part in options.rows):
            continue
        tokens = row.quick_tokens if settings.quick else row.tokens
        print(f"{row.name}, {tokens} tokens ({row.about})", flush=True)
        expected = apart(reference, index, settings)
        ways = {name: all_of(index, name, settings, expected) for name in WAYS}
        seconds = apart(times, index, [name for name, way in ways.items() if not way.reason], settings)
        for name, way in ways.items():
            for text in filter(None, (way.reason, way.note)):
                notes.setdefault(f"{name}: {text}", FOOTNOTES[len(notes)])
            mark = "".join(
                letter for text, letter in notes.items() if text in (f"{name}: {way.reason}", f"{name}: {way.note}")
            )
            print(_way(name, mark, ways, seconds, fastest), flush=True)
        if not settings.quick:
            found += [(row.name, *claim) for claim in claims(row, tokens, seconds, ways)]
    for text, letter in notes.items():
        print(f"[{letter}] {text}")
    for name, claim, measured, holds in found:
        print(f"{'true ' if holds else 'FALSE'}  {name}: {claim}: {measured}")
    print(f"{time.perf_counter() - start:.0f} s in all, load {os.getloadavg()[0]:.1f} at the end")


def _way(name: str, mark: str, ways: dict[str, Alone], seconds: dict[str, Times], fastest: float | None) -> str:
    way, label = ways[name], f"{name} [{mark}]" if mark else name
    if way.reason:
        return _line(label, *["-"] * 6, fastest and "-")
    mine, plain = seconds[name], seconds[PLAIN]
    ratios = [one / other for one, other in zip(mine.seconds, plain.seconds, strict=True)]
    is_plain = name == PLAIN
    extra = extra_memory(ways, name) / 1e6
    used = None
    if fastest:
        # Of what the way adds: queries and keys read once, and what it leaves written once.
        added = mine.fastest - plain.fastest
        used = "-" if is_plain or added <= 0 else f"{way.moved / added / fastest:.1%}"
    return _line(
        label,
        f"{1e3 * mine.fastest:.0f}",
        f"{mine.fastest / plain.fastest:.2f}",
        "" if is_plain else f"{min(ratios):.2f}-{max(ratios):.2f}",
        "" if is_plain else f"{extra:.0f}",
        "" if is_plain else f"{way.disk / 1e6:.1f}",
        "" if way.error is None else f"{way.error:.0e}",
        used,
    )


def _line(label: str, *cells: str | float | None) -> str:
    widths = (8, 9, 12, 10, 12, 15, 11)
    shown = [f"{cell:>{width}s}" for cell, width in zip(cells, widths, strict=False) if isinstance(cell, str)]
    return f"  {label:30s}{''.join(shown)}".rstrip()


def _machine(settings: Settings) -> str:
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    name = torch.cuda.get_device_name() if settings.device == "cuda" else (models or ["unknown CPU"])[0]
    load = f"load {os.getloadavg()[0]:.1f} before"
    return (
        f"{name}, {len(models)} cores, {settings.threads} threads, torch {torch.__version__}, diffusers "
        f"{diffusers.__version__}, {settings.rounds} rounds of {settings.passes} passes, {load}"
    )


if __name__ == "__main__":
    main()
