"""Checkpoints of a training: written whole, and read only by a training of the same parameters and the same images."""

import hashlib
import json
import pickle
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffmech.artifacts import atomic_path

FILE = "checkpoint.pt"


@dataclass
class Progress:
    """How far a training is. `weights` and `averaged` are parameters in the order of the modules.

    No state of a random generator is needed: each step's draws are keyed by (seed, step). Nor one of the learning rate,
    which is a function of the step.
    """

    step: int = 0
    seconds: float = 0.0
    precision: str = "float32"
    loss_sum: float = 0.0
    history: list[list[float]] = field(default_factory=list)


def fingerprint(parameters: dict[str, Any]) -> str:
    """Return the hash of everything that a training depends on."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()


def save_checkpoint(
    directory: Path,
    key: str,
    progress: Progress,
    weights: list[Tensor],
    averaged: list[Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write `checkpoint.pt` into `directory`, replacing the last one in one rename."""
    content = {
        "fingerprint": key,
        "progress": vars(progress),
        "weights": weights,
        "averaged": averaged,
        "optimiser": optimiser.state_dict(),
    }
    with atomic_path(directory / FILE) as temporary:
        torch.save(content, temporary)


def load_checkpoint(
    directory: Path, key: str, weights: list[Tensor], averaged: list[Tensor], optimiser: torch.optim.Optimizer
) -> tuple[Progress | None, str]:
    """Put the checkpoint of `directory` into `weights`, `averaged` and `optimiser`, and return how far it was.

    Where there is none, or none that is whole and belongs to `key`, nothing is touched and the progress is None. The
    second value says in words what was found; it is empty where there was nothing.
    """
    for leftover in directory.glob(f".{FILE}.*"):  # of a training that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    path = directory / FILE
    if not path.is_file():
        return None, ""
    try:
        content = torch.load(path, map_location=weights[0].device, weights_only=True)
        found = content["fingerprint"]
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        return None, f"{path}: is not a whole checkpoint ({reason}); training starts anew"
    if found != key:
        return None, f"{path}: belongs to other parameters or images; training starts anew"
    with torch.no_grad():
        for target, source in zip([*weights, *averaged], [*content["weights"], *content["averaged"]], strict=True):
            target.copy_(source)
    optimiser.load_state_dict(content["optimiser"])
    progress = Progress(**content["progress"])
    return progress, f"{path}: training goes on at step {progress.step}"
