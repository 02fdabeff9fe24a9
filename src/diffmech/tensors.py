"""Tensors on disk: safetensors files that say of each tensor what it held, which is compared with what is read. Ours.

Safetensors has no checksums of its own. Beside what a file is about, its metadata hold the CRC-32 of the name, type,
shape and bytes of each tensor, and of all that they say themselves. Only what is read is checked: of gradients as large
as a model, those of the weights that are asked for. A file from before, or from elsewhere, has none and is read as it
is. It all stands under one key of the metadata, since safetensors writes several in no fixed order.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffmech.artifacts import atomic_path
from diffmech.errors import StoreError

CHECKSUMS = "crc32"
_OF_ALL = ""  # stands for the metadata among the names of tensors


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, kind: str) -> None:
    """Write `tensors` and, as the metadata `kind`, what they are about in plain values; equal ones give equal bytes."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checksums = {name: checksum(name, tensor) for name, tensor in kept.items()}
    plain = json.loads(json.dumps({**about, CHECKSUMS: checksums}))  # as it is read back
    plain[CHECKSUMS][_OF_ALL] = _checksum_of_all(plain)
    with atomic_path(path) as temporary:
        save_file(kept, temporary, metadata={kind: json.dumps(plain, sort_keys=True)})


def read_tensors(
    path: Path | str, *, kind: str, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors whose names are `wanted`, on the CPU, and what `write_tensors` was told that they are about.

    Raises StoreError where the file is missing, of another kind or cut, and where what is read is not what was written.
    """
    try:
        with safe_open(Path(path), "pt") as file:
            about = json.loads((file.metadata() or {})[kind])
            found = {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
            names = set(file.keys())
            if not isinstance(about, dict):
                raise ValueError(f"its metadata are a {type(about).__name__}")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{path}: holds no {kind} ({reason}); delete it and let the workflow make it anew") from error
    checksums = about.get(CHECKSUMS)
    if any(isinstance(value, dict) and _OF_ALL in value for name, value in about.items() if name != CHECKSUMS):
        checksums = {}  # their own name changed
    if isinstance(checksums, dict):
        told = checksums.pop(_OF_ALL, None)
        changed = [name for name, tensor in found.items() if checksums.get(name) != checksum(name, tensor)]
        if told != _checksum_of_all(about) or names != set(checksums):
            changed.append("its list of tensors")
        if changed:
            raise StoreError(
                f"{path}: {changed[0]} changed since it was written (CRC-32); delete the file and let the workflow "
                "make it anew"
            )
        del about[CHECKSUMS]
    return found, about


def checksum(name: str, tensor: Tensor) -> str:
    """Return the CRC-32 of the name, type, shape and bytes of a contiguous tensor on the CPU, as eight hex digits."""
    head = f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode()
    return f"{zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(head)):08x}"


def _checksum_of_all(plain: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(plain, sort_keys=True).encode()):08x}"
