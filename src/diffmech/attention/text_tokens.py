"""Find which tokens of joint attention are text: change the text a little, and see which keys change. Ours.

Nothing is known about architectures. A site's own module, else the block around it, else the whole model is run once
more with its `encoder_hidden_states` changed, up to the first attention below it: no image key can have changed by
then, since only attention brings image and text together. Sites for which no such module is found (some releases of
diffusers join the text to the image before their single-stream blocks) have the ranges of the sites before them.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from diffmech.attention.calls import AttentionCall
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import AttentionSite, find_sites
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError

TEXT = "encoder_hidden_states"


@torch.no_grad()
def token_ranges(model: nn.Module, run: Callable[[], Any]) -> dict[str, TokenRanges]:
    """Return the ranges of image and text tokens of every joint site that runs, keyed by its name.

    `run` makes one forward of `model`. Raises ModelError naming a site whose text tokens cannot be told.
    """
    joint = [site for site in find_sites(model) if site.kind == "joint"]
    if not joint:
        return {}
    watch = _Watch(joint)
    with ExitStack() as hooks:
        for path in _with_ancestors(joint):
            hook = watch.after(path)
            # Registered before the tap's own hooks, so that the tap is still in the middle of this module's forward.
            handle = model.get_submodule(path).register_forward_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        with AttentionTap(model, [watch]) as watch.tap:
            run()
    found: dict[str, TokenRanges] = {}
    for name, keys in watch.keys.items():
        own, tokens = watch.found.get(name), keys.shape[-2]
        before = [ranges for ranges in found.values() if ranges.keys == tokens]
        if own is None and not before:
            raise ModelError(
                f"{name} is joint attention over {tokens} tokens, and neither its module nor any around it takes the "
                f"text as `{TEXT}`; a model of one's own can do so, or keep text out of its self-attention"
            )
        found[name] = own or before[-1]
    return found


class _Watch:
    """Observer and maker of forward hooks: the first keys of every joint site, and what changes with the text."""

    def __init__(self, sites: list[AttentionSite]) -> None:
        self.paths = {site.name: site.module_path for site in sites}
        self.keys: dict[str, Tensor] = {}
        self.found: dict[str, TokenRanges] = {}
        self.changed: dict[str, Tensor] | None = None  # keys of the run with another text, while that is on
        self.tap: AttentionTap | None = None

    def observe(self, call: AttentionCall) -> None:
        name = call.site.name
        if name in self.paths:
            # One head of one sample tells: every channel of a text key depends on the text.
            (self.keys if self.changed is None else self.changed).setdefault(name, call.key[:1, :1].clone())

    def after(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
        """Return the forward hook of the module at `path`."""

        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            below = (name for name in self.keys if _is_below(self.paths[name], path))
            first = next(below, None)
            if self.changed is not None or first is None or first in self.found:
                return
            arguments = _arguments(module, inputs, named)
            text = arguments.get(TEXT)
            if not isinstance(text, Tensor) or text.dim() != 3:
                return
            self.changed = {}
            assert self.tap is not None
            try:
                with self.tap.apart():
                    module(**arguments | {TEXT: _another(text)})
                found = _ranges(self.keys[first], self.changed[first], text.shape[1])
            finally:
                self.changed = None
            if found is not None:
                self.found[first] = found

        return hook


def _with_ancestors(sites: list[AttentionSite]) -> list[str]:
    """Return the paths of the sites' modules and of all modules around them, the model itself being ""."""
    paths = {site.module_path for site in sites}
    for path in list(paths):
        while path:
            path = path.rpartition(".")[0]
            paths.add(path)
    return sorted(paths)


def _is_below(path: str, ancestor: str) -> bool:
    return not ancestor or path == ancestor or path.startswith(f"{ancestor}.")


def _arguments(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of a forward by name; none where it does not name those given by position."""
    parameters = inspect.signature(module.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return {} if len(names) < len(inputs) else {**dict(zip(names, inputs, strict=False)), **named}


def _another(text: Tensor) -> Tensor:
    """Return a text that differs from `text` in every token, by more than a shift, which a normalisation would undo."""
    ramp = torch.linspace(-1, 1, text.shape[-1], dtype=torch.float32, device=text.device)
    return text + (ramp * text.abs().amax().float().clamp_min(1)).to(text.dtype)


def _ranges(before: Tensor, after: Tensor, texts: int) -> TokenRanges | None:
    """Return the ranges if exactly `texts` tokens changed and stand together at one end; None if that tells nothing."""
    tokens = before.shape[-2]
    changed = (before != after).any(-1).flatten().nonzero().flatten().tolist()
    if len(changed) != texts or not texts < tokens:
        return None
    if changed == list(range(texts)):
        return TokenRanges(image=(texts, tokens), text=(0, texts))
    if changed == list(range(tokens - texts, tokens)):
        return TokenRanges(image=(0, tokens - texts), text=(tokens - texts, tokens))
    return None
