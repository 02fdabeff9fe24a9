"""Denoisers of attention layers over the 8 x 8 tokens of an image, for tests of attention that is not what it seems."""

import math

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from layouts import SIZE, WIDTH, entropy
from torch import Tensor, nn
from torch.nn import functional

from diffmech.models.denoiser import Denoiser

HEADS = 4
TOKENS = SIZE * SIZE


class Odd(nn.Module):
    """One attention, `mix`, over the 8 x 8 tokens (sample, token, channel); notes its entropy (sample, head)."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.truth: list[Tensor] = []
        self.timestep = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x.flatten(2).mT).chunk(3, -1)
        return x + self.out(self.mix(4 * q, k, v)).mT.reshape(x.shape)

    def note(self, p: Tensor) -> Tensor:
        self.truth.append(entropy(p))
        return p

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return joined(functional.scaled_dot_product_attention(*map(by_head, (q, k, v))))


def by_head(z: Tensor) -> Tensor:
    return z.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def joined(z: Tensor) -> Tensor:
    return z.transpose(1, 2).flatten(2)


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT / math.sqrt(q.shape[-1])


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.time = nn.Embedding(100, WIDTH)
        self.enter, self.leave = nn.Conv2d(1, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.layers = nn.ModuleList(layers)

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        x = self.enter(x_t) + self.time(timestep)[:, :, None, None]
        for layer in self.layers:
            layer.timestep = timestep
            x = layer(x)
        return self.leave(x)


def denoiser(*layers: type[nn.Module], seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    network = Net(*(layer() for layer in layers)).eval().requires_grad_(False)
    return Denoiser(network, DDPMScheduler(100), (1, SIZE, SIZE), forward=lambda x, t, _: network(x, t))


def windows(z: Tensor, side: int = 4) -> Tensor:
    z = z.unflatten(1, (SIZE // side, side, SIZE // side, side)).transpose(2, 3)
    return z.flatten(3, 4).flatten(1, 2)


def whole(z: Tensor, side: int = 4) -> Tensor:
    count = SIZE // side
    return z.unflatten(2, (side, side)).unflatten(1, (count, count)).transpose(2, 3).flatten(1, 4)
