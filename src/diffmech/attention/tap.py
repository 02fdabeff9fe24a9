"""The one interception point: every attention of a model, watched or changed, without touching its code.

Attention in diffusers, timm and transformers ends in `torch.nn.functional.scaled_dot_product_attention`. A torch
function mode catches that call and forward hooks tell which site is running, so observers see query, key, value and
per-head output of any architecture, and interventions may replace the per-head output before the output projection.
Watching leaves the model's output bit-identical. Attention that is computed in another way takes part by one call of
`announce`. The method is ours; hooks scoped by a context manager follow TransformerLens.
"""

import inspect
import logging
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from diffmech.attention.kernels import logsumexp_scores, same_kernel_with_lse
from diffmech.attention.sites import AttentionSite, find_sites, site_at
from diffmech.errors import ModelError

logger = logging.getLogger(__name__)

PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
NO_CALL = "its forward made no scaled_dot_product_attention call (a processor with a hand-written softmax?)"
LINEAR = "its processor {} is linear attention, which has no softmax over keys"
SECOND_CALL = "{}, second call of one forward"
NEVER_RAN = "its forward never ran"

# Sites under an open tap. Two taps on one module would each hide calls from the other.
_tapped: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()

# Taps now open, the innermost last: those that `announce` reports to.
_open: "list[AttentionTap]" = []


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One attention call of one site: everything that statistics or interventions need.

    query, key, value are (sample, head, token, channel); output is (sample, head, query, channel), per head, before the
    output projection; lse is (sample, head, query), in nats, or None when no guest asked for it; scale multiplies q.k.
    """

    site: AttentionSite
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    lse: Tensor | None
    scale: float
    attn_mask: Tensor | None
    is_causal: bool


class Observer(Protocol):
    """Watches attention calls. Optional attributes: `needs_lse` and `after_interventions`, both False by default."""

    def observe(self, call: AttentionCall) -> None:
        """Receive one call; the tensors belong to the model and must not be changed."""


class Intervention(Protocol):
    """Replaces the per-head output of some sites. Optional attribute: `needs_lse`, False by default."""

    def applies_to(self, site: AttentionSite) -> bool:
        """Return whether this intervention wants the calls of `site`."""

    def replace_output(self, call: AttentionCall) -> Tensor | None:
        """Return the new output (sample, head, query, channel) for the whole batch, or None to leave it."""


@dataclass(frozen=True)
class TapReport:
    """What a tap reaches: sites seen, sites missed with the reason, the number of calls that belong to no site.

    `linear` are those of the missed sites that have nothing to tap: linear attention has no softmax over keys.
    """

    tapped: tuple[str, ...]
    untapped: dict[str, str]
    unclaimed: dict[str, int]
    linear: tuple[str, ...] = ()

    def require_all(self) -> None:
        """Raise ModelError naming every site of softmax attention that cannot be tapped, and why.

        Linear attention is left out, and named in a warning of the log.
        """
        missed = {name: reason for name, reason in self.untapped.items() if name not in self.linear}
        if missed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in missed.items())
            raise ModelError(
                f"{len(missed)} attention sites cannot be tapped ({reasons}); in a module of your own, softmax "
                "attention is made visible by diffmech.attention.tap.announce, see docs/own-model.md"
            )
        if not self.tapped:
            raise ModelError(
                "the model has no attention that can be tapped; a module is taken for attention when it has `heads` "
                "and `to_q`, `q_proj`, `query` or `qkv`, see docs/own-model.md"
            )
        if self.linear:
            logger.warning("linear attention has no softmax over keys and is left out: %s", ", ".join(self.linear))


@dataclass(slots=True)
class _Frame:
    """One running forward of a site."""

    site: AttentionSite
    calls: int = 0
    problem: str = field(default=NO_CALL)


class AttentionTap(TorchFunctionMode):
    """Context manager that shows every attention call of `model` to `observers` and lets `interventions` change it.

    Interventions apply in order, each to the result of the one before. Observers see the original call, or the final
    one if their `after_interventions` is True. Bare functions of a call are observers too. After a run, `tapped` names
    the sites seen, `untapped` those whose forward ran unseen with the reason, `unclaimed` the calls outside every site.
    Everything is restored on exit, on exceptions too. Raises ModelError when the model is already under a tap.
    """

    def __init__(
        self,
        model: nn.Module,
        observers: Iterable[Observer | Callable[[AttentionCall], None]] = (),
        interventions: Iterable[Intervention] = (),
        sites: Iterable[AttentionSite] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.sites = find_sites(model) if sites is None else list(sites)
        self._all_sites = sites is None
        self.tapped: set[str] = set()
        self.untapped: dict[str, str] = {}
        self.linear: list[str] = []
        self.unclaimed: Counter[str] = Counter()
        self._modules = {site.name: model.get_submodule(site.module_path) for site in self.sites}
        self._running: list[_Frame] = []
        self._quiet = False  # while guests of an announced call compute, attention of their own belongs to no site
        self._restore: ExitStack | None = None
        observers, interventions = list(observers), list(interventions)
        self._before = [_observe(guest) for guest in observers if not getattr(guest, "after_interventions", False)]
        self._after = [_observe(guest) for guest in observers if getattr(guest, "after_interventions", False)]
        self._guests = interventions
        self._interventions = {site.name: self._intervening(site) for site in self.sites}
        self._needs_lse = any(getattr(guest, "needs_lse", False) for guest in [*observers, *interventions])

    def __enter__(self) -> "AttentionTap":
        taken = [name for name, module in self._modules.items() if module in _tapped]
        if self._restore is not None or taken:
            what = "this tap" if self._restore is not None else f"a tap on {taken[0]}"
            raise ModelError(f"{what} is already open; close it first, or give all guests to one tap")
        with ExitStack() as restore:
            for site in self.sites:
                module = self._modules[site.name]
                _tapped.add(module)
                restore.callback(_tapped.discard, module)
                # Prepended, so that no other hook can fail between this one and the forward it announces.
                restore.callback(module.register_forward_pre_hook(self._entering(site), prepend=True).remove)
                restore.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            super().__enter__()
            _open.append(self)
            restore.callback(_open.remove, self)
            self._restore = restore.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._restore is not None
        super().__exit__(*exception)
        self._restore.close()
        self._restore = None
        self._running.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention and not self._quiet:
            return self._attend(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _entering(self, site: AttentionSite) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._running.append(_Frame(site))

        return enter

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        frame = self._running.pop()
        if frame.calls:
            self.tapped.add(frame.site.name)
        elif output is not None:  # None: the forward raised, so nothing is known about its calls
            processor = type(getattr(module, "processor", None)).__name__
            if frame.problem == NO_CALL and "linear" in processor.lower():
                self.linear.append(frame.site.name)
                frame.problem = LINEAR.format(processor)
            self.untapped[frame.site.name] = frame.problem

    def _attend(self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        named: dict[str, Any] = dict(zip(PARAMETERS, args, strict=False)) | kwargs
        query, key, value = named["query"], named["key"], named["value"]
        frame = self._running[-1] if self._running else None
        if frame is None or frame.calls:
            name = _caller(self.model) if frame is None else SECOND_CALL.format(frame.site.name)
            self.unclaimed[name] += 1
            return func(*args, **kwargs)
        if query.dim() != 4 or query.shape[1] != frame.site.heads:
            frame.problem = (
                f"its query has shape {tuple(query.shape)}, expected (sample, {frame.site.heads} heads, token, channel)"
            )
            return func(*args, **kwargs)
        frame.calls += 1
        mask, causal, scale = named.get("attn_mask"), named.get("is_causal", False), named.get("scale")
        output, lse = None, None
        if self._needs_lse:
            if not named.get("dropout_p"):
                output, lse = same_kernel_with_lse(query, key, value, scale, mask, causal) or (None, None)
            if lse is None:
                lse = logsumexp_scores(query, key, scale, mask, causal)
        if output is None:
            output = func(*args, **kwargs)
        return self._entertain(_call(frame.site, query, key, value, output, lse, scale, mask, causal))

    def _announced(self, site: AttentionSite, call: AttentionCall) -> Tensor:
        """Take a call that `announce` brings; `site` may be one that `find_sites` does not know."""
        if site.name not in self._modules:
            self.sites.append(site)
            self._modules[site.name] = self.model.get_submodule(site.module_path)
            self._interventions[site.name] = self._intervening(site)
        if self._running and self._running[-1].site == site:
            self._running[-1].calls += 1
            if self._running[-1].calls > 1:
                self.unclaimed[SECOND_CALL.format(site.name)] += 1
                return call.output
        self.tapped.add(site.name)
        if self._needs_lse:
            lse = logsumexp_scores(call.query, call.key, call.scale, call.attn_mask, call.is_causal)
            call = replace(call, lse=lse)
        with ExitStack() as loud:
            for tap in _open:
                tap._quiet = True
                loud.callback(setattr, tap, "_quiet", False)
            return self._entertain(call)

    def _site_of(self, module: nn.Module, query: Tensor, key: Tensor) -> AttentionSite | None:
        """Return the site of a module of this tap's model; None if it is none of it, or not among the chosen ones."""
        for site in self.sites:
            if self._modules[site.name] is module:
                return site
        path = next((path for path, other in self.model.named_modules() if other is module), None)
        if path is None or not self._all_sites:
            return None
        return site_at(path, "self" if query.shape[-2] == key.shape[-2] else "cross", query.shape[1])

    def _intervening(self, site: AttentionSite) -> list[Intervention]:
        return [guest for guest in self._guests if guest.applies_to(site)]

    def _entertain(self, call: AttentionCall) -> Tensor:
        """Show the call to every guest and return the output that the model goes on with."""
        for observe in self._before:
            observe(call)
        for intervention in self._interventions[call.site.name]:
            replacement = intervention.replace_output(call)
            if replacement is None:
                continue
            if replacement.shape != call.output.shape or replacement.dtype != call.output.dtype:
                raise ModelError(
                    f"{type(intervention).__name__} at {call.site.name} returned {replacement.dtype} of shape "
                    f"{tuple(replacement.shape)}, expected {call.output.dtype} of shape {tuple(call.output.shape)}"
                )
            call = replace(call, output=replacement)
        for observe in self._after:
            observe(call)
        return call.output


def announce(
    site: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    *,
    scale: float | None = None,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Tell open taps of attention that the module `site` computed by other means, and return the output to go on with.

    For forwards that do not call `scaled_dot_product_attention`. The three added lines are the import, and

        probabilities = (scale * query @ key.transpose(-1, -2)).softmax(-1)
        output = probabilities @ value
        output = announce(self, query, key, value, output, scale=scale)    # before heads are merged and projected

    query, key, value are (sample, head, token, channel), output is (sample, head, query, channel), scale is
    1 / sqrt(channel) if None, and the mask is as in `scaled_dot_product_attention`. What comes back is `output` itself
    unless an intervention replaces it; where no tap is open nothing else happens. A module that `find_sites` does not
    recognise is named by its path, e.g. `encoder.3.mixer.self`; with a query projection and a head count under usual
    names (`to_q` and `heads`) it is recognised, and its heads can be chosen before any run. Raises ModelError, naming
    the site, where the shapes do not fit each other or the site's number of heads.
    """
    for tap in reversed(_open):
        known = tap._site_of(site, query, key)
        if known is None:
            continue
        shapes = [tuple(tensor.shape) for tensor in (query, key, value, output)]
        fits = all(len(shape) == 4 and shape[0] == shapes[0][0] for shape in shapes)
        fits = fits and query.shape[1] == known.heads and key.shape[:3] == value.shape[:3]
        if not fits or output.shape[:3] != query.shape[:3] or known.heads % key.shape[1]:
            raise ModelError(
                f"{known.name} announced query, key, value and output of shapes {', '.join(map(str, shapes))}; "
                f"expected (sample, {known.heads} heads, token, channel), with as many output as query tokens"
            )
        return tap._announced(known, _call(known, query, key, value, output, None, scale, attn_mask, is_causal))
    return output


def check_tappable(model: nn.Module, run: Callable[[], Any]) -> TapReport:
    """Call `run` (one forward of `model`) under a tap without guests and report what a tap reaches.

    Sites whose forward never ran are listed as untapped too. Gradients are off during the run.
    """
    with torch.no_grad(), AttentionTap(model) as tap:
        run()
    silent = {site.name: NEVER_RAN for site in tap.sites if site.name not in tap.tapped | tap.untapped.keys()}
    return TapReport(
        tapped=tuple(site.name for site in tap.sites if site.name in tap.tapped),
        untapped=silent | tap.untapped,
        unclaimed=dict(tap.unclaimed),
        linear=tuple(dict.fromkeys(tap.linear)),
    )


def _call(
    site: AttentionSite,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor | None,
    scale: float | None,
    attn_mask: Tensor | None,
    is_causal: bool,
) -> AttentionCall:
    if key.shape[1] != query.shape[1]:  # grouped-query attention: guests see one key head per query head
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    return AttentionCall(site, query, key, value, output, lse, scale, attn_mask, is_causal)


def _observe(guest: Observer | Callable[[AttentionCall], None]) -> Callable[[AttentionCall], None]:
    observe: Callable[[AttentionCall], None] = guest.observe if hasattr(guest, "observe") else guest
    return observe


def _caller(model: nn.Module) -> str:
    """Return the path of the calling module of `model`, from the call stack; only unclaimed calls need it."""
    paths = {id(module): path for path, module in model.named_modules()}
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths:
            return paths[id(owner)] or type(model).__name__
        frame = frame.f_back
    return "outside the model"
