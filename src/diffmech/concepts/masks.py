"""An edit as a sparse mask: which weights are multiplied by what. It can be kept, composed, applied, and taken back.

A mask is a safetensors file with the positions in each flattened tensor, a factor for each, and where it came from. A
weight that two masks name gets the product of their factors. What was there before is kept while an edit is applied, so
that reverting restores every bit. An edited denoiser can be exported as a directory that plain diffusers loads. Ours.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.artifacts import atomic_path
from diffmech.concepts.groups import Weight, by_mechanism, parameters, weights
from diffmech.errors import ModelError
from diffmech.models.denoiser import Denoiser
from diffmech.models.pipelines import read_index
from diffmech.models.prompted import PromptedDenoiser
from diffmech.models.storage import WEIGHT_SUFFIXES, find_layout
from diffmech.tensors import read_tensors, write_tensors

INDEX, FACTOR = "index:", "factor:"
MASK = "edit.safetensors"


@dataclass(frozen=True)
class Mask:
    """Positions, ascending, in each flattened tensor by its name, their factors, and where the mask came from."""

    indices: Mapping[str, np.ndarray]
    factors: Mapping[str, np.ndarray]
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, indices: Mapping[str, np.ndarray], factor: float = 0.0, **about: Any) -> "Mask":
        """Return the mask that multiplies all weights at `indices` by one factor."""
        factors = {name: np.full(len(positions), factor) for name, positions in indices.items()}
        return cls(dict(indices), factors, about)

    @property
    def count(self) -> int:
        """How many weights it changes."""
        return sum(len(positions) for positions in self.indices.values())

    def scaled(self, dose: float) -> "Mask":
        """Return the mask that goes the share `dose` of the way: 0 changes nothing, 1 is this mask."""
        factors = {name: 1 + dose * (values - 1) for name, values in self.factors.items()}
        return Mask(self.indices, factors, {**self.about, "scaled": dose})


def compose(masks: Sequence[Mask]) -> Mask:
    """Return all of `masks` as one, the same in whichever order they are given."""
    found: dict[str, dict[int, list[float]]] = {}
    for mask in masks:
        for name, positions in mask.indices.items():
            own = found.setdefault(name, {})
            for position, factor in zip(positions.tolist(), mask.factors[name].tolist(), strict=True):
                own.setdefault(position, []).append(factor)
    indices = {name: np.array(sorted(own)) for name, own in sorted(found.items())}
    # sorted before they are multiplied: products of floating point numbers depend on their order
    factors = {
        name: np.array([np.prod(sorted(found[name][position])) for position in positions.tolist()])
        for name, positions in indices.items()
    }
    return Mask(indices, factors, {"composed": sorted((dict(mask.about) for mask in masks), key=json.dumps)})


def write_mask(mask: Mask, path: Path | str) -> None:
    """Write a mask, so that equal masks give equal bytes."""
    tensors: dict[str, Tensor] = {}
    for name, positions in mask.indices.items():
        tensors[INDEX + name] = torch.from_numpy(np.asarray(positions, dtype=np.int64))
        tensors[FACTOR + name] = torch.from_numpy(np.asarray(mask.factors[name], dtype=np.float64))
    write_tensors(path, tensors, mask.about, kind="mask")


def read_mask(path: Path | str) -> Mask:
    """Read a mask. Raises StoreError where the file is none."""
    tensors, about = read_tensors(path, kind="mask")
    content = {name: tensor.numpy() for name, tensor in tensors.items()}
    names = [name.removeprefix(INDEX) for name in content if name.startswith(INDEX)]
    indices = {name: content[INDEX + name] for name in names}
    return Mask(indices, {name: content[FACTOR + name] for name in names}, about)


def edited_weights(denoiser: Denoiser, mask: Mask) -> list[Weight]:
    """Return the weights of `denoiser` among which those of the edit behind `mask` were chosen."""
    among = weights(denoiser, mask.about["edit"]["groups"])
    return by_mechanism(among, mask.about["mechanisms"]) if "mechanisms" in mask.about else among


@contextmanager
def applied(denoiser: Denoiser, mask: Mask) -> Iterator[None]:
    """Within this context `denoiser` has the weights that `mask` leaves; afterwards its own, bit for bit.

    Raises ModelError where it lacks a weight that the mask names, or where a factor leaves no finite weight.
    """
    before: list[tuple[Tensor, tuple[Tensor, ...], Tensor]] = []
    try:
        for data, places, factor, name in _places(denoiser, mask):
            own = data[places]
            changed = (own.double() * factor).to(data.dtype)
            if not changed.isfinite().all():
                raise ModelError(f"{name}: {data.dtype} cannot hold what the edit makes of it; give smaller factors")
            before.append((data, places, own))
            data[places] = changed
        yield
    finally:
        for data, places, own in reversed(before):
            data[places] = own


def _places(denoiser: Denoiser, mask: Mask) -> Iterator[tuple[Tensor, tuple[Tensor, ...], Tensor, str]]:
    known = parameters(denoiser)
    for name, positions in mask.indices.items():
        if name not in known:
            raise ModelError(f"the denoiser has no weight {name!r}, which the mask changes; it is of another model")
        data = known[name].data
        flat = torch.as_tensor(positions, device=data.device)
        if len(flat) and int(flat.max()) >= data.numel():
            raise ModelError(
                f"{name} has {data.numel()} weights, but the mask changes number {int(flat.max())}; it is of another "
                "model"
            )
        # by axes: weights need not lie in memory in the order of their axes (channels last)
        factor = torch.as_tensor(mask.factors[name], device=data.device, dtype=torch.float64)
        yield data, torch.unravel_index(flat, data.shape), factor, name


def export(denoiser: Denoiser, mask: Mask, original: Path, output: Path, *, subfolder: str = "unet") -> None:
    """Write the edited denoiser as a directory like `original`, the one it was read from, which diffusers loads.

    What is no weight of the network or of its conditioning tokens is copied as it is, and the mask is put beside it. Of
    a pipeline `original` is the whole directory, and its denoiser is found there.
    """
    parts = dict(_parts(denoiser, original, subfolder))
    with atomic_path(output) as folder, applied(denoiser, mask):
        shutil.copytree(original, folder)
        for part, module in parts.items():
            target = folder / part
            for file in target.iterdir():
                if file.suffix in WEIGHT_SUFFIXES or file.name.endswith(".index.json"):
                    file.unlink()
            module.save_pretrained(target)
        write_mask(mask, folder / MASK)


def _parts(denoiser: Denoiser, original: Path, subfolder: str) -> Iterator[tuple[str, Any]]:
    """Yield the folders below `original` whose weights are those of the denoiser, each with its module."""
    if isinstance(denoiser, PromptedDenoiser):
        yield read_index(original)[1], denoiser.module
        return
    layout = find_layout(original, subfolder)
    yield layout.subfolder, denoiser.module
    if layout.tokens is not None:
        yield layout.tokens.relative_to(original).as_posix(), denoiser.tokens
