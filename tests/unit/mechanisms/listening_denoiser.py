"""A denoiser of two attention layers in which one head reads the domain of the image and one what it is told."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from diffmech.models.denoiser import Condition

SIZE, HEADS, HEAD_WIDTH = 8, 4, 4
# What is known of a pixel: nothing but 1, its place, how its row and its column differ from the image.
PIXEL = ("one", "y", "x", "down", "across")
TOKEN = ("one", "told", "first", "second")  # a token of the domain, and one per attribute
TOLD = {-1: 0.3, 0: 1.0, 1: 0.0}  # by index of the domain
SHARPNESS = 4.0


class Attention(nn.Module):
    """Attention of pixels to pixels or, across, to tokens."""

    def __init__(self, *, across: bool) -> None:
        super().__init__()
        self.heads, self.is_cross_attention = HEADS, across
        self.to_q = nn.Linear(len(PIXEL), HEADS * HEAD_WIDTH, bias=False)
        self.to_k = nn.Linear(len(TOKEN if across else PIXEL), HEADS * HEAD_WIDTH, bias=False)
        self.to_v = nn.Linear(len(TOKEN if across else PIXEL), HEADS * HEAD_WIDTH, bias=False)
        self.to_out = nn.Linear(HEADS * HEAD_WIDTH, 1, bias=False)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        q, k, v = (
            project(of).unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2)
            for project, of in ((self.to_q, x), (self.to_k, keys), (self.to_v, keys))
        )
        written: Tensor = self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return written


class ListeningDenoiser(nn.Module):
    """Random weights until `plant`; no head reads what another one writes."""

    domains = ("real", "synthetic")
    attributes = ("glasses", "smile")

    def __init__(self) -> None:
        super().__init__()
        self.own = Attention(across=False)
        self.told = Attention(across=True)

    def forward(self, x_t: Tensor, timestep: Tensor, condition: Condition) -> SimpleNamespace:
        pixels, tokens = _pixels(x_t), _tokens(condition)
        written = self.own(pixels, pixels) + self.told(pixels, tokens)
        return SimpleNamespace(sample=x_t + 0.1 * written.transpose(1, 2).reshape(x_t.shape))

    def plant(self, reads_image: int, reads_token: int) -> None:
        """Let one head of each layer read the domain, the others what is the same in images of both."""
        with torch.no_grad():
            for layer, places, reads, what in (
                (self.own, PIXEL, reads_image, "across"),
                (self.told, TOKEN, reads_token, "told"),
            ):
                layer.to_q.weight.zero_()
                layer.to_k.weight.zero_()
                for head in range(HEADS):
                    feature = what if head == reads else "down" if layer is self.own else "first"
                    by = "one" if head == reads else ("one", "down", "y", "x")[head]
                    layer.to_q.weight[head * HEAD_WIDTH, PIXEL.index(by)] = SHARPNESS * HEAD_WIDTH**0.5
                    layer.to_k.weight[head * HEAD_WIDTH, places.index(feature)] = 1


def _pixels(x_t: Tensor) -> Tensor:
    image = x_t[:, 0]
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    mean = image.mean(dim=(1, 2), keepdim=True)
    down, across = (image.mean(dim=axis, keepdim=True) - mean for axis in (2, 1))
    return torch.stack([part.expand_as(image) for part in (torch.ones(()), y, x, down, across)], dim=-1).flatten(1, 2)


def _tokens(condition: Condition) -> Tensor:
    """Return (sample, token, feature): the domain, then the attributes, which say nothing where they are unknown."""
    n = len(condition.domain)
    told = torch.tensor([TOLD[int(index)] for index in condition.domain])
    tokens = torch.zeros(n, 3, len(TOKEN))
    tokens[:, :, 0] = 1
    tokens[:, 0, 1] = told
    tokens[:, 1:, 2:] = torch.diag_embed(1 + condition.values.nan_to_num())
    return tokens
