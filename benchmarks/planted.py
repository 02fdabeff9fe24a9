"""Precision and recall of the whole analysis on planted denoisers, over seeds of model, images and weights.

Run: python benchmarks/planted.py [seeds=10] [first=0]. Each seed takes about 100 s of one core. Printed per seed and in
total: of names, effects (per domain) and redundant pairs, how many were planted, found and right.
"""

import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "planted"))

from planted_study import planted_study, run_planted


def main() -> None:
    """Run all seeds and print the table."""
    torch.set_num_threads(1)
    tables = []
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for seed in range(first, first + count):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = run_planted(planted_study(seed), Path(folder))
            summary, heads = pd.read_csv(found / "summary.csv"), pd.read_csv(found / "recovery.csv")
        missed = heads[~(heads["label_right"] & heads["effect_right"])]
        wrong = ", ".join(f"{row.role} ({row.domain})" for row in missed.itertuples()) or "none"
        counts = "  ".join(f"{row.what} {row.right}/{row.found}/{row.planted}" for row in summary.itertuples())
        print(
            f"seed {seed}: right/found/planted {counts}; wrong: {wrong}; {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        tables.append(summary)
    total = pd.concat(tables).groupby("what")[["planted", "found", "right"]].sum()
    total["precision"], total["recall"] = total["right"] / total["found"], total["right"] / total["planted"]
    print(total.to_string())


if __name__ == "__main__":
    main()
