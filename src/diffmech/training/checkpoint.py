"""Checkpoints of a training: written whole, and read only by a training of the same parameters and the same images."""

import hashlib
import json
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffmech.artifacts import atomic_path
from diffmech.errors import DAMAGED

FILE = "checkpoint.pt"


@dataclass
class Progress:
    """How far a training is: `sums` are those of the losses since the last row of `history`.

    No state of a random generator is needed: each step's draws are keyed by (seed, step). Nor one of the learning rate,
    which is a function of the step.
    """

    step: int = 0
    seconds: float = 0.0
    precision: str = "float32"
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def fingerprint(parameters: dict[str, Any]) -> str:
    """Return the hash of everything that a training depends on."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()


def save_checkpoint(
    directory: Path,
    key: str,
    progress: Progress,
    state: Mapping[str, list[Tensor]],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write `checkpoint.pt` into `directory`, replacing the last one in one rename.

    `state` names lists of tensors, in the order of the modules.
    """
    content = {
        "fingerprint": key,
        "progress": vars(progress),
        "state": dict(state),
        "optimiser": optimiser.state_dict(),
    }
    with atomic_path(directory / FILE) as temporary:
        torch.save(content, temporary)


def load_checkpoint(
    directory: Path,
    key: str,
    state: Mapping[str, list[Tensor]],
    optimiser: torch.optim.Optimizer,
    device: torch.device,
) -> tuple[Progress | None, str]:
    """Put the checkpoint of `directory` into the tensors of `state` and `optimiser`, and return how far it was.

    Where there is none, or none that is whole and belongs to `key`, nothing is touched and the progress is None. The
    second value says in words what was found; it is empty where there was nothing.
    """
    for leftover in directory.glob(f".{FILE}.*"):  # of a training that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    path = directory / FILE
    if not path.is_file():
        return None, ""
    try:
        with zipfile.ZipFile(path) as archive:  # torch compares no checksums
            if changed := archive.testzip():
                raise zipfile.BadZipFile(f"{changed} changed since it was written")
        content = torch.load(path, map_location=device, weights_only=True)
        found = content["fingerprint"]
    except (*DAMAGED, OSError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        return None, f"{path}: is not a whole checkpoint ({reason}); training starts anew"
    if found != key:
        return None, f"{path}: belongs to other parameters or images; training starts anew"
    with torch.no_grad():
        for name, tensors in state.items():
            for target, source in zip(tensors, content["state"][name], strict=True):
                target.copy_(source)
    optimiser.load_state_dict(content["optimiser"])
    progress = Progress(**content["progress"])
    return progress, f"{path}: training goes on at step {progress.step}"
