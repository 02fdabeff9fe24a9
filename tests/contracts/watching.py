"""The sites of a network and, of those that have extra tokens, where they stand: as a capture finds both."""

from collections.abc import Callable
from typing import Any

from torch import nn

from diffmech.attention.calls import AttentionCall
from diffmech.attention.extra_tokens import extra_ranges
from diffmech.attention.ranges import TokenRanges
from diffmech.attention.sites import AttentionSite
from diffmech.attention.survey import attention_sites


def sites_and_ranges(
    model: nn.Module, run: Callable[[], Any], fits: Callable[[int], bool]
) -> tuple[list[AttentionSite], dict[str, TokenRanges]]:
    """Return the sites of `run`, one forward, and the ranges of their tokens; `fits` tells numbers of places."""
    tokens: dict[str, tuple[int, int]] = {}

    def note(call: AttentionCall) -> None:
        tokens[call.site.name] = call.query.shape[-2], call.key.shape[-2]

    sites = attention_sites(model, run, note)
    return sites, extra_ranges(model, run, sites, {site.name: tokens[site.name] for site in sites}, fits)
