"""A small attention denoiser whose heads can be built by hand: a fixed stem, attention, a readout. Ours.

Tokens are pixels. The residual stream has named channels: features of the image that the stem computes by fixed
convolutions, the position of the pixel, and one channel per role that heads write to. After the last layer the clean
image is read out linearly, each channel times a fixed map over the image and a gain that depends on the timestep. The
channel of the redundant pair is clipped to [-1, 1] first: this saturation is what makes one of the two enough.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, scaled_dot_product_attention

from diffmech.config.models import PLANTED_ROLES
from diffmech.planted.images import CODES, templates

FEATURES = ("pixel", "detail", "blob", "edge", "texture")
POSITION = ("y", "x", "yy", "xx", "one")
# What heads write to; both heads of the pair write to one channel, and a reader to that of the sink.
CHAIN = ("writer", "reader")
WRITTEN = tuple(
    dict.fromkeys("pair" if role.startswith("pair") else role for role in PLANTED_ROLES if role not in CHAIN)
)
CHANNELS = FEATURES + POSITION + WRITTEN
# What a writer writes to and only a reader reads; there in networks that have these two.
RELAY = "relay"
# What is read out times 1 everywhere; codes are read out times their template.
DIRECT = ("detail", "local", "mirror", "uniform", "global")
READ = DIRECT + CODES
OFFSETS = ("one", *CODES)
HEAD_WIDTH = 4
# Standard deviations in pixels of the blurs of the stem.
BLOB_BLUR, DETAIL_BLUR, EDGE_BLUR, TEXTURE_BLUR = 1.0, 2.2, 0.7, 1.0
SMALLEST_SQUARE = 1e-6  # keeps the root of a square differentiable at 0


class PlantedAttention(nn.Module):
    """Multi-head self-attention with separate projections; heads may be built by hand through its weights."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * HEAD_WIDTH
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the heads write for the tokens `x` (sample, token, channel)."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, HEAD_WIDTH)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        written: Tensor = self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return written


class PlantedDenoiser(nn.Module):
    """Predicts the clean image from x_t, in images of `size` pixels, by layers of so many `heads`.

    `levels` are the timesteps at which the readout has gains of its own; between them they are interpolated. `relay`
    adds the channel between a writer and a reader. All weights are random until they are set.
    """

    stem: Tensor
    fixed: Tensor
    maps: Tensor
    levels: Tensor

    def __init__(self, size: int, heads: list[int], levels: list[int], *, relay: bool = False) -> None:
        super().__init__()
        self.size = size
        self.channels = (*CHANNELS, RELAY) if relay else CHANNELS
        width = len(self.channels)
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": PlantedAttention(count, width)}) for count in heads)
        self.gain = nn.Parameter(torch.randn(len(levels), len(READ)) / len(READ))
        self.offset = nn.Parameter(torch.randn(len(levels), len(OFFSETS)) / len(OFFSETS))
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32), persistent=False)
        self.register_buffer("fixed", _positions(size), persistent=False)
        drawn = templates(size)
        maps = np.stack([drawn[code] for code in CODES]).reshape(len(CODES), -1)
        self.register_buffer("maps", torch.tensor(maps, dtype=torch.float32), persistent=False)

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """Return the predicted clean image for `x_t` (sample, 1, y, x) at timesteps (sample,)."""
        terms, offsets = self.read(self.tokens(x_t))
        below = torch.searchsorted(self.levels, timestep.to(self.levels.dtype), right=True).clamp(
            1, len(self.levels) - 1
        )
        low, high = self.levels[below - 1], self.levels[below]
        share = ((timestep.to(self.levels.dtype) - low) / (high - low)).clamp(0, 1)[:, None]
        gain, offset = (torch.lerp(each[below - 1], each[below], share) for each in (self.gain, self.offset))
        clean = torch.einsum("npc,nc->np", terms, gain) + offset @ offsets
        return clean.reshape(x_t.shape)

    def tokens(self, x_t: Tensor) -> Tensor:
        """Return the residual stream after the last layer, (sample, token, channel)."""
        n, place = len(x_t), self.fixed.expand(len(x_t), -1, -1)
        read = torch.cat([stem_features(x_t), place], dim=-1)
        x = torch.cat([read, x_t.new_zeros(n, place.shape[1], len(self.channels) - read.shape[-1])], dim=-1)
        for block in self.blocks:
            x = x + block.get_submodule("attn")(x)
        return x

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is summed to the clean image: terms (sample, token, read channel), offsets (offset, token)."""
        direct = x[..., [CHANNELS.index(name) for name in DIRECT]]
        codes = x[..., [CHANNELS.index(name) for name in CODES]]
        saturated = torch.cat([codes[..., :-1], codes[..., -1:].clamp(-1, 1)], dim=-1)
        offsets = torch.cat([torch.ones_like(self.maps[:1]), self.maps])
        return torch.cat([direct, saturated * self.maps.T], dim=-1), offsets


def stem_features(x_t: Tensor) -> Tensor:
    """Return the features of each pixel of `x_t` (sample, 1, y, x): (sample, token, feature), in the order of FEATURES.

    detail (what a wide blur leaves) and blob (the difference of two blurs) are linear; edge is the Sobel magnitude of a
    slightly blurred image per pixel, texture the root mean square amplitude of the checkerboard in a Gaussian window.
    """
    step = torch.tensor([-0.5, 0.0, 0.5])
    smooth = torch.tensor([0.25, 0.5, 0.25])
    second = torch.tensor([-0.25, 0.5, -0.25])
    soft = _gaussian(x_t, EDGE_BLUR)
    slope = [_separable(soft, step, smooth), _separable(soft, smooth, step)]
    edge = (slope[0] ** 2 + slope[1] ** 2 + SMALLEST_SQUARE).sqrt()
    checker = _separable(x_t, second, second)
    texture = (_gaussian(checker**2, TEXTURE_BLUR) + SMALLEST_SQUARE).sqrt()
    coarse = _gaussian(x_t, DETAIL_BLUR)
    features = [x_t, x_t - coarse, _gaussian(x_t, BLOB_BLUR) - coarse, edge, texture]
    return torch.cat(features, dim=1).flatten(2).transpose(1, 2)


def _gaussian(images: Tensor, width: float) -> Tensor:
    reach = int(np.ceil(3 * width))
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * width**2))
    return _separable(images, weights / weights.sum(), weights / weights.sum())


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return `images` (sample, 1, y, x) correlated with `rows` along y and `columns` along x, the border repeated."""
    high, wide = len(rows) // 2, len(columns) // 2
    padded = pad(images, (wide, wide, high, high), mode="replicate")
    along = conv2d(padded, rows.to(images)[None, None, :, None])
    return conv2d(along, columns.to(images)[None, None, None, :])


def _positions(size: int) -> Tensor:
    """Return (token, position): row and column about the middle of the image, in image sides, their squares, and 1."""
    y, x = torch.meshgrid(*[(torch.arange(size) - (size - 1) / 2) / size] * 2, indexing="ij")
    return torch.stack([y, x, y**2, x**2, torch.ones_like(y)], dim=-1).reshape(-1, len(POSITION))
