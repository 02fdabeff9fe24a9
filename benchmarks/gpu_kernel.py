"""What the statistics of one attention call cost on a GPU beside attention itself, and how exact they are.

Run: python benchmarks/gpu_kernel.py [--output rows.jsonl] [--blocks]. One row of JSON for each call and way:

- attention: `scaled_dot_product_attention` alone;
- kernels: all statistics by `attention.gpu`, as a study takes them;
- operators: all statistics by torch's operators, as a study takes them where the kernels cannot run;
- flipped flash: entropy, received attention and distance alone, from one flipped flash call in half precision, with the
  lse in three channels that hold all its bits. As few launches need no kernel of ours, but see its errors.

`ms` is the median on the GPU, by events; `host_ms` is how long the caller is kept; `ratio` is to attention. Errors are
the largest over heads and keys, as shares of the largest value, beside float64 statistics of the same queries and keys.
With --blocks the kernels run once more with other blocks than `attention.gpu` would choose. With --small, on a CPU,
tiny calls show that all this works, without the kernels.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from diffmech.attention import gpu
from diffmech.attention.calls import AttentionCall
from diffmech.attention.kernels import attention_with_lse
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import AttentionSite
from diffmech.attention.statistics import _parts, attention_statistics, tiled_statistics


@dataclasses.dataclass(frozen=True)
class Shape:
    """One attention call of a model; `text` stands beside the image, `first` says before it."""

    model: str
    samples: int
    heads: int
    image: int
    channels: int
    keys: int = 0
    text: int = 0
    first: bool = False

    def ranges(self) -> TokenRanges | None:
        """Return where image and text stand in joint attention."""
        if not self.text:
            return None
        before = self.text if self.first else 0
        image = (before, before + self.image)
        return TokenRanges(image, (0, self.text) if self.first else (self.image, self.image + self.text))


# Guided models see two samples at once, distilled ones one.
SHAPES = [
    Shape("Stable Diffusion 1.5, 64 x 64", 2, 8, 4096, 40),
    Shape("Stable Diffusion 1.5, 32 x 32", 2, 8, 1024, 80),
    Shape("SDXL, 64 x 64", 2, 10, 4096, 64),
    Shape("SDXL, 32 x 32", 2, 20, 1024, 64),
    Shape("SDXL, 64 x 64, cross", 2, 10, 4096, 64, keys=77),
    Shape("SDXL, 32 x 32, cross", 2, 20, 1024, 64, keys=77),
    Shape("Stable Diffusion 3, 32 x 32", 2, 24, 1024, 64, text=333),
    Shape("Stable Diffusion 3, 64 x 64", 2, 24, 4096, 64, text=333),
    Shape("Flux, 64 x 64", 1, 24, 4096, 128, text=512, first=True),
]
SMALL = [Shape("self", 1, 2, 64, 8), Shape("cross", 1, 2, 64, 8, keys=5), Shape("joint", 1, 2, 64, 8, text=7)]
TUNED = ("SDXL, 64 x 64", "SDXL, 32 x 32", "Stable Diffusion 3, 64 x 64", "Flux, 64 x 64")

# (keys, queries, chunk, warps, stages)
BLOCKS = [
    (128, 64, 1024, 4, 3),
    (128, 64, 512, 4, 3),
    (128, 64, 2048, 4, 3),
    (128, 64, 1024, 4, 2),
    (128, 64, 1024, 8, 3),
    (128, 128, 1024, 8, 3),
    (128, 32, 1024, 4, 4),
    (64, 64, 1024, 4, 3),
    (64, 128, 1024, 4, 3),
]


def make_call(shape: Shape, device: torch.device, dtype: torch.dtype) -> AttentionCall:
    """Return a call with random heads that are somewhat sharp, beside each other as projections give them."""

    def heads_of(tokens: int) -> Tensor:
        heads = torch.randn(shape.samples, tokens, shape.heads, shape.channels, device=device)
        return heads.to(dtype).transpose(1, 2)

    tokens = shape.image + shape.text
    kind = "joint" if shape.text else "cross" if shape.keys else "self"
    query, key, value = 2 * heads_of(tokens), heads_of(shape.keys or tokens), heads_of(shape.keys or tokens)
    scale = 1 / math.sqrt(shape.channels)
    output, lse = attention_with_lse(query, key, value, scale)
    site = AttentionSite(f"one.{kind}", "one", kind, shape.heads)
    return AttentionCall(site, query, key, value, output, lse, scale, None, False)


def flipped_flash(call: AttentionCall) -> dict[str, Tensor]:
    """Return entropy, received attention and distance as `sums.fused_sums` does, in the type of the call.

    ln p_ij = scale [q_i, -lse_i / scale].[k_j, 1], whose second channel takes three in half precision.
    """
    assert call.lse is not None
    dtype, queries, keys = call.query.dtype, call.query.shape[2], call.key.shape[2]
    rest, offsets = -call.lse.unsqueeze(-1) / call.scale, []
    for _ in range(3):
        offsets.append(rest.to(dtype))
        rest = rest - offsets[-1]
    spatial = queries == keys
    side = math.isqrt(queries)
    places = gpu.places_of((1, side, side), call.query.device)[:, :queries].T if spatial else None
    zeros = call.query.new_zeros(*call.query.shape[:3], 3)
    channels = call.query.shape[-1]
    pad = (0, -(channels + 6) % 8)
    asking = torch.cat(
        [call.key, call.key.new_ones(*call.key.shape[:3], 3), call.key.new_zeros(*call.key.shape[:3], 3)], -1
    )
    asked = torch.cat([call.query, *offsets, zeros], -1)
    value = asked if places is None else torch.cat([call.query, *offsets, places.to(dtype).expand_as(zeros)], -1)
    asking, asked, value = (functional.pad(tensor, pad) for tensor in (asking, asked, value))
    moments, log_received = attention_with_lse(asking, asked, value, call.scale)
    received, moments = log_received.exp(), moments.float()
    used = channels + 3
    entropy = -(received * call.scale * (moments[..., :used] * asking[..., :used]).sum(-1)).sum(-1) / queries
    found = {"entropy": entropy, "received": received * keys / queries}
    if places is not None:
        products = (moments[..., used : used + 2] * places[:, :2]).sum(-1)
        squares = received * (places[:, 2] - 2 * products + moments[..., used + 2])
        found["distance"] = (squares.sum(-1) / queries).clamp_min(0).sqrt()
    return found


def ways_of(call: AttentionCall, ranges: TokenRanges | None, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    parts = _parts(call, None, ranges, torch.float32)
    other = "fused" if device.type == "cuda" else "blocked"
    ways: dict[str, Callable[[], Any]] = {
        "attention": lambda: functional.scaled_dot_product_attention(
            call.query, call.key, call.value, scale=call.scale
        ),
        "operators": lambda: vars(attention_statistics(call, None, other, ranges)),
    }
    if device.type == "cuda":
        ways["kernels"] = lambda: gpu.launched(call, parts, call.lse, ranges)
    if ranges is None:
        ways["flipped flash"] = lambda: flipped_flash(call)
    return ways


def timed(ways: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, tuple[float, float]]:
    """Return median milliseconds on the device and of the caller, over interleaved rounds."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for name in list(ways) * (rounds + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            # Something to do first, so that the GPU does not wait for launches between the events.
            torch.cuda._sleep(2_000_000)
            start.record()
        before = time.perf_counter()
        ways[name]()
        host = 1000 * (time.perf_counter() - before)
        if device.type == "cuda":
            end.record()
            torch.cuda.synchronize()
            times[name].append((start.elapsed_time(end), host))
        else:
            times[name].append((host, host))
    return {
        name: tuple(statistics.median(some) for some in zip(*values[2:], strict=True))  # type: ignore[misc]
        for name, values in times.items()
    }


def errors(found: dict[str, Tensor | None], exact: dict[str, Tensor | None]) -> dict[str, float]:
    """Return the largest error of every field, as a share of its largest value."""
    result = {}
    for name, value in found.items():
        truth = exact[name]
        if value is not None and truth is not None and not name.startswith("output"):
            result[name] = float((value.double() - truth).abs().max() / truth.abs().max())
    return result


def exact_statistics(call: AttentionCall, ranges: TokenRanges | None) -> dict[str, Tensor | None]:
    """Return the statistics in float64, of the first sample."""
    first = {name: getattr(call, name)[:1].double() for name in ("query", "key", "value", "output")}
    return vars(tiled_statistics(dataclasses.replace(call, **first, lse=None), None, ranges))


def rows(shapes: list[Shape], device: torch.device, dtype: torch.dtype, rounds: int) -> Iterator[dict[str, Any]]:
    for shape in shapes:
        call = make_call(shape, device, dtype)
        ranges = shape.ranges()
        ways = ways_of(call, ranges, device)
        exact = exact_statistics(call, ranges)
        wrong = {}
        for name, way in ways.items():
            if name != "attention":
                wrong[name] = errors({n: v if v is None else v[:1] for n, v in way().items()}, exact)
        times = timed(ways, device, rounds)
        for name, (milliseconds, host) in times.items():
            row = {**dataclasses.asdict(shape), "dtype": str(dtype), "way": name, "ms": milliseconds, "host_ms": host}
            yield row | {"ratio": milliseconds / times["attention"][0], "errors": wrong.get(name)}


def block_rows(shapes: list[Shape], device: torch.device, dtype: torch.dtype, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the times of the kernels with other blocks."""
    chosen = gpu.blocks_of
    for shape in shapes:
        if shape.model not in TUNED:
            continue
        call = make_call(shape, device, dtype)
        ways = ways_of(call, shape.ranges(), device)
        for keys, queries, chunk, warps, stages in BLOCKS:
            size = dataclasses.replace(
                chosen(call), keys=keys, queries=queries, chunk=chunk, warps=warps, stages=stages
            )
            gpu.blocks_of = lambda _, size=size: size
            row = {"model": shape.model, "way": "kernels", "blocks": dataclasses.asdict(size)}
            try:
                times = timed({name: ways[name] for name in ("attention", "kernels")}, device, rounds)
            except Exception as error:  # more registers or memory than there are
                yield row | {"error": f"{type(error).__name__}: {error}"[:200]}
                continue
            finally:
                gpu.blocks_of = chosen
            yield row | {"ms": times["kernels"][0], "ratio": times["kernels"][0] / times["attention"][0]}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", help="a file for the rows, beside what is printed")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--blocks", action="store_true", help="also time other blocks")
    parser.add_argument("--small", action="store_true", help="tiny calls on a CPU")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cpu" if arguments.small else "cuda")
    dtype, shapes = getattr(torch, arguments.dtype), SMALL if arguments.small else SHAPES
    name = "CPU" if arguments.small else torch.cuda.get_device_name()
    start = time.perf_counter()
    made = [rows(shapes, device, dtype, arguments.rounds)]
    if arguments.blocks and not arguments.small:
        made.append(block_rows(shapes, device, dtype, arguments.rounds))
    with open(arguments.output, "w") if arguments.output else nullcontext() as output:
        for row in (row for some in made for row in some):
            line = json.dumps({"device": name, "torch": torch.__version__, **row, "s": time.perf_counter() - start})
            for file in (sys.stdout, output):
                if file is not None:
                    print(line, file=file, flush=True)


if __name__ == "__main__":
    main()
