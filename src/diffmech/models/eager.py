"""What keeps a network's arithmetic its own, and its attention visible. Ours."""

from pathlib import Path

import torch
from torch import nn

from diffmech.errors import ModelError


def check_kind(module: nn.Module, where: Path) -> None:
    """Raise ModelError for compiled TorchScript, whose calls nobody can watch, naming the first such module."""
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(
                f"{where}: {path or type(module).__name__} is TorchScript, whose attention cannot be watched; give the "
                "Python class that it was compiled from, and its weights"
            )


def watchable() -> None:
    """Let torch's own encoder layers run as they are written, in this process.

    For evaluation they have a second, fused implementation, a few roundings off, which torch leaves as soon as anything
    watches. So that results do not depend on who watches, it is not used: the flag is torch's own.
    """
    torch.backends.mha.set_fastpath_enabled(False)


def uncompiled() -> None:
    """Let compiled networks run as they are written, in this process: what is compiled cannot be watched."""
    torch.compiler.set_stance("force_eager")


def input_dtype(module: nn.Module) -> torch.dtype:
    """Return the precision of a network all of whose weights have one, else float32."""
    found = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    return found.pop() if len(found) == 1 else torch.float32
