"""What to ask a cluster for: memory and time of each rule, from the benchmark files of a run that is finished. Ours.

    python -m diffmech.workflow.sizes results/benchmarks > sizes.yaml

Of all jobs of a rule the largest counts. A job is not alone: two processes of Snakemake stand around it, and what it
allocates last its benchmark may not see. What is asked for grows with every attempt.
"""

import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from diffmech.errors import StoreError

AROUND = 400  # MB, of the processes around a job and for the loader of shared libraries
MEMORY_MARGIN, TIME_MARGIN = 1.3, 3.0  # times what was measured
SHORTEST = 5  # minutes


def measured(benchmarks: Path) -> dict[str, tuple[float, float]]:
    """Return the largest memory (MB) and time (s) of the jobs of every rule; StoreError names a file it cannot read."""
    largest: dict[str, tuple[float, float]] = {}
    for file in sorted(benchmarks.rglob("*.tsv")):
        rule = file.relative_to(benchmarks).with_suffix("").parts[0]
        try:
            with file.open(encoding="utf-8", newline="") as lines:
                rows = [(_number(row["max_rss"]), float(row["s"])) for row in csv.DictReader(lines, delimiter="\t")]
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise StoreError(
                f"{file}: is no benchmark file of Snakemake ({error!r}); delete it, its job is kept"
            ) from error
        for memory, seconds in rows:
            before = largest.get(rule, (0.0, 0.0))
            largest[rule] = (max(before[0], memory), max(before[1], seconds))
    if not largest:
        raise StoreError(f"{benchmarks}: holds no benchmark files; run a small study first, they come with its results")
    return largest


def requests(sizes: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, str]]:
    """Return the `set-resources` of a profile: memory in MB, rounded up to hundreds, and runtime in minutes."""
    return {
        rule: {
            "mem_mb": f"{100 * math.ceil((MEMORY_MARGIN * memory + AROUND) / 100)} * attempt",
            "runtime": f"{max(SHORTEST, math.ceil(TIME_MARGIN * seconds / 60))} * attempt",
        }
        for rule, (memory, seconds) in sorted(sizes.items())
    }


def _number(text: str) -> float:
    return 0.0 if text in ("-", "NA") else float(text)  # of jobs too short to be measured


if __name__ == "__main__":
    try:
        asked = requests(measured(Path(sys.argv[1] if len(sys.argv) > 1 else "results/benchmarks")))
    except StoreError as error:
        sys.exit(f"diffmech: {error}")
    print(yaml.safe_dump({"set-resources": asked}, sort_keys=True), end="")
