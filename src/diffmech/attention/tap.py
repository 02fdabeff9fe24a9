"""The one interception point: every attention of a model, watched or changed, without touching its code.

A torch function mode sees the calls of `scaled_dot_product_attention`, in which attention of diffusers, timm and
transformers ends, and the products and softmaxes of attention that is written by hand (`attention.products`); forward
hooks tell which module is running. So observers see every attention call of any architecture, and interventions may
replace the per-head output before the output projection. Watching leaves the model's output bit-identical. What this
cannot see takes part by one call of `announce`. The method is ours; hooks scoped by a context manager follow
TransformerLens.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from diffmech.attention import reasons
from diffmech.attention.announcing import Latest, check_shapes, open_taps
from diffmech.attention.announcing import announce as announce  # by which models of one's own take part
from diffmech.attention.calls import (
    AttentionCall,
    Intervention,
    Observer,
    attention_call,
    call_of_weights,
    fused_call,
    hindrance,
    observing,
    where_called,
)
from diffmech.attention.folding import Folded, unfold
from diffmech.attention.kernels import FUSED, logsumexp_scores
from diffmech.attention.modules import hooks, modules_by_path, modules_to_hook
from diffmech.attention.products import FOLLOWED, SOFTMAXES, Products, linear_processor, opened_up
from diffmech.attention.sites import AttentionSite, find_sites, kind_of, site_at
from diffmech.attention.weighting import Weighting, no_shares, unstudied
from diffmech.errors import ModelError

# What attention begins or ends with; nothing else is looked at but for what it makes of these.
WATCHED = {FUSED, functional.multi_head_attention_forward, *FOLLOWED}
EXPECTED = {FUSED, *SOFTMAXES}  # what a softmax is seen by
PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")

# Modules under an open tap. Two taps on one module would each hide calls from the other.
_tapped: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class AttentionTap(TorchFunctionMode):
    """Context manager that shows every attention call of `model` to `observers` and lets `interventions` change it.

    Interventions apply in order, each to the result of the one before. Observers see the original call, or the final
    one if their `after_interventions` is True. Bare functions of a call are observers too. With `sites` only their
    calls are shown, and a pass must make those that are changed, of a `whole` one all; without, `sites` fills with
    every call, in the order of the passes. After a run, `tapped` names the sites seen, `untapped` the calls that could
    not be understood with the reason, `unclaimed` counts, by module, those of none of the chosen sites, and `linear`
    names the modules whose attention has no softmax over keys. Everything is restored on exit, on exceptions too.
    Raises ModelError when the model is already under a tap.
    """

    def __init__(
        self,
        model: nn.Module,
        observers: Iterable[Observer | Callable[[AttentionCall], None]] = (),
        interventions: Iterable[Intervention] = (),
        sites: Iterable[AttentionSite] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.sites = [] if sites is None else list(sites)
        self._chosen = None if sites is None else {site.name: site for site in self.sites}
        self._whole = whole and sites is not None
        self._memory = {site.module_path: site.memory for site in self.sites if site.memory}
        modules = modules_by_path(model)
        self._path_of = {module: path for path, module in modules.items()}
        self._known = {site.module_path: site for site in find_sites(model, modules)}
        chosen = None if sites is None else [site.module_path for site in self.sites]
        self._hooked = modules_to_hook(modules, self._known, chosen)
        self.tapped: set[str] = set()
        self.untapped: dict[str, str] = {}
        self.linear: dict[str, str] = {}
        self.unclaimed: Counter[str] = Counter()
        self.where = ""  # what an error about a pass begins with
        self.calls: list[str] = []  # the sites of the latest pass, in order
        self.again: list[AttentionCall] = []  # announced calls that had been followed by themselves
        self._counts: Counter[str] = Counter()  # the calls of the running pass, by name
        self._images: int | None = None
        self._products, self._latest = Products(modules.values()), Latest()
        self._running: list[tuple[str, int]] = []  # paths of modules, and how many calls there were before them
        self.expects = False  # while a softmax runs that was seen, or guests compute
        self.quiet = False  # while guests of an announced call compute, attention of their own belongs to no site
        self._restore: ExitStack | None = None
        observers, self._guests = list(observers), list(interventions)
        self._before, self._after = (observing(observers, after=after) for after in (False, True))
        self._interventions = {site.name: self._intervening(site) for site in self.sites}
        self._needs_lse = any(getattr(guest, "needs_lse", False) for guest in [*observers, *self._guests])

    def __enter__(self) -> "AttentionTap":
        taken = [path for path, module in self._hooked.items() if module in _tapped]
        if self._restore is not None or taken:
            known = [self._known[path].name for path in taken if path in self._known]
            what = "this tap" if self._restore is not None else f"a tap on {(known or taken)[0] or 'the model'}"
            raise ModelError(f"{what} is already open; close it first, or give all guests to one tap")
        with ExitStack() as restore:
            _tapped.update(self._hooked.values())
            restore.callback(_tapped.difference_update, list(self._hooked.values()))
            restore.enter_context(hooks(self._hooked, self._begin, self._entering, self._leave))
            super().__enter__()
            open_taps.append(self)
            restore.callback(open_taps.remove, self)
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
        kwargs = kwargs or {}
        if self.quiet or not self._running:
            return func(*args, **kwargs)
        if func not in WATCHED:
            result = func(*args, **kwargs)
            self._products.follow(func, args, kwargs, result)
            return result
        self.expects = func in EXPECTED
        try:
            return self._run(func, args, kwargs)
        finally:
            self.expects = False

    def _run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is FUSED:
            with self._unless_it_fails():
                return self._attend(func, args, kwargs)
        if func is functional.multi_head_attention_forward:
            with self._seeing():  # what it is made of would not be seen
                return opened_up(func)(*args, **kwargs)
        return self._products.run(func, args, kwargs, self._weighted, self._owner)

    @contextmanager
    def _unless_it_fails(self) -> Any:
        """Forget the calls that are made within if they fail: the model may catch that and go on with others."""
        calls, sites = len(self.calls), len(self.sites)
        try:
            yield
        except Exception:
            while len(self.calls) > calls:
                self._counts[self.calls.pop().partition("#")[0]] -= 1
            while len(self.sites) > sites:
                del self._interventions[self.sites.pop().name]
            raise

    @property
    def running(self) -> bool:
        """Whether the model, or a part of it, is running."""
        return bool(self._running)

    @contextmanager
    def _seeing(self) -> Any:
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    @contextmanager
    def apart(self) -> Any:
        """Let modules run again in the middle of a pass without their calls counting as further ones of it."""
        counts, calls = self._counts, self.calls
        self._counts, self.calls = Counter(), []
        try:
            yield
        finally:
            self._counts, self.calls = counts, calls

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note that the model itself runs."""
        if not self._running:
            self._begin_pass()
            # The batch: of the inputs the first that is no list of timesteps.
            given = (each for each in (*inputs, *named.values()) if isinstance(each, Tensor) and each.dim() > 1)
            self._images = next((len(each) for each in given), None)
        self._running.append(("", len(self.calls)))

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not self._running:
                self._begin_pass()
            self._running.append((path, len(self.calls)))

        return enter

    def _begin_pass(self) -> None:
        self._counts, self.calls, self._images = Counter(), [], None
        self._products.begin()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        path, calls_before = self._running.pop()
        if path in self._known and len(self.calls) == calls_before:
            self._silent(path, module, failed=output is None)
        if not self._running:
            if output is not None:
                if not path:
                    self._require_chosen()
                untapped, left_out = self._products.left(self._name)
                self.untapped |= untapped
                self.linear = left_out | self.linear  # a processor knows best what it is
            self._products.begin()

    def _require_chosen(self) -> None:
        """Raise ModelError where a pass did not make the calls that are changed, or all that are watched."""
        wanted = [name for name, guests in self._interventions.items() if not all(map(where_called, guests))]
        if self._whole:
            wanted = [site.name for site in self.sites]
        if gone := [name for name in wanted if name not in self.calls]:
            raise ModelError(f"{self.where}{', '.join(gone[:3])}{' ...' if gone[3:] else ''} {reasons.GONE}")

    def _silent(self, path: str, module: nn.Module, *, failed: bool) -> None:
        """Note that a module that is known as attention ran and made no call, unless that is known to be right."""
        name = self._known[path].name
        if processor := linear_processor(module):
            self.linear[name] = f"its processor {processor} is linear attention, which has no softmax over keys"
        elif not failed and not self._products.unused and name not in self.linear | self.untapped:
            self.untapped[name] = reasons.NO_CALL

    def owner(self) -> str:
        """Return the name of the module that a call of now belongs to."""
        return self._name(self._owner())

    def _owner(self) -> str:
        """Return the path of the module that a call belongs to: the innermost that is known as attention, or at all."""
        known = (path for path, _ in reversed(self._running) if path in self._known)
        return next(known, self._running[-1][0])

    def _name(self, path: str) -> str:
        return self._known[path].name if path in self._known else path or type(self.model).__name__

    def _claim(self, path: str, shape: torch.Size, keys: int, order: str | None = None) -> tuple[Any, Folded]:
        """Return the site of the next call of the module at `path`, None if it is not among the chosen ones, and how
        its queries or weights of `shape` hold images and heads: as in the pass in which it was found."""
        own = keys - shape[-2] in (0, self._memory.get(path, 0))
        first = self._known.get(path) or site_at(path, kind_of(self.model.get_submodule(path), own), 0)
        self._counts[first.name] += 1
        site = first.again(self._counts[first.name])
        self.calls.append(site.name)
        if self._chosen is not None:
            chosen = self._chosen.get(site.name)
            if chosen is None:
                self.unclaimed[self._name(path)] += 1
                return None, Folded("", 0, 0)
            return chosen, unfold(shape, self._images, chosen.heads or None, chosen.order if order is None else order)
        folded = unfold(shape, self._images, first.heads or None, order)
        site = replace(site, heads=folded.heads, order=folded.order)
        if site.name not in self._interventions:
            self.sites.append(site)
            self._interventions[site.name] = self._intervening(site)
        return site, folded

    def _attend(self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        named: dict[str, Any] = dict(zip(PARAMETERS, args, strict=False)) | kwargs
        path, problem, site = self._owner(), hindrance(**named), None
        if not problem:
            site, folded = self._claim(path, named["query"].shape, named["key"].shape[-2])
            problem = folded.problem
        if problem:
            self._refuse(path, problem)
        if site is None or problem:
            return func(*args, **kwargs)
        call, output = fused_call(site, folded, named, partial(func, *args, **kwargs), wants_lse=self._needs_lse)
        self._latest.take(output, copies=self._chosen is None)
        if self._chosen is None and folded.heads == 1:
            self._products.of_one_head(output, path)
        return self._shown(call, output, folded.together)

    def _weighted(self, found: Weighting, result: Tensor) -> Tensor:
        """Take a product of weights with values, which made `result`."""
        path, weights = self._owner(), found.weights.detach()
        if problem := unstudied(weights, found.values):
            self._refuse(path, problem)
            return result
        linear = not found.softmax and linear_processor(self._hooked[path])  # known without a look, which stalls a GPU
        sums = weights.to(torch.promote_types(weights.dtype, torch.float32)).sum(-1)
        if linear or (problem := no_shares(weights, sums)):
            if found.softmax:
                self._refuse(path, problem)
            else:
                self._products.without_softmax(result, path)
            return result
        if found.problem:
            self._refuse(path, found.problem)
            return result
        site, folded = self._claim(path, weights.shape, weights.shape[-1])
        values, output, problem = found.values, found.arrange(result), folded.problem
        if site is not None and not problem and output.shape[:-1] != weights.shape[:-1]:
            problem = f"weights of shape {tuple(weights.shape)} give {tuple(output.shape)}"
        if problem:
            self._refuse(path, problem)
        if site is None or problem:
            return result
        if self._chosen is None and folded.heads == 1:
            self._products.of_one_head(result, path)
        weights = folded.apart(weights)
        values = folded.apart(values.expand(*found.weights.shape[:-2], *values.shape[-2:]))
        # Weights in half precision do not quite sum to 1.
        lse = folded.apart(sums).log() if self._needs_lse else None
        call = call_of_weights(site, weights, values, folded.apart(output), lse)
        return self._shown(call, result, lambda tensor: found.restore(folded.together(tensor)))

    def _refuse(self, path: str, problem: str) -> None:
        """Note that a call cannot be laid out; where its site was chosen, passes before this one were."""
        if self._chosen is not None:
            raise ModelError(f"{self._name(path)}: {problem}, although other passes were as expected")
        self.untapped[self._name(path)] = problem

    def take(self, own: str, call: AttentionCall) -> Float[Tensor, "sample head query channel"]:
        """Take a call that `announce` brings for the module at `own`, whose site is still to be found."""
        path = own
        if own not in self._known and self._running and self._owner() in self._known:
            path = self._owner()
        check_shapes(call, self._known[path].heads if path in self._known else None, self._name(path))
        if self._latest.was_copied(call.output):
            self._refuse(path, reasons.ANNOUNCED)
        if self._products.made(call.output) or self._latest.is_in(call.output):  # and shown already
            self.again.append(replace(call, site=replace(call.site, name=self._name(path))))
            return call.output
        self._products.explain({path, own})
        site, _ = self._claim(path, call.query.shape, call.key.shape[2], order="")
        if site is None:
            return call.output
        if len(call.query) != (self._images or len(call.query)):
            self._refuse(path, f"it announced {len(call.query)} rows of a batch of {self._images}")
            return call.output
        rest = call.attn_mask, call.is_causal
        call = attention_call(site, call.query, call.key, call.value, call.output, None, call.scale, *rest)
        with ExitStack() as loud:
            for tap in open_taps:
                tap.quiet = True
                loud.callback(setattr, tap, "quiet", False)
            loud.callback(setattr, self, "expects", False)
            return self._shown(call, call.output, lambda tensor: tensor)

    def path_of(self, module: nn.Module) -> str | None:
        """Return the path of a module of the watched model, None for others."""
        if module not in self._path_of:  # of another model, or made since
            self._path_of |= {each: path for path, each in modules_by_path(self.model).items()}
        return self._path_of.get(module)

    def _intervening(self, site: AttentionSite) -> list[Intervention]:
        return [guest for guest in self._guests if guest.applies_to(site)]

    def _shown(self, call: AttentionCall, result: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
        """Show a call to every guest and return what the model goes on with in place of `result`.

        `back` brings an output per head to the form of `result`. The model's autocast does not reach the guests.
        """
        self.tapped.add(call.site.name)
        device = call.query.device.type
        with ExitStack() as plain:
            if torch.is_autocast_enabled(device):
                plain.enter_context(torch.autocast(device, enabled=False))
            if self._needs_lse and call.lse is None:
                lse = logsumexp_scores(call.query, call.key, call.scale, call.attn_mask, call.is_causal)
                call = replace(call, lse=lse)
            output = self._entertain(call)
        return result if output is call.output else back(output)

    def _entertain(self, call: AttentionCall) -> Tensor:
        """Show the call to every guest and return the output per head that they leave."""
        self.expects = True
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
