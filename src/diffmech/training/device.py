"""The device that `runtime.device` names. Ours."""

import torch

from diffmech.errors import ConfigError


def resolve_device(device: str) -> torch.device:
    """Return the device `device`; `auto` is CUDA where there is one, else Apple's, else the CPU. Raises ConfigError."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"runtime.device: {device!r} is no device; expected auto, cpu, cuda, cuda:0 or mps"
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, False):
        raise ConfigError(f"runtime.device: {device!r} is not on this machine; give auto or cpu")
    return chosen
