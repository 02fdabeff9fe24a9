"""What an open tap itself costs, with an observer that does nothing, in CPU time of one thread.

Run: .venv/bin/python benchmarks/tap.py [--rounds 15] [--beside SRC]; SRC is the `src` of another checkout, whose tap
takes part in the same rounds. A U-Net with the modules of SDXL's and a few channels, of which Python is most of a pass.
"""

import argparse
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.overrides import TorchFunctionMode

CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 8, 8),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 2, 2),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 16,
    "use_linear_projection": True,
}


class Through(TorchFunctionMode):
    """Counts functions and looks at none: no mode can cost less."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Through.calls += 1
        return func(*args, **(kwargs or {}))


def ways(source: Path | None, name: str, model: torch.nn.Module, run: Callable[[], Any]) -> dict[str, Any]:
    """Return one pass under a tap that is opened for it, without sites and with those of a survey."""
    if source is not None:
        sys.path.insert(0, str(source))
        for module in [module for module in sys.modules if module.split(".")[0] == "diffmech"]:
            del sys.modules[module]
    tap = import_module("diffmech.attention.tap").AttentionTap
    sites = import_module("diffmech.attention.survey").attention_sites(model, run)

    def watched(**chosen: Any) -> None:
        with tap(model, [lambda call: None], **chosen):
            run()

    return {f"{name} tap": watched, f"{name} tap, known sites": lambda: watched(sites=sites, whole=True)}


def main() -> None:
    """Print milliseconds of all ways, which alternate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--beside", type=Path, help="the src of another checkout")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = UNet2DConditionModel(**CONFIG).eval()
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 16)

    def plain() -> None:
        with torch.no_grad():
            model(latents, 10, text)

    def through() -> None:
        with Through():
            plain()

    through()
    print(f"{len(list(model.modules()))} modules, {Through.calls} functions of torch")
    runs = {"plain": plain, "a mode that does nothing": through} | ways(None, "this", model, plain)
    if options.beside:
        runs |= ways(options.beside, "the other", model, plain)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            found[name].append(1000 * (time.process_time() - start))
    for name, values in found.items():
        values.sort()
        print(f"{name:28s} {values[0]:6.1f} to {values[-1]:6.1f} ms, median {values[len(values) // 2]:6.1f}")


if __name__ == "__main__":
    main()
