"""What every head writes in one pass, kept to be put into another. Ours."""

from collections.abc import Container, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffmech.attention.calls import AttentionCall
from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionTap
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Denoiser


def predict(denoiser: Denoiser, passes: Passes) -> Float[Tensor, "sample ..."]:
    """Return the predicted noise of `passes`, in the shape of x_t."""
    return denoiser.predict_noise(passes.x_t, passes.timestep, passes.condition)


def mean_square(images: Float[Tensor, "sample ..."]) -> Float[Tensor, "sample"]:
    """Return the mean square per image, in double precision and so on the CPU: not every device has it."""
    return images.float().cpu().double().square().flatten(1).mean(1)


def repeated(passes: Passes, n: int) -> Passes:
    """Return `n` passes: those there are, over and over."""
    return passes.rows(torch.arange(n, device=passes.x_t.device) % len(passes))


def record_heads(
    denoiser: Denoiser, sites: Sequence[AttentionSite], passes: Passes, *, of: Container[str] | None = None
) -> tuple[Float[Tensor, "sample ..."], dict[str, Float[Tensor, "sample _head _query _channel"]]]:
    """Return the predicted noise of `passes` and, by site, what its heads wrote.

    `of` are the names of the sites that are kept, all by default.
    """
    outputs: dict[str, Tensor] = {}

    def keep(call: AttentionCall) -> None:
        if of is None or call.site.name in of:
            outputs[call.site.name] = call.output.clone()

    with torch.no_grad(), AttentionTap(denoiser.module, observers=[keep], sites=sites, whole=True):
        return predict(denoiser, passes), outputs
