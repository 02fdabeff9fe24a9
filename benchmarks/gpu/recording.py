"""What was measured, written as soon as it is there: one line of JSON per row, and the traceback of what failed."""

import gc
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Record:
    """Runs steps until the time is over and keeps what they return: `rows.jsonl`, `errors.txt`, and the screen."""

    def __init__(self, folder: Path, minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.start, self.end = folder, time.perf_counter(), time.perf_counter() + 60 * minutes
        self.rows: list[dict[str, Any]] = []
        self.reserved = 0.0  # seconds that later steps are left

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.perf_counter()

    def write(self, step: str, name: str, **found: Any) -> None:
        """Write a row."""
        row = {"step": step, "name": name, **found, "at_s": round(time.perf_counter() - self.start, 1)}
        self.rows.append(row)
        with (self.folder / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row, default=str) + "\n")
        shown = " ".join(f"{key}={_short(value)}" for key, value in found.items())
        print(f"[{row['at_s']:6.1f} s] {step}: {name}: {shown}", flush=True)

    def run(self, step: str, name: str, work: Callable[[], dict[str, Any]], *, needs: float = 5) -> None:
        """Write what `work` returns, or why there is nothing: the time is over (it `needs` so many seconds), or it
        failed."""
        if self.left() < needs:
            self.write(step, name, skipped=f"{max(0, self.left()):.0f} s were left")
            return
        try:
            self.write(step, name, **work())
        except torch.OutOfMemoryError as error:
            self.write(step, name, failed=f"out of memory: {_first_line(error)}")
            gc.collect()  # maps that a cycle of references holds would be missing in the next row
        except Exception as error:  # what fails is a result; the next step runs all the same
            with (self.folder / "errors.txt").open("a") as file:
                file.write(f"{step}: {name}\n{traceback.format_exc()}\n")
            self.write(step, name, failed=f"{type(error).__name__}: {_first_line(error)}")
        finally:
            empty()

    def keep(self, file: str, text: str) -> None:
        """Append `text` to a file beside the rows."""
        with (self.folder / file).open("a") as opened:
            opened.write(text + "\n")


def empty() -> None:
    """Give cached memory of the GPU back, so that one way does not find what another has left."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
