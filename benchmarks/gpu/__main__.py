"""All that is measured on a GPU, in one run of some minutes: tests, the table of ways, throughput, and profiles.

Run: python benchmarks/gpu --out FOLDER [--minutes 4] [--steps tests table ...]; --small tries all of it on a CPU in a
minute. Every row is written to FOLDER/rows.jsonl as soon as it is there, tracebacks to errors.txt, tables of kernels to
profiles.txt, the table as text to table.txt. A step that fails or finds no time left is named, and the next one runs.
docs/benchmarks.md says what the steps are.
"""

import argparse
import platform
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch

# What benchmarks share, and the package itself where it is not installed.
sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "engine"))
sys.path.append(str(Path(__file__).parents[2] / "src"))

from kernels import asked
from measuring import bandwidth
from profiles import add_profile
from recording import Record
from subjects import Case, cases, subject
from table import NNSIGHT, PLAIN, STATISTICS, TABLE, add_case, summary
from throughput import ablated, ablated_subject, captured, halved

ROOT = Path(__file__).parents[2]
# In this order: what is wanted most comes first.
STEPS = ("tests", "kernels", "table", "halving", "profiles", "ablation", "capture", "nnsight")
# Seconds that steps are left by those before them, as an H100 takes them; the table would like more.
WANTED = {"kernels": 5, "table": 100, "halving": 5, "profiles": 25, "ablation": 15, "capture": 10, "nnsight": 5}


def main() -> None:
    """Run the steps in order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is found")
    parser.add_argument("--minutes", type=float, default=5.0, help="after these, what remains is named and left")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a trial on a CPU")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    record = Record(options.out, options.minutes)
    record.write("machine", platform.node(), **_machine(options.device))
    steps = [step for step in STEPS if step in options.steps]
    for place, step in enumerate(steps):
        start = time.perf_counter()
        record.reserved = 0 if options.small else sum(WANTED[later] for later in steps[place + 1 :])
        try:
            globals()[f"_{step}"](record, options.device, options.small)
        except Exception as error:  # a fault of the step itself
            record.run(step, "the step", partial(_raise, error), needs=-1e9)
        record.write("step", step, seconds=round(time.perf_counter() - start, 1))
    text = summary(record.rows)
    record.keep("table.txt", text)
    print(text)


def _raise(error: Exception) -> dict[str, Any]:
    raise error


def _machine(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"torch": torch.__version__, "diffusers": diffusers.__version__, "device": device}
    found["python"] = platform.python_version()
    if device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {"gpu": about.name, "capability": f"{about.major}.{about.minor}"}
        found |= {"memory_GB": about.total_memory / 1e9, "cuda": torch.version.cuda}
    return found


def _tests(record: Record, device: str, small: bool) -> None:
    """Run the tests marked `gpu`, from the files that have any: reading all others would take a minute."""
    marked = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--durations=5", "-p", "no:cacheprovider"]

    def run() -> dict[str, Any]:
        limit = max(record.left() - record.reserved, 30)
        try:
            done = subprocess.run([*command, *marked], cwd=ROOT, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired as cut_off:
            record.keep("tests.txt", (cut_off.stdout or b"").decode())
            raise
        record.keep("tests.txt", done.stdout + done.stderr)
        return {"code": done.returncode, "said": (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]}

    record.run("tests", "pytest -m gpu", run)


def _kernels(record: Record, device: str, small: bool) -> None:
    for tokens in (64,) if small else (1024, 4096):
        for dtype in (torch.bfloat16,) if small else (torch.bfloat16, torch.float32):
            for channels in (40, 64) if small else (8, 40, 64, 80, 128, 160):
                name = f"{tokens} tokens, {channels} channels, {str(dtype).removeprefix('torch.')}"
                record.run("kernels", name, partial(asked, tokens, channels, dtype, device))


def _ablation(record: Record, device: str, small: bool) -> None:
    for rows in (8,) if small else (48, 768, 3072):
        for shared in (False, True):
            how = "shared prefixes" if shared else "from the start"
            record.run(
                "ablation", f"default denoiser, {rows} rows, {how}", partial(ablated, device, rows, shared=shared)
            )
    for batch in (2,) if small else (1, 16):
        case = Case("SD-1.5", 8 if small else 64, batch)
        record.run("ablation", case.name, lambda case=case: ablated_subject(_subject(case, device, small), device))


def _capture(record: Record, device: str, small: bool) -> None:
    samples, batch = (8, 4) if small else (512, 256)
    for kept in ({"maps": 0, "factors": 0}, {"maps": 0, "factors": 8}, {"maps": 8, "factors": 0}):
        what = ", ".join(f"{count} {part}" for part, count in kept.items())
        name = f"default denoiser, {samples} samples x 2, batch {batch}, keeping {what}"
        record.run("capture", name, partial(captured, device, samples, batch, **kept), needs=15)


def _halving(record: Record, device: str, small: bool) -> None:
    record.run("halving", "default denoiser, statistics, four times what is free", partial(halved, device))


def _table(record: Record, device: str, small: bool) -> None:
    fastest = bandwidth() if device == "cuda" else None
    if fastest:
        record.write("copy", "device to device", GB_per_s=fastest / 1e9)
    # What is wanted most of all cases first, then the ways that it is compared with.
    plain = {}
    for ways in ([PLAIN, STATISTICS], [way for way in TABLE if way not in (PLAIN, STATISTICS)]):
        for case in cases(small=small):
            before = plain.get(case)
            needs = 2 if small else record.reserved + 5
            options = {"device": device, "small": small, "fastest": fastest, "needs": needs}
            plain[case] = add_case(record, case, ways, before=before, **options)


def _profiles(record: Record, device: str, small: bool) -> None:
    """Where launches cost most, and where kernels do."""
    wanted = cases(small=True) if small else [Case("SD-1.5", 64, 1), Case("SDXL", 64, 1)]
    wanted += [] if small else [Case("Flux blocks", 128, 8), Case("SD-1.5", 128, 8)]
    for case in wanted:
        if record.left() > 10:
            add_profile(record, case.name, _subject(case, device, small), device)
        else:
            record.write("profile", case.name, skipped=f"{max(0, record.left()):.0f} s were left")


def _nnsight(record: Record, device: str, small: bool) -> None:
    """Last, since it rewrites the forwards of a model for good."""
    for case in (case for case in cases(small=small) if case.batch == 1 and case.side in (8, 64)):
        add_case(record, case, [PLAIN, NNSIGHT], device=device, small=small, fastest=None, needs=3)


def _subject(case: Case, device: str, small: bool) -> Any:
    return subject(case, device=device, dtype=torch.bfloat16, small=small)


if __name__ == "__main__":
    main()
