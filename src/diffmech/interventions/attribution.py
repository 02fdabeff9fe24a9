"""Attribution patching: the effect of every ablation at once, from the slope of the loss.

Replacing a head's output o by o' changes the loss L by about <dL/do, o' - o>, its first-order estimate: one forward
and one backward pass give it for all heads of all samples. The loss of a sample is its mean squared error of the
predicted noise, and since samples do not see each other, the gradient of the sum of losses holds each sample's own.

The slope at o says little where the loss is curved. Integrated gradients average it on the way from o to o' instead,
at the m points of Gauss and Legendre, with (1 - a) o + a o' in the place of o. With the path `site` the heads of one
site move together and the estimates of the site add up to the effect of ablating all of its heads: m passes per site.
With the path `joint` all heads of the model move together and all estimates add up to the effect of ablating
everything: m passes, but each head is judged in a model that loses the others too.

At the clean outputs a trained model has little slope left on average, and what an ablation costs is curvature. For a
mean squared error it is known but for a small term: to second order the loss changes by the slope + |J (o' - o)|^2 / N
with J the derivative of the N numbers of the prediction (Gauss and Newton). With a random sign v for each of these
numbers, <v, J (o' - o)>^2 is |J (o' - o)|^2 on average (Hutchinson 1990), and one more backward pass, of <v,
prediction>, gives it for all heads at once. Applying this to heads is ours.

Attribution patching: Nanda 2023, Syed et al. 2023. Integrated gradients: Sundararajan et al. 2017; over the components
of one layer together: Marks et al. 2024. Estimates are never given without their correlation with exact ablation.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionTap
from diffmech.errors import ConfigError, ModelError
from diffmech.interventions.heads import (
    HeadPairs,
    MeanHead,
    PatchHead,
    PooledMeanHead,
    ReferenceOutputs,
    ResampleHead,
    UniformAttention,
    ZeroHead,
)
from diffmech.interventions.recording import predict
from diffmech.interventions.replay import Passes
from diffmech.interventions.slopes import disagreement, slope_of
from diffmech.interventions.unchecked import without_checkpoints
from diffmech.models.denoiser import Denoiser
from diffmech.randomness import generator

Along = Literal["site", "joint"]
PATHS: tuple[Along, ...] = ("site", "joint")

# Of how many samples and random signs gradients are compared with what the network computes.
CHECKED_SAMPLES, CHECKED_PROBES = 2, 4
# How far they may be from it, of its size: rounding gives 1e-5 to 1e-3 in float32, and more, which is measured beside
# it, in half precision; a block whose gradient is missing gives 0.3 to 1.
GRADIENT_TOLERANCE, ROUNDINGS = 0.05, 4
# Networks of this process whose gradients were compared.
_with_true_gradients: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()

# The recorded pass that the method "patch" takes outputs from.
SOURCE = "source"

# One number per sample from the predicted noise: what heads are to matter for.
Loss = Callable[[Float[Tensor, "sample ..."]], Float[Tensor, "sample"]]


_Replacement = Callable[[AttentionCall, HeadPairs, ReferenceOutputs | None], Float[Tensor, "pair query channel"]]
_REPLACEMENTS: dict[str, _Replacement] = {
    kind.method: kind.replacement
    for kind in (ZeroHead, MeanHead, PooledMeanHead, ResampleHead, UniformAttention, PatchHead)
}


def denoising_loss(target: Float[Tensor, "sample ..."]) -> Loss:
    """Return the mean squared error of a prediction from `target`, usually the true noise."""
    return lambda predicted: (predicted - target).square().flatten(1).mean(1)


def progress_towards(clean: Float[Tensor, "sample ..."], counterfactual: Float[Tensor, "sample ..."]) -> Loss:
    """Return the place of a prediction between `clean` (0) and `counterfactual` (1), as in `patching`."""
    difference = (counterfactual - clean).flatten(1)
    length = difference.square().sum(1)
    return lambda predicted: ((predicted - clean).flatten(1) * difference).sum(1) / length


def attribute_heads(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    passes: Passes,
    *,
    method: str,
    reference: ReferenceOutputs | None = None,
    sources: Sequence[int] | None = None,
    steps: int = 0,
    path: Along = "site",
    probes: int = 0,
    seed: int = 0,
    loss: Loss | None = None,
) -> dict[str, Float[Tensor, "sample head"]]:
    """Return by site the estimated change of the loss when each head alone is ablated by `method`.

    `method` is that of an ablation, or "patch" to put in the recorded pass "source" of `reference`. `sources` are the
    rows of the bank, or of that pass, for each sample. `steps` 0 takes the slope at the clean outputs, more of them the
    integrated gradients along `path`. `probes` random signs, drawn by (`seed`, sample id, timestep), add the curvature
    to the slope. `loss` is by default the denoising loss; on a sampling trajectory, where nobody knows the noise, it is
    the mean squared change of the prediction, whose slope at the clean outputs is 0, so that steps or probes are
    needed. Raises ConfigError for methods, steps, paths and probes that cannot be, ModelError for a network whose
    gradients are not the slopes of what it computes, which is tried once (`gradient_error`).
    """
    if method not in _REPLACEMENTS:
        raise ConfigError(f"{method!r} is not a method of attribution; expected one of {', '.join(_REPLACEMENTS)}")
    if steps < 0 or path not in PATHS:
        raise ConfigError(f"attribution takes steps >= 0 along the path site or joint, found {steps} along {path!r}")
    if method in ("resample", "patch") and sources is None:
        raise ConfigError(f"{method} needs the row of its source for each sample")
    if probes < 0 or (probes and (steps or loss is not None)):
        raise ConfigError(
            f"probes, found {probes}, are for the curvature of a mean squared error at the clean outputs; give none "
            "with steps of integrated gradients or with a loss"
        )
    if loss is None:
        if passes.noise is None and steps == 0 and probes == 0:
            raise ConfigError(
                "on a sampling trajectory the noise is unknown, and the change of the prediction has no slope at 0; "
                "give probes of its curvature, steps of integrated gradients, or a loss"
            )
        with torch.no_grad():
            loss = denoising_loss(predict(denoiser, passes) if passes.noise is None else passes.noise)
    if denoiser.module not in _with_true_gradients:
        _require_true_gradients(denoiser, sites, passes)
        _with_true_gradients.add(denoiser.module)
    rows = torch.tensor([0] * len(passes) if sources is None else list(sources), device=passes.x_t.device)

    def slopes(share: float, moving: Iterable[AttentionSite]) -> dict[str, Tensor]:
        interpolation = _Interpolation(_REPLACEMENTS[method], rows, reference, share, {site.name for site in moving})
        with _with_gradients(denoiser, interpolation, sites):
            return interpolation.estimates(loss(predict(denoiser, passes)).sum())

    if probes:
        every = {site.name for site in sites}
        interpolation = _Interpolation(_REPLACEMENTS[method], rows, reference, 0.0, every)
        with _with_gradients(denoiser, interpolation, sites):
            predicted = predict(denoiser, passes)
            found = interpolation.estimates(loss(predicted).sum(), more=True)
            for probe in range(probes):
                curvature = interpolation.estimates((_signs(passes, seed, probe) * predicted).sum(), more=True)
                share = predicted[0].numel() * probes
                found = {name: slope + curvature[name] ** 2 / share for name, slope in found.items()}
        return {site.name: found[site.name] for site in sites}
    if steps == 0:
        return slopes(0.0, sites)
    points, weights = np.polynomial.legendre.leggauss(steps)
    shares, weights = (points + 1) / 2, weights / 2
    together = [sites] if path == "joint" else [[site] for site in sites]
    estimates: dict[str, Tensor] = {}
    for moving in together:
        for share, weight in zip(shares.tolist(), weights.tolist(), strict=True):
            for name, slope in slopes(share, moving).items():
                estimates[name] = estimates.get(name, torch.zeros_like(slope)) + weight * slope
    return {site.name: estimates[site.name] for site in sites}


def gradient_error(
    denoiser: Denoiser, sites: Sequence[AttentionSite], passes: Passes, *, seed: int = 0
) -> tuple[float, float]:
    """Return how far gradients by what heads write are from what the prediction changes by, of its size (`slopes`).

    The second number is what rounding makes of it.
    """
    some = passes.rows(torch.arange(min(len(passes), CHECKED_SAMPLES), device=passes.x_t.device))
    rows, every = torch.zeros(len(some), dtype=torch.int64, device=passes.x_t.device), {site.name for site in sites}

    def moving(share: float) -> _Interpolation:
        return _Interpolation(ZeroHead.replacement, rows, None, share, every)

    def moved(share: float) -> Tensor:
        with torch.no_grad(), AttentionTap(denoiser.module, interventions=[moving(share)], sites=sites):
            return predict(denoiser, some)

    signs = [_signs(some, seed, probe) for probe in range(CHECKED_PROBES)]
    interpolation = moving(0.0)
    with _with_gradients(denoiser, interpolation, sites):
        predicted = predict(denoiser, some)
        told = [interpolation.estimates((sign * predicted).sum(), more=True) for sign in signs]
    by_sample = [torch.stack([each.double().sum(1) for each in found.values()]).sum(0) for found in told]
    slope, rounding = slope_of(moved)
    return disagreement(slope, signs, by_sample), rounding


def _require_true_gradients(denoiser: Denoiser, sites: Sequence[AttentionSite], passes: Passes) -> None:
    error, rounding = gradient_error(denoiser, sites, passes)
    if error > max(GRADIENT_TOLERANCE, ROUNDINGS * rounding):
        raise ModelError(
            f"{sites[0].name} and others: gradients are not what the prediction changes by when their heads are moved "
            f"(they differ by {error:.2g} of it): a part of the network runs under no_grad or inference_mode, behind "
            "detach, or in a checkpoint of its own; let it run plainly in evaluation mode, or rank heads by their "
            "ablation (discovery.ranking: exact)"
        )


@contextmanager
def _with_gradients(
    denoiser: Denoiser, interpolation: "_Interpolation", sites: Sequence[AttentionSite]
) -> Iterator[None]:
    with (
        torch.enable_grad(),
        without_checkpoints(denoiser.module),
        AttentionTap(denoiser.module, interventions=[interpolation], sites=sites),
    ):
        yield


def _signs(passes: Passes, seed: int, probe: int) -> Float[Tensor, "sample ..."]:
    """Return random signs in the shape of x_t, which depend on the sample, not on the batch it is in."""
    shape, signs = passes.x_t.shape[1:], []
    for sample in passes.samples:
        random = generator(seed, "probe", int(sample), passes.timestep, probe)
        signs.append(2.0 * random.integers(0, 2, shape) - 1)
    return torch.from_numpy(np.stack(signs)).to(passes.x_t)


class _Interpolation:
    """An intervention that moves all heads of some sites by `share` from their outputs to what replaces them."""

    def __init__(
        self,
        replacement: _Replacement,
        sources: Int[Tensor, "sample"],
        reference: ReferenceOutputs | None,
        share: float,
        moving: set[str],
    ) -> None:
        self._replacement, self._sources, self._reference = replacement, sources, reference
        self._share, self._moving = share, moving
        self._outputs: dict[str, Tensor] = {}
        self._differences: dict[str, Tensor] = {}

    def applies_to(self, site: AttentionSite) -> bool:
        return site.name in self._moving

    def replace_output(self, call: AttentionCall) -> Float[Tensor, "sample head query channel"]:
        """Return the output the model goes on with, from which the gradient is taken."""
        samples, heads = call.output.shape[:2]
        device = call.output.device
        every = torch.arange(samples, device=device).repeat_interleave(heads)
        pairs = HeadPairs(
            every,
            torch.arange(heads, device=device).repeat(samples),
            self._sources[every],
            torch.ones(len(every), device=device),
            SOURCE,
        )
        replaced = self._replacement(call, pairs, self._reference).to(call.output.dtype).unflatten(0, (samples, heads))
        self._differences[call.site.name] = (replaced - call.output).detach()
        output = call.output if self._share == 0 else torch.lerp(call.output, replaced, self._share)
        if not output.requires_grad:
            output = output.detach().requires_grad_()  # frozen weights: the graph starts here
        self._outputs[call.site.name] = output
        return output

    def estimates(self, total: Float[Tensor, "  "], *, more: bool = False) -> dict[str, Float[Tensor, "sample head"]]:
        """Return <d total / do, o' - o> by site; `more` keeps what the next one of the pass needs."""
        unreached = list(self._outputs)
        gradients: Sequence[Tensor] = ()
        if total.requires_grad:
            try:
                gradients = torch.autograd.grad(
                    total, list(self._outputs.values()), retain_graph=more, allow_unused=True
                )
                unreached = [name for name, found in zip(self._outputs, gradients, strict=True) if found is None]
            except RuntimeError as error:
                # Of checkpoints that could not be taken out, reentrant ones raise no error of a kind of its own.
                if not isinstance(error, CheckpointError) and "checkpoint" not in str(error).lower():
                    raise
        if unreached:
            others = f", nor at {len(unreached) - 1} other sites" if unreached[1:] else ""
            raise ModelError(
                f"{unreached[0]}: no gradient reaches what its heads write{others}: its forward runs under no_grad or "
                "in a checkpoint of its own, or its output is not used; let the network run plainly in evaluation mode"
            )
        return {
            name: (gradient * self._differences[name]).sum((2, 3))
            for name, gradient in zip(self._outputs, gradients, strict=True)
        }
