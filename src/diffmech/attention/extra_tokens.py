"""Find the tokens of self-attention that stand nowhere on the image: those whose values do not change with it. Ours.

Nothing is known about architectures. Values of a class token, a register or a token of the time do not depend on the
image at the first attention over them, and those of learned keys (memory) never do, while every place of the image
hears of noise that is added to all of it. Later attention over as many tokens, which all of them have heard of the
image by, has the tokens of the attention before it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffmech.attention.calls import AttentionCall
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import AttentionSite, attends_elsewhere, find_sites, site_at
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ModelError
from diffmech.randomness import generator

# Of the largest change of a token, what is none: values that do not depend on the image are equal, up to rounding.
LEAST_CHANGE = 1e-4


@dataclass(frozen=True)
class _Tokens:
    """The tokens of one call: how many ask, and of each key (token,) whether its value changes with the image."""

    queries: int
    changed: Tensor

    @property
    def keys(self) -> int:
        return len(self.changed)


def extra_ranges(
    model: nn.Module,
    run: Callable[[], Any],
    sites: Iterable[AttentionSite],
    tokens: Mapping[str, tuple[int, int]],
    fits: Callable[[int], bool],
) -> dict[str, TokenRanges]:
    """Return the ranges of image and extra tokens of the self-attention that has any, keyed by the name of its site.

    `run` makes one forward of `model`, whose `sites` are known; `tokens` gives the numbers of queries and keys of those
    that are looked at, in order, and `fits` tells whether so many can be places of the image. Where all are, nothing is
    run. Raises ModelError naming a site some of whose keys are not its queries, where these cannot be told.
    """
    odd = {name: shape for name, shape in tokens.items() if shape[0] != shape[1] or not fits(shape[0])}
    if not odd:
        return {}
    seen = _changes(model, run, sites)
    found: dict[str, TokenRanges] = {}
    for name, (queries, keys) in odd.items():
        own = _ranges(seen[name], fits)
        before = [ranges for ranges in found.values() if (ranges.queries, ranges.keys) == (queries, keys)]
        if own is not None or before:
            found[name] = own or before[-1]
        elif queries != keys:
            raise ModelError(
                f"{name} has {queries} queries and {keys} keys, of which {int(seen[name].changed.sum())} change with "
                "the image, and nothing tells which of them are places: learned keys must stand before or after those "
                "of the image, one of these for each query; attention to something else than the image says "
                "is_cross_attention = True"
            )
    return found


def with_memory(
    model: nn.Module, run: Callable[[], Any], sites: Sequence[AttentionSite], tokens: Mapping[str, tuple[int, int]]
) -> list[AttentionSite] | None:
    """Return the sites of a pass with those as self-attention that has more keys than queries; None if there are none.

    A module that is not known by its parts is taken to attend to something else then, unless exactly as many of its
    keys as it has queries change with the image. `tokens` gives the numbers of queries and keys of every site.
    """
    known = {site.module_path for site in find_sites(model)}
    known |= {site.module_path for site in sites if attends_elsewhere(model.get_submodule(site.module_path))}
    asked = [s.name for s in sites if s.module_path not in known and tokens[s.name][0] < tokens[s.name][1]]
    if not asked:
        return None
    seen = _changes(model, run, sites)
    own = {tokens[name] for name in asked if _ranges(seen[name], tokens[name][0].__eq__) is not None}
    more = {name: keys - queries for name, (queries, keys) in tokens.items()}
    # A class token among the queries does not change at the first attention of so many tokens, but at those after it.
    memory = {
        site.module_path: more[site.name]
        for site in sites
        if site.name in asked and tokens[site.name] in own and seen[site.name].changed.any()
    }
    if not memory:
        return None
    counts: Counter[str] = Counter()
    renamed = []
    for site in sites:
        keys = memory.get(site.module_path, 0)
        first = site_at(site.module_path, "self", site.heads) if keys and keys == more[site.name] else site.again(1)
        counts[first.name] += 1
        renamed.append(replace(first.again(counts[first.name]), memory=keys, order=site.order))
    return renamed


def _ranges(tokens: _Tokens, fits: Callable[[int], bool]) -> TokenRanges | None:
    """Return the ranges if the keys that change stand together, fit and can be told apart; None if that tells nothing.

    Queries stand in the order of the keys. Where both learned keys and tokens that ask stand at either end, nothing
    says which are which.
    """
    places = tokens.changed.nonzero().flatten().tolist()
    if len(places) < 2 or places[-1] - places[0] + 1 != len(places) or not fits(len(places)):
        return None
    extra = places[0], tokens.keys - places[-1] - 1
    memory, asking = tokens.keys - tokens.queries, tokens.queries - len(places)
    if min(memory, asking) < 0 or (asking and fits(tokens.queries)):
        return None
    if asking and memory and all(extra):
        return None
    without = (0, 0) if not memory else extra if not asking else (memory, 0) if extra[0] else (0, memory)
    return TokenRanges(image=(places[0], places[-1] + 1), extra=extra, memory=without)


class _Values:
    """Observer that keeps the values (token, channel) of the first image at every site, and how many tokens ask."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, Tensor]] = {}

    def observe(self, call: AttentionCall) -> None:
        self.found[call.site.name] = call.query.shape[-2], call.value[0].float().transpose(0, 1).flatten(1)


@torch.no_grad()
def _changes(model: nn.Module, run: Callable[[], Any], sites: Iterable[AttentionSite]) -> dict[str, _Tokens]:
    """Return which keys of every site change where the image does, by the name of the site."""
    plain, other, sites = _Values(), _Values(), list(sites)
    with AttentionTap(model, [plain], sites=sites, whole=True):
        run()
    with _another_image(model), AttentionTap(model, [other], sites=sites, whole=True):
        run()
    found = {}
    for name, (queries, values) in plain.found.items():
        change = (other.found[name][1] - values).square().sum(-1).sqrt()
        found[name] = _Tokens(queries, (change > LEAST_CHANGE * change.max()).cpu())
    return found


@contextmanager
def _another_image(model: nn.Module) -> Iterator[None]:
    """Give `model` images with noise added: of its inputs the first that is no list of timesteps, as taps have it."""

    def other(image: Tensor) -> Tensor:
        noise = generator(0, "another image").standard_normal(tuple(image.shape))
        return image + torch.from_numpy(noise).to(image.device, image.dtype)

    def change(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        given: dict[int | str, Any] = dict(enumerate(inputs)) | named
        first = next((at for at, each in given.items() if isinstance(each, Tensor) and each.dim() > 1), None)
        if first is not None:
            given[first] = other(given[first])
        return tuple(given.pop(index) for index in range(len(inputs))), given

    hook = model.register_forward_pre_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
