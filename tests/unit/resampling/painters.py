"""Denoisers that paint by hand: eight cross-attention heads, one of which carries a condition into the image.

The network predicts the clean image. Head 2 reads the token of the attribute and paints a bright square where it is
asked for and a dark one where its absence is; heads 0 and 1 paint a faint ramp each, head 7 writes nothing at all, the
others a faint noise of the image. What passes by the heads is a smooth function of the noise, another one per seed.
"""

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional

from diffmech.models.denoiser import Condition, Denoiser

SIDE, HEADS, CARRIER, DEAD = 12, 8, 2, 7
SHAPE = (1, SIDE, SIDE)


class PaintingAttention(nn.Module):
    """Cross-attention to two tokens, the attribute and a blank, whose heads each write one pattern."""

    is_cross_attention = True

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.to_q = nn.Identity()
        source = torch.Generator().manual_seed(0)
        patterns = 0.1 * torch.randn(HEADS, SIDE * SIDE, generator=source)
        ramp = torch.linspace(-0.2, 0.2, SIDE)
        patterns[0], patterns[1] = ramp.repeat(SIDE), ramp.repeat_interleave(SIDE)
        square = torch.zeros(SIDE, SIDE)
        square[3:8, 3:8] = 0.9
        patterns[CARRIER], patterns[DEAD] = square.flatten(), 0
        self.patterns = nn.Parameter(patterns)

    def forward(self, hidden: Tensor, asked: Tensor) -> Tensor:
        rows = len(hidden)
        query = hidden[:, None, :, None].expand(rows, HEADS, -1, 1)
        key = torch.zeros(rows, HEADS, 2, 1)
        value = torch.stack([asked, torch.ones_like(asked)], 1)[:, None, :, None].expand(rows, HEADS, 2, 1).clone()
        value[:, :, 1] = torch.where(torch.arange(HEADS) == CARRIER, 0.0, 1.0)[None, :, None]
        value[:, :, 0] *= torch.where(torch.arange(HEADS) == CARRIER, 1.0, 0.0)[None, :, None]
        output = functional.scaled_dot_product_attention(query, key, value)
        return (2 * output[..., 0] * self.patterns).sum(1)


class Painter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"attn2": PaintingAttention()})])

    def forward(self, x_t: Tensor, asked: Tensor) -> Tensor:
        smooth = functional.avg_pool2d(x_t, 5, stride=1, padding=2)
        painted = self.blocks[0]["attn2"](x_t.flatten(1), asked).view_as(x_t)
        return 0.4 * torch.tanh(3 * smooth) + painted


def painter() -> Denoiser:
    """Return the denoiser; its attribute is `square`, its domains `photo` (unlabelled) and `synthetic`."""
    network = Painter().eval().requires_grad_(False)

    def forward(x_t: Tensor, steps: Tensor, condition: Condition) -> Tensor:
        asked = torch.nan_to_num(2 * condition.values[:, 0] - 1, nan=0.0)
        predicted: Tensor = network(x_t, asked)
        return predicted

    scheduler = DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    return Denoiser(network, scheduler, SHAPE, None, ("square",), ("photo", "synthetic"), forward)


def asked_condition(count: int) -> Condition:
    """Return images of the labelled domain, every other one with a square."""
    values = (torch.arange(count) % 2).float()[:, None]
    return Condition(torch.ones(count, dtype=torch.long), values)
