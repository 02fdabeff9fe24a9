"""Which attention calls one pass makes, and whether each is what it says: output = softmax(scale q k) v. Ours.

Everything that watches or changes heads works on the sites that are found here, so that what cannot be understood is
named before any result.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffmech.attention.calls import AttentionCall
from diffmech.attention.extra_tokens import with_memory
from diffmech.attention.kernels import score_tiles
from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionTap
from diffmech.attention.unseen import Unseen, reasons
from diffmech.errors import ModelError

logger = logging.getLogger(__name__)

# Scores that are computed in float64 of one call; of longer sequences the first and the last queries are taken.
CHECKED_SCORES = 2**22
CHECKED_QUERIES = 16
# How far the output may be from what query, key and value give, of its largest value: rounding reaches some 1e-6 in
# float32 and 1e-2 in bfloat16; a scale that was forgotten or an axis that was mistaken, far more.
TOLERANCE = 1e-3
ROUNDINGS = 8


@dataclass(frozen=True)
class TapReport:
    """What one pass of a model showed: its sites in order, what could not be understood and why, and what is left out.

    `unclaimed` counts, by module, calls of sites that were not chosen. `linear` names the modules whose attention has
    no softmax over keys, which leaves nothing to study.
    """

    sites: tuple[AttentionSite, ...]
    untapped: dict[str, str]
    unclaimed: dict[str, int]
    linear: dict[str, str]

    @property
    def tapped(self) -> tuple[str, ...]:
        """The names of the sites."""
        return tuple(site.name for site in self.sites)

    def require_all(self) -> None:
        """Raise ModelError naming every attention call that cannot be studied, and why.

        Linear attention is left out, and named in a warning of the log.
        """
        if self.untapped:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.untapped.items())
            raise ModelError(
                f"{len(self.untapped)} attention calls cannot be studied ({reasons}); docs/own-model.md says what can"
            )
        if not self.sites:
            rest = f"; left out: {_listed(self.linear)}" if self.linear else ""
            raise ModelError(
                "the model makes no attention call that can be seen: neither scaled_dot_product_attention, nor a "
                f"softmax of a product that is multiplied with values{rest}; docs/own-model.md"
            )
        if self.linear:
            logger.warning("left out: %s", _listed(self.linear))


def check_tappable(model: nn.Module, run: Callable[[], Any], *observers: Any) -> TapReport:
    """Call `run` (one forward of `model`) under a tap and report what it reaches and whether that is what it says.

    `observers` see the calls too, and once more under the right names where only looking on tells that they are
    self-attention (`attention.extra_tokens.with_memory`). Gradients are off during the run.
    """
    check = _Check()
    with torch.no_grad(), AttentionTap(model, [check, *observers]) as tap, Unseen(tap) as unseen:
        run()
    for call in tap.again:  # what was announced of them must be right too
        check.observe(call)
    sites, untapped = list(tap.sites), {**tap.untapped, **check.wrong, **reasons(unseen.owners)}
    if not untapped and (renamed := with_memory(model, run, sites, check.tokens)) is not None:
        sites = renamed
        with torch.no_grad(), AttentionTap(model, observers, sites=sites, whole=True):
            run()
    return TapReport(tuple(sites), untapped, dict(tap.unclaimed), dict(tap.linear))


def attention_sites(model: nn.Module, run: Callable[[], Any], *observers: Any) -> list[AttentionSite]:
    """Return every attention call of one pass of `model`, in order. Raises ModelError as `TapReport.require_all`."""
    report = check_tappable(model, run, *observers)
    report.require_all()
    return list(report.sites)


class _Check:
    """Observer that computes some outputs of every call anew, in float64."""

    def __init__(self) -> None:
        self.wrong: dict[str, str] = {}
        self.tokens: dict[str, tuple[int, int]] = {}  # queries and keys of every site

    def observe(self, call: AttentionCall) -> None:
        self.tokens[call.site.name] = call.query.shape[-2], call.key.shape[-2]
        if not call.output.isfinite().all():
            return  # what is seen of it says so, and at which timestep
        found = discrepancy(call)
        eps = torch.finfo(call.output.dtype).eps
        if not found <= max(TOLERANCE, ROUNDINGS * eps):
            differs = f"its output differs by {found:.2g} of its size from softmax(scale q k) v"
            if call.of_weights:
                sums = call.query.double().exp().sum(-1)
                self.wrong[call.site.name] = (
                    f"{differs}: its weights sum to {float(sums.min()):.4g} to {float(sums.max()):.4g} over the keys "
                    "instead of 1 (a further term in the denominator, or weights that are changed after the softmax)"
                )
                return
            self.wrong[call.site.name] = (
                f"{differs} of its query, key and value with the scale {call.scale:.4g}; a scale or a bias is missing, "
                "or the softmax is over another axis"
            )


def discrepancy(call: AttentionCall) -> float:
    """Return the largest difference of the output from softmax(scale q k + mask) v in float64, over its largest value.

    Of long sequences the first and the last queries are compared. NaN where anything is not finite.
    """
    queries = call.query.shape[-2]
    scores = call.query.shape[:-1].numel() * call.key.shape[-2]
    some = [slice(0, queries)]
    if scores > CHECKED_SCORES and queries > 2 * CHECKED_QUERIES:
        some = [slice(0, CHECKED_QUERIES), slice(queries - CHECKED_QUERIES, queries)]
    value, worst = call.value.double(), 0.0
    for rows in some:
        mask = call.attn_mask
        if mask is not None:
            mask = mask.expand(*call.query.shape[:-1], call.key.shape[-2])[:, :, rows]
            mask = mask if mask.dtype == torch.bool else mask.double()
        expected = _outputs(call.query[:, :, rows].double(), call.key.double(), value, call, mask, rows.start)
        worst = max(worst, float((expected - call.output[:, :, rows].double()).abs().max()))
    return worst / max(float(call.output.double().abs().max()), torch.finfo(torch.float32).tiny)


def _outputs(query: Tensor, key: Tensor, value: Tensor, call: AttentionCall, mask: Tensor | None, first: int) -> Tensor:
    tiles = score_tiles(query, key, call.scale, mask, call.is_causal, first)
    # A query that may see no key gets 0, as from the fused kernels.
    return torch.cat([scores.softmax(-1).nan_to_num(0.0) @ value for _, scores in tiles], -2)


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
