"""What an ablated pass shares with the clean one: everything before the first replaced head.

A head at one site cannot change what was computed before that site ran. So the clean pass keeps the outputs of the
modules that had finished by then, and ablated passes on the same images start from those, which saves about half of the
work at the sites of a U-Net's way up. Which modules these are is learned from two small trial passes, for any
architecture: a module is reused only if it runs once and returns tensors with one row per image. Exact; ours.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffmech.attention.sites import AttentionSite

# Two numbers of images tell a batch axis from an axis that happens to be as long.
TRIALS = (2, 3)


class SharedPrefix:
    """Records the start of clean passes of `model` and replays it in passes that first differ at a given site.

    `run(n)` must run one pass of n images, any images. `order` names the sites in the order in which they ran.
    """

    def __init__(self, model: nn.Module, sites: Sequence[AttentionSite], run: Callable[[int], Any]) -> None:
        self._model = model
        self._modules = {path: module for path, module in model.named_modules() if path}
        entered, left, calls, batched = self._trial(run)
        running = [site for site in sites if calls[site.module_path]]
        self.order = [site.name for site in sorted(running, key=lambda site: entered[site.module_path])]
        self._skipped: dict[str, list[str]] = {}
        for site in running:
            skipped: list[str] = []
            # A site that runs more than once has no single moment before which nothing can have changed.
            for path in self._modules if calls[site.module_path] == 1 else ():
                finished = calls[path] == 1 and path in batched and left[path] < entered[site.module_path]
                if finished and not any(path.startswith(f"{parent}.") for parent in skipped):
                    skipped.append(path)
            self._skipped[site.name] = skipped
        self._outputs: dict[str, Any] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the outputs of the pass that runs inside this context, in place of those kept before."""
        self._outputs = {}
        with ExitStack() as hooks:
            for path in {path for skipped in self._skipped.values() for path in skipped}:
                hooks.callback(self._modules[path].register_forward_hook(self._keep(path)).remove)
            yield

    @contextmanager
    def replaying(self, site: str | None, rows: Tensor) -> Iterator[None]:
        """Reuse what ran before `site` in the recorded pass; image k of the batch is recorded image `rows[k]`.

        `site` None reuses nothing.
        """
        with ExitStack() as restore:
            for path in self._skipped[site] if site else ():
                module, output = self._modules[path], self._outputs[path]
                own = vars(module).get("forward")
                module.forward = _returning(output, rows)
                restore.callback(_restore_forward, module, own)
            yield

    def _keep(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            # A copy: later layers may work in place.
            self._outputs[path] = _map(torch.clone, output)

        return keep

    def _trial(self, run: Callable[[int], Any]) -> tuple[dict[str, int], dict[str, int], Counter[str], set[str]]:
        """Return when each module was entered and left, how often it ran, and which return one row per image."""
        entered: dict[str, int] = {}
        left: dict[str, int] = {}
        calls: Counter[str] = Counter()
        batched = set(self._modules)
        for images in TRIALS:
            entered, left, calls, clock = {}, {}, Counter(), iter(range(10**9))

            def enter(path: str) -> Callable[..., None]:
                def hook(module: nn.Module, inputs: Any) -> None:
                    entered[path] = next(clock)  # noqa: B023 (removed before the next trial)
                    calls[path] += 1  # noqa: B023

                return hook

            def leave(path: str, images: int = images) -> Callable[..., None]:
                def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                    left[path] = next(clock)  # noqa: B023
                    if not _has_rows(output, images):
                        batched.discard(path)

                return hook

            with torch.inference_mode(), ExitStack() as hooks:
                for path, module in self._modules.items():
                    hooks.callback(module.register_forward_pre_hook(enter(path)).remove)
                    hooks.callback(module.register_forward_hook(leave(path)).remove)
                run(images)
        return entered, left, calls, batched


def _returning(output: Any, rows: Tensor) -> Callable[..., Any]:
    def forward(*inputs: Any, **named: Any) -> Any:
        return _map(lambda tensor: tensor[rows], output)

    return forward


def _restore_forward(module: nn.Module, own: Any) -> None:
    del module.forward
    if own is not None:
        module.forward = own


def _map(function: Callable[[Tensor], Tensor], output: Any) -> Any:
    """Apply `function` to every tensor of nested tuples and lists; None stays."""
    if isinstance(output, Tensor):
        return function(output)
    return None if output is None else type(output)(_map(function, part) for part in output)


def _has_rows(output: Any, images: int) -> bool:
    """Return whether `output` is made of tensors, tuples and lists of them, with one row per image."""
    if isinstance(output, Tensor):
        return output.dim() > 0 and output.shape[0] == images
    if type(output) in (tuple, list):
        return len(output) > 0 and all(part is None or _has_rows(part, images) for part in output)
    return False
