"""The text tokens behind the keys of cross- and joint attention: what the pipeline's tokenizers make of a prompt."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmech.errors import ConfigError

SHOWN = 60  # characters of a prompt in a message


def token_strings(pipeline: Any, prompts: Sequence[str], length: int) -> np.ndarray | None:
    """Return the tokens (sample, token) of `prompts` where text takes `length` positions, None where none are known.

    One tokenizer fills all positions, or the first and the last one share them (Stable Diffusion 3). Raises ConfigError
    for a prompt that does not fit, which the pipeline would cut off in silence.
    """
    tokenizers = [t for t in (getattr(pipeline, name, None) for name in NAMES) if t is not None]
    if not tokenizers:
        return None
    first, last = tokenizers[0], tokenizers[-1]
    own = int(min(first.model_max_length, length))
    if len(tokenizers) == 3 and own < length:
        parts = [_padded(first, prompts, own), _padded(last, prompts, length - own)]
        return np.concatenate(parts, axis=1)
    return _padded(first if own == length else last, prompts, length)


NAMES = ("tokenizer", "tokenizer_2", "tokenizer_3")


def check_lengths(pipeline: Any, prompts: Sequence[str]) -> None:
    """Raise ConfigError for a prompt with more tokens than the pipeline's text encoder takes, before anything runs."""
    tokenizers = [t for t in (getattr(pipeline, name, None) for name in NAMES) if t is not None]
    known = inspect.signature(type(pipeline).__call__).parameters
    # the longest text encoder reads what a shorter one beside it has to cut
    limits = [int(known["max_sequence_length"].default)] if "max_sequence_length" in known else []
    limits += [int(tokenizer.model_max_length) for tokenizer in tokenizers]
    if not tokenizers:
        return
    limit, tokenizer = max(limits), tokenizers[-1]
    for prompt in prompts:
        count = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
        if count > limit:
            raise _too_long(prompt, count, limit)


def _padded(tokenizer: Any, prompts: Sequence[str], length: int) -> np.ndarray:
    rows = []
    for prompt in prompts:
        ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=False, verbose=False).input_ids
        if len(ids) > length:
            raise _too_long(prompt, len(ids), length)
        rows.append([readable(token) for token in tokenizer.convert_ids_to_tokens(ids)])
    return np.array(rows, dtype=np.dtypes.StringDType())


def readable(token: str) -> str:
    """Return a token without the marks of its vocabulary: `face</w>` and `▁face` are both `face`."""
    return token.removesuffix("</w>").lstrip("▁Ġ") or token


def _too_long(prompt: str, count: int, limit: int) -> ConfigError:
    shown = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
    return ConfigError(
        f"prompts: {shown!r} has {count} tokens, but the text encoder takes {limit}; shorten it, since the rest would "
        "be cut off"
    )
