"""What batching and the shared prefix buy: ablating every head of one image at one timestep, three ways, in one run.

Run: python benchmarks/ablation.py [threads]. Prints milliseconds per ablated pass and how many times faster than the
naive way, one pass per head, each from its start. The denoiser is that of the default study, untrained: speed does not
depend on weights. Runs are interleaved and ratios are medians over rounds, because machines are shared. "As jobs do" is
the way of the workflow on a CPU: shared prefixes, convolutions channels last, and as many rows as its caches hold.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from diffmech.attention.sites import AttentionSite, HeadId, find_sites
from diffmech.attention.tap import AttentionTap
from diffmech.config.models import Architecture
from diffmech.interventions.ablation import ROWS_ON_CPU
from diffmech.interventions.engine import AblationPlan
from diffmech.interventions.heads import ZeroHead
from diffmech.interventions.prefix import SharedPrefix
from diffmech.models.architecture import build_model, build_scheduler
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.workflow.memory import reuse_freed_memory

SHAPE = (1, 32, 32)
BATCH = 64
ATTRIBUTES = ["glasses", "hat", "beard", "smile"]
ROUNDS = 3


def default_denoiser() -> Denoiser:
    """Return the default study's architecture with random weights."""
    architecture = Architecture()
    unet, tokens = build_model(architecture, SHAPE, ATTRIBUTES, ["real", "synthetic"], seed=0)
    unet.eval().requires_grad_(False)
    tokens.eval().requires_grad_(False)
    return Denoiser(unet, build_scheduler(architecture), SHAPE, tokens, tuple(ATTRIBUTES), ("real", "synthetic"))


def interleaved(ways: dict[str, tuple[Callable[[], object], int]]) -> dict[str, tuple[float, float]]:
    """Return median milliseconds per head, and the median ratio of the first way to each, over interleaved rounds.

    `ways` are calls with the number of heads that each ablates.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name in list(ways) * (ROUNDS + 1):
        run, heads = ways[name]
        start = time.perf_counter()
        run()
        times[name].append(1000 * (time.perf_counter() - start) / heads)
    first, *_ = times.values()
    return {
        name: (
            statistics.median(values[1:]),
            statistics.median(base / value for base, value in zip(first[1:], values[1:], strict=True)),
        )
        for name, values in times.items()
    }


def ablate(denoiser: Denoiser, sites: list[AttentionSite], x_t: torch.Tensor, heads: list[HeadId]) -> torch.Tensor:
    """Ablate head k in row k, each row on the first image."""
    plan = AblationPlan([[ZeroHead(head)] for head in heads], sites)
    rows = len(heads)
    with torch.inference_mode(), AttentionTap(denoiser.module, interventions=[plan], sites=sites):
        return denoiser.predict_noise(x_t[:1].expand(rows, *SHAPE), 500, Condition.null(rows, len(ATTRIBUTES)))


def main() -> None:
    reuse_freed_memory()  # as every job of the workflow
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    denoiser = default_denoiser()
    sites = find_sites(denoiser.module)
    x_t = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(0))
    heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]

    def clean(n: int) -> torch.Tensor:
        with torch.inference_mode():
            return denoiser.predict_noise(x_t[:n], 500, Condition.null(n, len(ATTRIBUTES)))

    def recorded(images: int) -> SharedPrefix:
        prefix = SharedPrefix(denoiser.module, sites, clean)
        with prefix.recording():
            clean(images)
        return prefix

    def replayed(prefix: SharedPrefix, chosen: list[HeadId]) -> torch.Tensor:
        with prefix.replaying(chosen[0].site, torch.zeros(len(chosen), dtype=torch.long)):
            return ablate(denoiser, sites, x_t, chosen)

    def as_jobs_do() -> None:
        with channels_last(denoiser.module):
            for chosen in per_site.values():
                for start in range(0, BATCH, ROWS_ON_CPU):
                    replayed(few, chosen[start : start + ROWS_ON_CPU])

    prefix = recorded(BATCH)
    with channels_last(denoiser.module):
        few = recorded(ROWS_ON_CPU)

    per_site = {site: [HeadId(site, k % 8) for k in range(BATCH)] for site in prefix.order}
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "one pass per head": (lambda: [ablate(denoiser, sites, x_t, [head]) for head in heads[::4]], len(heads[::4])),
        "all heads in one batch": (lambda: ablate(denoiser, sites, x_t, heads), len(heads)),
        "the same, with shared prefixes": (
            lambda: [replayed(prefix, chosen) for chosen in per_site.values()],
            BATCH * len(per_site),
        ),
        "as jobs do": (as_jobs_do, BATCH * len(per_site)),
        "clean pass": (lambda: clean(BATCH), BATCH),
    }
    for site, chosen in per_site.items():
        ways[f"  shared prefix, heads of {site}"] = (lambda chosen=chosen: replayed(prefix, chosen), BATCH)  # type: ignore[misc]
    print(f"{torch.get_num_threads()} threads, {len(heads)} heads, {SHAPE[1]} x {SHAPE[2]} pixels")
    print(f"{'way':<40}{'ms per head':>12}{'times faster':>14}")
    for name, (milliseconds, ratio) in interleaved(ways).items():
        print(f"{name:<40}{milliseconds:>12.2f}{ratio:>14.2f}")


if __name__ == "__main__":
    main()
