"""What an ablated pass shares with the clean one: everything before the first replaced head.

A replaced head cannot change what was computed before its site, nor the attention of its site itself: it stands in for
the output of that. So the clean pass keeps the outputs of the modules that had finished by the time that the site
attends, and what the attention returned; ablated passes on the same images start from those, which saves about half of
the work at the sites of a U-Net's way up. Which modules these are is learned from two small trial passes, for any
architecture: a module is reused only if it runs once and returns tensors with one row per image. Exact; ours.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diffmech.attention.kernels import FUSED
from diffmech.attention.sites import AttentionSite

# Two numbers of images tell a batch axis from an axis that happens to be as long.
TRIALS = (2, 3)


class SharedPrefix:
    """Records the start of clean passes of `model` and replays it in passes that first differ at a given site.

    `run(n)` must run one pass of n images, any images. `order` names the sites in the order in which they ran.
    """

    def __init__(self, model: nn.Module, sites: Sequence[AttentionSite], run: Callable[[int], Any]) -> None:
        self._modules = {path: module for path, module in model.named_modules() if path}
        self._sites = {site.name: self._modules[site.module_path] for site in sites}
        trials = [self._trial(run, images) for images in TRIALS]
        last = trials[-1]
        running = [site for site in sites if last.calls[site.module_path]]
        self.order = [site.name for site in sorted(running, key=lambda site: last.entered[site.module_path])]
        self._skipped: dict[str, list[str]] = {}
        # A site that runs more than once has no single moment before which nothing can have changed.
        once = [site for site in running if last.calls[site.module_path] == 1]
        self._attending = {site.name for site in once if all(site.name in trial.attended for trial in trials)}
        for site in running:
            moment = last.attended[site.name] if site.name in self._attending else last.entered[site.module_path]
            skipped: list[str] = []
            for path in self._modules if site in once else ():
                finished = last.calls[path] == 1 and last.left[path] < moment
                reusable = finished and all(path in trial.batched for trial in trials)
                if reusable and not any(path.startswith(f"{parent}.") for parent in skipped):
                    skipped.append(path)
            self._skipped[site.name] = skipped
        self._outputs: dict[str, Any] = {}
        self._attention: dict[str, Tensor] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the outputs of the pass that runs inside this context, in place of those kept before."""
        self._outputs, self._attention = {}, {}

        def keep(site: str, attend: Callable[[], Tensor]) -> Tensor:
            output = attend()
            if site in self._attending:
                self._attention[site] = output.clone()
            return output

        with ExitStack() as hooks:
            for path in {path for skipped in self._skipped.values() for path in skipped}:
                hooks.callback(self._modules[path].register_forward_hook(self._keep(path)).remove)
            hooks.enter_context(_AttentionCalls(self._sites, keep))
            yield

    @contextmanager
    def replaying(self, site: str | None, rows: Int[Tensor, "row"]) -> Iterator[None]:
        """Reuse what ran before `site` in the recorded pass; image k of the batch is recorded image `rows[k]`.

        `site` None reuses nothing. A tap must be opened inside of this context, to see the attention that is reused.
        """
        with ExitStack() as restore:
            for path in self._skipped[site] if site else ():
                module, output = self._modules[path], self._outputs[path]
                own = vars(module).get("forward")
                module.forward = _returning(output, rows)
                restore.callback(_restore_forward, module, own)
            if site in self._attending:
                attention = self._attention[site]
                known = {site: self._sites[site]}
                restore.enter_context(_AttentionCalls(known, lambda site, attend: attention[rows]))
            yield

    def _keep(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            # A copy: later layers may work in place.
            self._outputs[path] = _map(torch.clone, output)

        return keep

    def _trial(self, run: Callable[[int], Any], images: int) -> "_Trial":
        """Run one pass of so many `images` and return what happened when."""
        trial, clock = _Trial(set(self._modules)), count()

        def enter(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any) -> None:
                trial.entered[path] = next(clock)
                trial.calls[path] += 1

            return hook

        def leave(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                trial.left[path] = next(clock)
                if not _has_rows(output, images):
                    trial.batched.discard(path)

            return hook

        again: set[str] = set()

        def note(site: str, attend: Callable[[], Tensor]) -> Tensor:
            output = attend()
            # Of several calls, guests of a tap see the first only, and those in between may come before it.
            if site in trial.attended or not _has_rows(output, images):
                again.add(site)
            trial.attended[site] = next(clock)
            return output

        with torch.inference_mode(), ExitStack() as hooks:
            for path, module in self._modules.items():
                hooks.callback(module.register_forward_pre_hook(enter(path)).remove)
                hooks.callback(module.register_forward_hook(leave(path)).remove)
            hooks.enter_context(_AttentionCalls(self._sites, note))
            run(images)
        for site in again:
            del trial.attended[site]
        return trial


@dataclass
class _Trial:
    """When each module was entered and left, how often it ran, which return one row per image, when sites attended."""

    batched: set[str]
    entered: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    attended: dict[str, int] = field(default_factory=dict)


class _AttentionCalls(TorchFunctionMode):
    """Lets `answer` give the result of each attention call that one of `sites` makes; the call itself is its option."""

    def __init__(self, sites: Mapping[str, nn.Module], answer: Callable[[str, Callable[[], Tensor]], Tensor]) -> None:
        super().__init__()
        self._sites, self._answer = sites, answer
        self._running: list[str] = []
        self._hooks = ExitStack()

    def __enter__(self) -> "_AttentionCalls":
        for site, module in self._sites.items():
            enter = module.register_forward_pre_hook(lambda module, inputs, site=site: self._running.append(site))
            self._hooks.callback(enter.remove)
            leave = module.register_forward_hook(lambda *given: self._running.pop() and None, always_call=True)
            self._hooks.callback(leave.remove)
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._hooks.close()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is FUSED and self._running:
            return self._answer(self._running[-1], lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


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
