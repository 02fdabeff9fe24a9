"""What every head writes in one pass, kept to be put into another. Ours."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffmech.attention.sites import AttentionSite
from diffmech.attention.tap import AttentionCall, AttentionTap
from diffmech.interventions.replay import Passes
from diffmech.models.denoiser import Denoiser


def predict(denoiser: Denoiser, passes: Passes) -> Tensor:
    """Return the predicted noise of `passes`, in the shape of x_t."""
    return denoiser.predict_noise(passes.x_t, passes.timestep, passes.condition)


def record_heads(
    denoiser: Denoiser, sites: Sequence[AttentionSite], passes: Passes
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the predicted noise of `passes` and, by site, what its heads wrote: (sample, head, query, channel)."""
    outputs: dict[str, Tensor] = {}

    def keep(call: AttentionCall) -> None:
        outputs[call.site.name] = call.output.clone()

    with torch.inference_mode(), AttentionTap(denoiser.module, observers=[keep], sites=sites):
        return predict(denoiser, passes), outputs
