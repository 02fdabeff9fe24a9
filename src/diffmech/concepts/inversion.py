"""Conditioning inversion: with the denoiser fixed, look for a token that brings back what the edit took away.

Textual inversion (Gal et al. 2023), on the conditioning tokens of a denoiser: the token of one attribute is moved by a
few steps of Adam (Kingma & Ba 2015) so that the denoiser predicts the noise of given images, at timesteps drawn evenly.
Where the concept is asked for, images are then sampled with that token; the tokens of other attributes, and the unknown
one that guidance moves away from, stay as they are. The control is the same search on images without the concept.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.models.tokens import AttributeTokens
from diffmech.randomness import generator


class InvertedTokens(nn.Module):
    """The tokens of a denoiser, but where attribute `number` is known its token is `token` `(width,)`."""

    def __init__(self, tokens: AttributeTokens, number: int, token: Tensor) -> None:
        super().__init__()
        self.tokens, self.number, self.token = tokens, number, token

    def forward(self, domain: Tensor, values: Tensor) -> Tensor:
        """Return tokens `(sample, 1 + attribute, width)`, as `AttributeTokens` does."""
        found = self.tokens(domain, values)
        known = ~values[:, self.number].isnan()
        place = torch.zeros(found.shape[:2], dtype=torch.bool, device=found.device)
        place[:, 1 + self.number] = known
        return torch.where(place[..., None], self.token.to(found.dtype), found)


def with_token(denoiser: Denoiser, number: int, token: Tensor) -> Denoiser:
    """Return a denoiser of the same network that is told attribute `number` by `token` `(width,)`.

    Raises ModelError where it has no tokens of attributes.
    """
    if denoiser.tokens is None:
        raise ModelError("a token can be inverted only where there are tokens of attributes, which this denoiser lacks")
    return replace(denoiser, tokens=InvertedTokens(denoiser.tokens, number, token))  # type: ignore[arg-type]


def inverted_token(
    denoiser: Denoiser,
    number: int,
    images: Tensor,
    condition: Condition,
    *,
    value: float,
    steps: int,
    rate: float,
    batch: int,
    seed: int,
) -> Tensor:
    """Return the token `(width,)` of attribute `number` after `steps` of Adam at learning rate `rate`.

    It starts as that of `value`. `images` `(image, channel, y, x)` have a row each in `condition`; each step takes
    `batch` of them, noised, drawn by (seed, step). Raises ModelError where there are no tokens, or where one is found
    that is no number.
    """
    tokens = denoiser.tokens
    start = tokens.base[number] + value * tokens.slope[number] if tokens is not None else torch.empty(0)
    token = start.detach().clone().requires_grad_(True)
    told = with_token(denoiser, number, token)
    optimiser = torch.optim.Adam([token], lr=rate)
    abar = torch.from_numpy(denoiser.alphas_cumprod)
    with channels_last(denoiser.module), torch.enable_grad():
        for step in range(steps):
            source = generator(seed, "inversion", step)
            chosen = torch.from_numpy(source.choice(len(images), min(batch, len(images)), replace=False))
            timesteps = torch.from_numpy(source.integers(0, denoiser.timesteps, len(chosen)))
            noise = torch.from_numpy(source.standard_normal((len(chosen), *images.shape[1:]), dtype=np.float32))
            share = abar[timesteps].to(noise)[:, None, None, None]
            x_t = (share.sqrt() * images[chosen] + (1 - share).sqrt() * noise).to(token)
            error = told.predict_noise(x_t, timesteps, condition.rows(chosen).to(denoiser.device)) - noise.to(token)
            optimiser.zero_grad()
            error.square().mean().backward(inputs=[token])
            optimiser.step()
    if not token.isfinite().all():
        raise ModelError(
            f"the search for a token ended in numbers that are infinite or NaN after {steps} steps; give a smaller "
            "concepts.probes.inversion.rate"
        )
    return token.detach()
