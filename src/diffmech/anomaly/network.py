"""A variational autoencoder of slices with attention in its encoder and a predicted variance for every pixel.

The encoder halves a slice by strided convolutions and lets the places of the smallest grid see each other by multi-head
self-attention (Vaswani et al. 2017), which `diffmech.attention.tap` can watch. The latent is a grid of Gaussians
(Kingma & Welling 2014). The decoder says for each pixel a mean and a log-variance (Nix & Weigend 1994; Kendall & Gal
2017). Channels are dropped (Srivastava et al. 2014; Tompson et al. 2015) in training and, for Monte Carlo dropout (Gal
& Ghahramani 2016), afterwards. With `skips` the decoder also sees what the encoder saw on the way down (Ronneberger et
al. 2015): that is only for training with corrupted slices, since an intact one could be copied.

With an `atlas` (`diffmech.anomaly.atlas`) the network is told what healthy brains look like at the position of the
slice and how much they vary there, and says what is to be added: it need not learn what the atlas knows.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmech.anomaly.slices import Slices
from diffmech.batches import Batches
from diffmech.config.anomaly import AnomalyNetworkConfig
from diffmech.errors import ModelError

GROUPS = 4  # of channels that are normalised together
# Standard deviations below 1/100 of the range of intensities would be rewarded for memorising noise.
LEAST_LOG_VARIANCE = -9.2
MOST_LOG_VARIANCE = 2.0
CONSTANT_LOG_VARIANCE = -4.6  # a standard deviation of 0.1
POSITIONS = 33  # of an atlas, evenly spaced from the bottom to the top of the brain

BATCH = 128  # slices in one pass

Result = TypeVar("Result")
Guide = tuple[Tensor, Tensor]  # mean and log-variance of the atlas (sample, modality, y, x)


class SelfAttention(nn.Module):
    """Residual multi-head self-attention among the places of a grid `(sample, channel, y, x)`.

    No attention weight is ever dropped: what the tap shows is what was computed.
    """

    def __init__(self, channels: int, heads: int, height: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(1, channels)
        self.places = nn.Parameter(0.02 * torch.randn(1, channels, height, width))
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.Linear(channels, channels)

    def forward(self, grid: Tensor) -> Tensor:
        tokens = (self.norm(grid) + self.places).flatten(2).transpose(1, 2)
        query, key, value = (
            part(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return grid + self.to_out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, grid.shape[2:])


class AnomalyVae(nn.Module):
    """See the module. `image_shape` is (modality, y, x).

    Raises ModelError where slices cannot be halved as often as there are channels, or channels are no multiple of 4 or,
    the last, of the heads.
    """

    def __init__(self, image_shape: tuple[int, int, int], config: AnomalyNetworkConfig) -> None:
        super().__init__()
        self.image_shape, self.config = image_shape, config
        modalities, height, width = image_shape
        channels = config.channels
        factor = 2 ** len(channels)
        if height % factor or width % factor:
            raise ModelError(
                f"anomaly.network.channels: {len(channels)} grids need slices with sides of a multiple of {factor} "
                f"pixels, found {height} x {width}; give another size, or name fewer channels"
            )
        if any(each % GROUPS for each in channels) or channels[-1] % config.heads:
            raise ModelError(
                f"anomaly.network.channels: {channels} with {config.heads} heads; give multiples of {GROUPS}, the last "
                "also one of the heads"
            )
        # The finest grid has half the sides of the slice: all four pixels of a place are channels of it (Shi et al.
        # 2016), which spares the grids of full size that would take most of the time.
        pixels = 4 * modalities
        given = pixels * (1 + config.atlas)
        sizes = [given, *channels]
        self.down = nn.ModuleList(
            _block(inward, outward, config.dropout, stride=1 if place == 0 else 2)
            for place, (inward, outward) in enumerate(pairwise(sizes))
        )
        # mean and log-variance of healthy brains at each position, the last where it is not known
        self.atlas: Tensor | None
        self.register_buffer("atlas", torch.zeros(2, POSITIONS + 1, *image_shape) if config.atlas else None)
        grid = (height // factor, width // factor)
        self.attention = SelfAttention(channels[-1], config.heads, *grid) if config.attention else nn.Identity()
        self.posterior = nn.Conv2d(channels[-1], 2 * config.latents, 1)
        self.grid = _block(config.latents, channels[-1], config.dropout)
        self.up = nn.ModuleList(
            _block(inward + (outward if config.skips else 0), outward, config.dropout)
            for outward, inward in reversed(list(pairwise(channels)))
        )
        self.pixels = nn.Conv2d(channels[0] + (given if config.skips else 0), 2 * pixels, 3, padding=1)
        with torch.no_grad():
            self.pixels.weight *= 0.1  # so that training begins near the atlas

    def guide(self, positions: Tensor) -> Guide:
        """Return mean and log-variance of the atlas at positions `(sample,)`, each `(sample, modality, y, x)`; without
        an atlas constants that are broadcast to that."""
        if self.atlas is None:
            return positions.new_zeros(()), positions.new_full((), CONSTANT_LOG_VARIANCE)
        nearest = (positions * (POSITIONS - 1)).round().nan_to_num(nan=float(POSITIONS)).long()
        return self.atlas[0, nearest], self.atlas[1, nearest]

    def encode(self, images: Tensor, guide: Guide) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return means and log-variances of the posterior, `(sample, latent, y, x)` each, and the grids on the way."""
        grids = self.grids(images, guide)
        mean, log_variance = self.posterior(self.attention(grids.pop())).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10), grids

    def decode(self, latents: Tensor, grids: list[Tensor], guide: Guide) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of each pixel, each `(sample, modality, y, x)`: those of the atlas and
        what is added to them."""
        hidden = self.grid(latents)
        for block, grid in zip(self.up, reversed(grids[1:]), strict=True):
            hidden = F.interpolate(hidden, scale_factor=2.0, mode="nearest")
            hidden = block(torch.cat([hidden, grid], 1) if self.config.skips else hidden)
        last = torch.cat([hidden, grids[0]], 1) if self.config.skips else hidden
        mean, log_variance = F.pixel_shuffle(self.pixels(last), 2).chunk(2, dim=1)
        mean = mean + guide[0]
        if not self.config.variance:
            return mean, torch.full_like(mean, CONSTANT_LOG_VARIANCE)
        return mean, _bounded(log_variance + guide[1])

    def grids(self, images: Tensor, guide: Guide) -> list[Tensor]:
        """Return what each block of the encoder is given, and what the last one gives."""
        given = [images]
        if self.config.atlas:
            # the distance from the atlas in its own deviations, shortened to the size of intensities
            given.append(0.1 * (images - guide[0]) * (-0.5 * guide[1]).exp())
        grids = [F.pixel_unshuffle(torch.cat(given, 1), 2)]
        for block in self.down:
            grids.append(block(grids[-1]))
        return grids

    def forward(self, images: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return `decode` at the mean of the posterior."""
        guide = self.guide(positions)
        mean, _, grids = self.encode(images, guide)
        return self.decode(mean, grids, guide)


def drop(network: nn.Module, active: bool) -> None:
    """Let only the dropout layers of `network` behave as in training, or as after it."""
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.train(active)


def _block(inward: int, outward: int, dropout: float, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inward, outward, 3, stride, padding=1),
        nn.GroupNorm(GROUPS, outward),
        nn.SiLU(),
        nn.Dropout2d(dropout),
    )


def _bounded(log_variance: Tensor) -> Tensor:
    """Keep log-variances above the least one smoothly, so that gradients lead back, and below the most."""
    return LEAST_LOG_VARIANCE + F.softplus(log_variance - LEAST_LOG_VARIANCE).clamp(
        max=MOST_LOG_VARIANCE - LEAST_LOG_VARIANCE
    )


@torch.no_grad()
def in_batches(vae: AnomalyVae, slices: Slices, work: Callable[[Tensor, Tensor], Result]) -> list[Result]:
    """Return what `work` makes of images and positions of each batch, in order, both where the network is."""
    device = next(vae.parameters()).device
    images, positions = torch.from_numpy(slices.images), torch.from_numpy(slices.position).float()
    return Batches(BATCH).run(
        slice(0, len(slices)), lambda rows: work(images[rows].to(device), positions[rows].to(device))
    )
