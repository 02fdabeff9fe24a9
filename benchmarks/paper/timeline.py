"""When each rule ran and how long it took, from the benchmark files of Snakemake."""

from pathlib import Path

import pandas as pd


def timeline(work: Path, start: float) -> pd.DataFrame:
    """Return one row per rule: jobs, seconds of its first start and last end after `start`, of the longest job, of all.

    `start` is in seconds since the epoch. A benchmark file is written as its job ends, so that its time tells when.
    """
    rows = []
    folder = work / "results/benchmarks"
    for path in sorted(folder.rglob("*.tsv")):
        measured = pd.read_csv(path, sep="\t")
        if not measured.empty:
            end, seconds = path.stat().st_mtime - start, float(measured["s"].iloc[-1])
            rows.append((path.relative_to(folder).parts[0].removesuffix(".tsv"), end - seconds, end, seconds))
    jobs = pd.DataFrame(rows, columns=["rule", "start", "end", "seconds"])
    rules = jobs.groupby("rule").agg(
        jobs=("seconds", "size"),
        start=("start", "min"),
        end=("end", "max"),
        longest=("seconds", "max"),
        all_jobs=("seconds", "sum"),
    )
    return rules.sort_values("start").round(1).reset_index()
