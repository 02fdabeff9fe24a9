"""Gradients through networks that save memory by checkpoints: for an attribution these are taken out. Ours.

A checkpoint throws away what a gradient needs and computes it again going back, when the interventions that changed it
are gone. Without it a network computes the same, with more memory.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.utils import checkpoint as checkpoints

# Arguments of torch's function that are not those of what it runs.
OWN_ARGUMENTS = ("use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop")


def _plainly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **{name: value for name, value in kwargs.items() if name not in OWN_ARGUMENTS})


@contextmanager
def without_checkpoints(module: nn.Module) -> Iterator[None]:
    """Let torch's checkpoints call what they are given, wherever they were imported to, and switch off diffusers'."""
    own = checkpoints.checkpoint
    with ExitStack() as restore:
        for holder in list(sys.modules.values()):
            names = vars(holder) if hasattr(holder, "__dict__") else {}
            for name in [name for name, value in list(names.items()) if value is own]:
                setattr(holder, name, _plainly)
                restore.callback(setattr, holder, name, own)
        for part in module.modules():
            if getattr(part, "gradient_checkpointing", False) is True:
                part.gradient_checkpointing = False  # type: ignore[assignment]
                restore.callback(setattr, part, "gradient_checkpointing", True)
        yield
