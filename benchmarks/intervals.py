"""Bootstrap intervals of the means of many heads at once, beside a loop over draws and scipy.stats.bootstrap.

Run: python benchmarks/intervals.py [draws=2000] [samples=2000] [heads=100] [threads=1]. Prints seconds of wall and of
CPU time, and how many times faster than the first loop each way is in CPU time. The slow ways do a part of the heads,
named in their line, and their times are scaled to the whole. Ways take turns and the medians over rounds are
printed, because machines are shared.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Literal

ARGUMENTS = {"draws": 2000, "samples": 2000, "heads": 100, "threads": 1}
given = ARGUMENTS | dict(zip(ARGUMENTS, map(int, sys.argv[1:]), strict=False))
os.environ |= dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], str(given["threads"]))  # read on import

import numpy as np  # noqa: E402
import scipy.stats  # noqa: E402

from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic  # noqa: E402
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation  # noqa: E402

ROUNDS = 3
PART_OF_HEADS = 25


def loop(values: np.ndarray, draws: int) -> list[tuple[float, float]]:
    """Return the percentile ends, head by head and one resample after the other."""
    random = np.random.default_rng(0)
    ends = []
    for head in values.T:
        means = [random.choice(head, len(head)).mean() for _ in range(draws)]
        ends.append((np.quantile(means, 0.025), np.quantile(means, 0.975)))
    return ends


def loop_over_draws(values: np.ndarray, draws: int) -> np.ndarray:
    """Return the percentile ends (end, head) of all heads together, one resample after the other."""
    random = np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean(axis=0) for _ in range(draws)]
    return np.quantile(means, [0.025, 0.975], axis=0)


def with_scipy(values: np.ndarray, draws: int, method: Literal["percentile", "BCa"]) -> None:
    """Run scipy's bootstrap, in batches of one draw: it copies every resample of every column."""
    random = np.random.default_rng(0)
    scipy.stats.bootstrap((values,), np.mean, n_resamples=draws, method=method, batch=1, rng=random)


def main() -> None:
    draws, samples, heads = given["draws"], given["samples"], given["heads"]
    random = np.random.default_rng(0)
    values = random.gamma(4.0, size=(samples, heads))
    clean = random.gamma(8.0, size=(samples, 1))
    few = max(1, heads // PART_OF_HEADS)
    some, share = values[:, :few], few / heads
    # what to run, and what share of the whole it is
    ways: dict[str, tuple[Callable[[], object], float]] = {
        f"loop over heads and draws ({few} heads)": (lambda: loop(some, draws), share),
        "loop over draws": (lambda: loop_over_draws(values, draws), 1),
        "scipy.stats.bootstrap, percentile": (lambda: with_scipy(values, draws, "percentile"), 1),
        f"scipy.stats.bootstrap, BCa ({few} heads)": (lambda: with_scipy(some, draws, "BCa"), share),
        "bootstrap_mean, studentised": (lambda: bootstrap_mean(values, draws=draws), 1),
        "bootstrap_mean, percentile": (lambda: bootstrap_mean(values, draws=draws, method="percentile"), 1),
        "bootstrap_mean, BCa": (lambda: bootstrap_mean(values, draws=draws, method="bca"), 1),
        "bootstrap_statistic, ratio of paired means": (
            lambda: bootstrap_statistic(lambda a, b: 100 * (a / b - 1), values, clean, draws=draws),
            1,
        ),
        "random signs, p": (
            lambda: permutation_p(*sign_flip_permutation(np.abs, values - clean, permutations=draws)),
            1,
        ),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (run, share) in ways.items():
            start = time.perf_counter(), time.process_time()
            run()
            times[name].append(((time.perf_counter() - start[0]) / share, (time.process_time() - start[1]) / share))
    print(f"{draws} draws of {samples} samples x {heads} heads, {given['threads']} threads, {ROUNDS} rounds")
    print(f"{'way':<52}{'wall s':>9}{'CPU s':>9}{'times faster':>14}")
    base = next(iter(times.values()))
    for name, rounds in times.items():
        wall, busy = (statistics.median(column) for column in zip(*rounds, strict=True))
        faster = statistics.median(slow[1] / fast[1] for slow, fast in zip(base, rounds, strict=True))
        print(f"{name:<52}{wall:>9.2f}{busy:>9.2f}{faster:>14.1f}")


if __name__ == "__main__":
    main()
