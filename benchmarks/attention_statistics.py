"""What exact attention statistics cost beside the naive way. Run: python benchmarks/attention_statistics.py

Part one times a whole U-Net: plain forward, forward with tap and statistics of every site, forward with the naive
softmax map of every site. Part two times single attention calls: the flipped fused call, the blocked probabilities, the
naive map; the last is joint attention. Runs are interleaved and ratios are medians over rounds, as machines are shared.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import diffusers
import torch

from diffmech.attention.calls import AttentionCall
from diffmech.attention.kernels import attention_with_lse
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import AttentionSite
from diffmech.attention.statistics import StatisticsObserver, attention_statistics
from diffmech.attention.tap import AttentionTap


def naive_statistics(call: AttentionCall) -> None:
    """Materialise the map and reduce it, as is commonly done."""
    p = (call.scale * call.query @ call.key.transpose(-1, -2)).softmax(-1)
    -(p * (p + 1e-12).log()).sum(-1).mean(-1)
    p.mean(-2)


def naive_parts(call: AttentionCall, ranges: TokenRanges) -> None:
    """The same for joint attention, whose parts have a mass and an entropy of their own."""
    p = (call.scale * call.query @ call.key.transpose(-1, -2)).softmax(-1)
    -(p * (p + 1e-12).log()).sum(-1).mean(-1)
    p.mean(-2)
    for queries in (slice(*ranges.image), slice(*ranges.text)):
        for keys in (slice(*ranges.image), slice(*ranges.text)):
            part = p[:, :, queries, keys]
            mass = part.sum(-1, keepdim=True)
            within = part / mass
            -(within * (within + 1e-12).log()).sum(-1) * mass[..., 0]


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return median milliseconds and the median ratio to the first way, over interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name in list(ways) * (rounds + 1):
        start = time.perf_counter()
        ways[name]()
        times[name].append(1e3 * (time.perf_counter() - start))
    first = times[next(iter(ways))][1:]
    return {
        name: (
            statistics.median(values[1:]),
            statistics.median(value / base for value, base in zip(values[1:], first, strict=True)),
        )
        for name, values in times.items()
    }


def show(title: str, ways: dict[str, Callable[[], object]], rounds: int) -> None:
    print(title)
    for name, (milliseconds, ratio) in interleaved(ways, rounds).items():
        print(f"  {name:22s} {milliseconds:9.1f} ms  {ratio:6.2f} x")


def benchmark_unet(batch: int, rounds: int) -> None:
    model = diffusers.UNet2DConditionModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 128),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=64,
    )
    model = model.eval().to(memory_format=torch.channels_last)
    sample = torch.randn(batch, 1, 32, 32).to(memory_format=torch.channels_last)
    timestep, tokens = torch.randint(0, 1000, (batch,)), torch.randn(batch, 12, 64)

    def plain() -> None:
        model(sample, timestep, tokens)

    def watched(observer: object) -> Callable[[], None]:
        def run() -> None:
            with AttentionTap(model, [observer]):
                plain()

        return run

    ways = {"plain": plain, "exact statistics": watched(StatisticsObserver()), "naive": watched(naive_statistics)}
    show(f"U-Net, batch {batch}, 3 self and 3 cross sites", ways, rounds)


def benchmark_call(batch: int, heads: int, side: int, channels: int, rounds: int) -> None:
    tokens, scale = side * side, 1 / math.sqrt(channels)
    query, key, value = torch.randn(3, batch, tokens, heads, channels).transpose(2, 3)
    output, lse = attention_with_lse(query, key, value)
    site = AttentionSite("one.self", "one", "self", heads)
    call = AttentionCall(site, query, key, value, output, lse, scale, None, False)
    ways: dict[str, Callable[[], object]] = {
        "attention itself": lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value),
        "statistics, fused": lambda: attention_statistics(call, method="fused"),
        "statistics, blocked": lambda: attention_statistics(call, method="blocked"),
        "naive": lambda: naive_statistics(call),
    }
    show(f"one call, batch {batch}, {heads} heads, {tokens} tokens, {channels} channels", ways, rounds)


def benchmark_joint(batch: int, heads: int, side: int, texts: int, channels: int, rounds: int) -> None:
    image, scale = side * side, 1 / math.sqrt(channels)
    query, key, value = torch.randn(3, batch, image + texts, heads, channels).transpose(2, 3)
    output, lse = attention_with_lse(query, key, value)
    site = AttentionSite("joint00", "joint", "joint", heads)
    call = AttentionCall(site, query, key, value, output, lse, scale, None, False)
    ranges = TokenRanges((0, image), (image, image + texts))
    ways: dict[str, Callable[[], object]] = {
        "attention itself": lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value),
        "statistics": lambda: attention_statistics(call, ranges=ranges),
        "naive": lambda: naive_parts(call, ranges),
    }
    show(f"one joint call, batch {batch}, {heads} heads, {image} + {texts} tokens, {channels} channels", ways, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with torch.no_grad():
        print(f"torch {torch.__version__}, {arguments.threads} threads")
        benchmark_unet(arguments.batch, arguments.rounds)
        for batch, side, channels in ((arguments.batch, 16, 8), (4, 32, 32), (1, 64, 40)):
            benchmark_call(batch, 8, side, channels, arguments.rounds)
        benchmark_joint(1, 8, 64, 333, 64, arguments.rounds)
