"""Counterfactual passes: the same noised images under another condition, or other images altogether.

A pass and its counterfactual differ in one thing, so what patching moves from one to the other is about that thing
(Vig et al. 2020). Passes of a pipeline, whose condition are prompts, are given as they are.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from diffmech.errors import ConfigError
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Condition, Denoiser


def other_sample(passes: Passes, by: int = 1) -> Passes:
    """Return, for each sample, the pass of the one `by` places further on, the first following the last.

    Image, noise and condition are all the other sample's. Raises ConfigError where a sample would be its own.
    """
    if by % len(passes) == 0:
        raise ConfigError(f"{len(passes)} samples moved on by {by} are the same samples; give at least 2, moved by 1")
    return passes.rows((torch.arange(len(passes), device=passes.x_t.device) + by) % len(passes))


def other_attribute(passes: Passes, denoiser: Denoiser, attribute: str, value: float | None) -> Passes:
    """Return the same noised images with `attribute` said to be `value`, None unknown.

    Raises ConfigError for an attribute that the denoiser is not conditioned on, or a value that is not finite.
    """
    known = _condition(passes)
    column = _position(attribute, denoiser.attributes, "attribute")
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"attribute {attribute}: {value} is not finite; give a number, or None for unknown")
    values = known.values.clone()
    values[:, column] = math.nan if value is None else value
    return replace(passes, condition=Condition(known.domain, values))


def flipped_attribute(passes: Passes, denoiser: Denoiser, attribute: str) -> Passes:
    """Return the same noised images with `attribute` flipped: 0 where its value is at least 0.5, otherwise 1.

    An unknown value counts as absent: it becomes 1. Raises ConfigError as `other_attribute` does.
    """
    known = _condition(passes)
    column = _position(attribute, denoiser.attributes, "attribute")
    values = known.values.clone()
    values[:, column] = (~(values[:, column] >= 0.5)).to(values.dtype)
    return replace(passes, condition=Condition(known.domain, values))


def other_domain(passes: Passes, denoiser: Denoiser, domain: str) -> Passes:
    """Return the same noised images said to be of `domain`. Raises ConfigError for one the denoiser does not know."""
    known = _condition(passes)
    index = _position(domain, denoiser.domains, "domain")
    return replace(passes, condition=Condition(torch.full_like(known.domain, index), known.values))


def _condition(passes: Passes) -> Condition:
    if not isinstance(passes.condition, Condition):
        raise ConfigError(
            "the passes of a pipeline are conditioned on prompts, not on domains and attributes; "
            "give its counterfactual passes as latents of their own"
        )
    return passes.condition


def _position(name: str, known: Sequence[str], what: str) -> int:
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0)) or f"none, it has no {what}s"
        raise ConfigError(f"the denoiser is conditioned on no {what} {name!r}; nearest: {near}")
    return list(known).index(name)
