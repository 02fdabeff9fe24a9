"""Gradients of an objective for every scored weight, and scores made of them.

The score of a weight is the predicted fall of J when it is set to 0:

- first order (arXiv 2412.02542, CAD): w dJ/dw;
- second order (ours; the same expansion is optimal brain damage, LeCun et al. 1989): w dJ/dw - w^2 h / 2 with the
  curvature h = 2 mean (d residual / dw)^2 of Gauss and Newton, exact for one weight where the prediction is linear in
  it. Its diagonal comes from backward passes of random signs (Bekas et al. 2007), one per batch, so it is an estimate;
  what weights do together is in neither.

Gradients are added in float32 as each is made, so one set of them is held, and a second one where there is curvature.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffmech.artifacts import progress
from diffmech.concepts.groups import Weight, module_of
from diffmech.concepts.objectives import Points, input_norms, predicted
from diffmech.config.studies.concepts import Order
from diffmech.errors import ModelError, StoreError
from diffmech.models.denoiser import Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.tensors import read_tensors, write_tensors
from diffmech.training.seeds import seeded

PARTS = ("gradient", "curvature", "inputs", "base_inputs")


@dataclass(frozen=True)
class Gradients:
    """By the name of a weight: dJ/dw and curvature, in its shape, and squared inputs `(input,)` of its layer.

    `curvature` is empty where none was asked for; `base_inputs` are those without the concept, where there are such.
    """

    gradient: dict[str, Tensor]
    curvature: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    base_inputs: dict[str, Tensor] = field(default_factory=dict)

    def scores(self, weights: Sequence[Weight], order: Order) -> dict[str, Tensor]:
        """Return the predicted fall of J when each weight is set to 0, in the shape of the weight."""
        found = {}
        for weight in weights:
            values = weight.parameter.detach().float().cpu()
            score = values * self.gradient[weight.name]
            if order == "second":
                if weight.name not in self.curvature:
                    raise StoreError("these gradients have no curvature, which scores of second order need")
                score = score - values.square() * self.curvature[weight.name] / 2
            found[weight.name] = score
        return found


def gradients(
    denoiser: Denoiser,
    points: Points,
    weights: Sequence[Weight],
    *,
    batch_size: int,
    total: int | None = None,
    curvature: bool = False,
    seed: int = 0,
    show: bool = False,
) -> Gradients:
    """Return the gradients of J, the mean over `points`, or over `total` where these are part of so many.

    Raises ModelError where a gradient is not finite.
    """
    total = total or points.count
    found = Gradients({}, {}, {}, {})
    modules = {weight.name: module_of(denoiser, weight.name) for weight in weights}
    batches = list(points.batches(batch_size))
    with channels_last(denoiser.module), input_norms(modules, found.inputs), torch.enable_grad(), seeded(seed, "signs"):
        for step, rows in progress(batches, "gradients", show=show):
            with _wanting(weights, found.gradient) as sink:
                prediction = predicted(denoiser, points, step, rows)
                residual = prediction - points.targets[step, rows].to(prediction.device, prediction.dtype)
                pixels = residual[0].numel()
                sink.times = _loss_scale(total * pixels, residual.dtype)
                squares = residual.to(torch.promote_types(residual.dtype, torch.float32)).square().sum()
                (squares * sink.times / (total * pixels)).backward(retain_graph=curvature)
                if curvature:
                    sink.turn_to(found.curvature, 2 / (total * pixels))
                    signs = torch.randint(2, residual.shape).to(residual) * 2 - 1
                    (signs * residual).sum().backward()
    for name, values in found.gradient.items():
        if not values.isfinite().all():
            dtype = next(denoiser.module.parameters()).dtype
            raise ModelError(
                f"{name}: {int((~values.isfinite()).sum())} gradients are infinite or NaN in {dtype}; run the denoiser "
                "in float32 (models.*.dtype)"
            )
    missing = {w.name: torch.zeros(w.parameter.shape) for w in weights if w.name not in found.gradient}
    found.gradient.update(missing)  # weights that no pass came by
    if curvature:
        found.curvature.update({name: values.clone() for name, values in missing.items()})
    return found


def _loss_scale(count: int, dtype: torch.dtype) -> float:
    """Return what J is multiplied by on the way back: float16 holds no gradients of a mean over many numbers."""
    return 2.0 ** int(np.log2(count)) if dtype == torch.float16 else 1.0


class _Sink:
    """Where the gradients of the running backward pass are added; they come `times` too large."""

    def __init__(self, target: dict[str, Tensor]) -> None:
        self.target, self.scale, self.times = target, 0.0, 1.0

    def turn_to(self, target: dict[str, Tensor], scale: float) -> None:
        """Add squares, times `scale`, to another target from now on."""
        self.target, self.scale = target, scale

    def add(self, name: str, gradient: Tensor) -> None:
        values = gradient.detach().float()
        values = self.scale * values.square() if self.scale else values / self.times
        self.target[name] = self.target[name] + values.cpu() if name in self.target else values.cpu().clone()


@contextmanager
def _wanting(weights: Sequence[Weight], target: dict[str, Tensor]) -> Iterator[_Sink]:
    """Within this context backward passes add the gradients of `weights` to the sink, and keep none on the weights."""
    sink = _Sink(target)

    def hook_for(name: str) -> Any:
        def hook(parameter: nn.Parameter) -> None:
            if parameter.grad is not None:
                sink.add(name, parameter.grad)
                parameter.grad = None

        return hook

    frozen = [weight.parameter for weight in weights if not weight.parameter.requires_grad]
    handles = []
    try:
        for weight in weights:
            weight.parameter.requires_grad_(True)
            handles.append(weight.parameter.register_post_accumulate_grad_hook(hook_for(weight.name)))
        yield sink
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)


def added(parts: Sequence[Gradients]) -> Gradients:
    """Return the sums of the gradients of several parts of the points."""

    def total(name: str) -> dict[str, Tensor]:
        tables: list[Mapping[str, Tensor]] = [getattr(part, name) for part in parts]
        return {key: torch.stack([table[key] for table in tables]).sum(0) for key in tables[0]}

    return Gradients(*(total(name) for name in PARTS))


def write_gradients(found: Gradients, path: Path | str, about: Mapping[str, Any]) -> None:
    """Write the gradients of one objective and window; equal ones give equal bytes."""
    tensors = {f"{part}:{name}": values for part in PARTS for name, values in getattr(found, part).items()}
    write_tensors(path, tensors, about, kind="gradients")


def read_gradients(path: Path | str, names: Sequence[str] | None = None) -> Gradients:
    """Read the gradients of all weights, or of those called `names`. Raises StoreError where the file has none."""
    found = Gradients({}, {}, {}, {})
    asked = None if names is None else set(names)
    tensors, _ = read_tensors(
        path, kind="gradients", wanted=lambda key: asked is None or key.partition(":")[2] in asked
    )
    for key, values in tensors.items():
        part, _, name = key.partition(":")
        getattr(found, part)[name] = values
    return found
