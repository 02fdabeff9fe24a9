"""Prompts: what the images of a generated data set are asked to show."""

from collections.abc import Sequence
from pathlib import Path

from diffmech.config.images import Prompts
from diffmech.errors import DataError


def read_prompts(config: Prompts) -> list[str]:
    """Return the prompts of the config or of its file, in order. Raises DataError for a missing or empty file."""
    if config.file is None:
        return list(config.prompts)
    path = Path(config.file).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); give a text file with one prompt per line") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"{path}: holds no prompt; write one per line")
    return prompts


def prompt_of(prompts: Sequence[str], sample: int) -> str:
    """Return the prompt of a sample: they take turns, so that more samples change none of the earlier ones."""
    return prompts[sample % len(prompts)]
