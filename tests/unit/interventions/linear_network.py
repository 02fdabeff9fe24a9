"""A denoiser whose every number can be worked out by hand: two layers of two heads, attention fixed, all of it linear.

x (pixel) -> h1 = x + sum_h P1_h x w1_h -> h2 = h1 + sum_h P2_h h1 w2_h, with P the attention of a head, which depends
on nothing, and w one number: the head's value weight times its output weight. The prediction is h2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffmech.config.models import Architecture
from diffmech.models.architecture import build_scheduler
from diffmech.models.denoiser import Condition, Denoiser

PIXELS = 16


class FixedAttention(nn.Module):
    """Two heads of one channel whose queries and keys are constants; `to_q` makes it an attention site."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.heads = 2
        self.to_q = nn.Identity()
        source = torch.Generator().manual_seed(seed)
        self.query, self.key = nn.Parameter(torch.randn(2, 1, 2, PIXELS, 1, generator=source, dtype=torch.float64))
        self.write = nn.Parameter(torch.randn(2, generator=source, dtype=torch.float64))

    def attention(self) -> Tensor:
        """Return P (head, query, key), from the definition of softmax attention."""
        return (self.query[0] @ self.key[0].transpose(1, 2)).softmax(-1)

    def forward(self, hidden: Tensor) -> Tensor:
        value = hidden[:, None, :, None].expand(-1, 2, -1, -1)
        rows = (len(hidden), -1, -1, -1)
        output = functional.scaled_dot_product_attention(self.query.expand(rows), self.key.expand(rows), value)
        return (output[..., 0] * self.write[:, None]).sum(1)


class LinearNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn1": FixedAttention(seed)}) for seed in (1, 2))

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = hidden + block["attn1"](hidden)
        return hidden


def linear_denoiser() -> Denoiser:
    """Return the network as a denoiser of images of 4 x 4 pixels."""
    network = LinearNetwork().eval().requires_grad_(False)

    def forward(x_t: Tensor, steps: Tensor, condition: Condition) -> Tensor:
        hidden: Tensor = network(x_t.flatten(1))
        return hidden.view_as(x_t)

    return Denoiser(network, build_scheduler(Architecture()), (1, 4, 4), forward=forward)
