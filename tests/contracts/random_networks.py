"""Small denoisers drawn at random from everything that attention is written as, right and wrong, tied, masked, cast.

`draw` says what is wrong with the network that it returns, so that a refusal can be held against it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from layouts import HEADS, LAYOUTS, SIZE, WIDTH, Joined, Noted, Tokens, Torchs
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn import functional

from diffmech.attention.tap import announce

PLACES = torch.arange(SIZE * SIZE)
MASKS: dict[str, dict[str, object]] = {
    "none": {},
    "scale": {"scale": 0.2},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": (PLACES[:, None] - PLACES).abs() < 20},
    "bias": {"attn_mask": -0.05 * (PLACES[:, None] - PLACES).abs().float()},
}


class Fused(Tokens):
    """The fused call with whatever it can be given; `masks` names it."""

    def __init__(self, masks: str) -> None:
        super().__init__()
        self.given = dict(MASKS[masks])

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        given = dict(self.given)
        mask = given.get("attn_mask")
        device = q.device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else q.dtype
        query, key = (z.detach().to(cast).double().numpy() for z in (q, k))  # where the tap has no eyes
        scores = query @ key.swapaxes(-1, -2) * given.get("scale", q.shape[-1] ** -0.5)
        if given.get("is_causal"):
            scores = np.where(PLACES[:, None] < PLACES, -np.inf, scores)
        elif isinstance(mask, Tensor):
            scores = np.where(mask, scores, -np.inf) if mask.dtype == torch.bool else scores + mask.double().numpy()
        self.note(torch.from_numpy(softmax(scores, axis=-1)), len(q))
        if isinstance(mask, Tensor) and mask.dtype != torch.bool:
            given["attn_mask"] = mask.to(cast)
        return functional.scaled_dot_product_attention(q, k, v, **given).transpose(1, 2).flatten(2)


class Announced(Tokens):
    """A weighted sum that nothing can follow, announced; with another scale than its own where `wrong`."""

    def __init__(self, *, wrong: bool = False) -> None:
        super().__init__()
        self.wrong = wrong

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        p = (scale * q @ k.mT).softmax(-1)
        self.note(p, len(q))
        out = (p.unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)
        out = announce(self, q, k, v, out.to(q.dtype), scale=(0.3 if self.wrong else 1) * scale)
        return out.transpose(1, 2).flatten(2)


class Wrong(Tokens):
    """Attention that must be refused; `how` names the reason."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, h = q.shape[:2]
        if self.how == "windows":
            q, k, v = (z.unflatten(2, (4, -1)).transpose(1, 2).flatten(0, 1) for z in (q, k, v))
            out = functional.scaled_dot_product_attention(q, k, v)
            return out.unflatten(0, (b, 4)).transpose(1, 2).flatten(2, 3).transpose(1, 2).flatten(2)
        if self.how == "channels":
            q, k, v = (z.transpose(1, 2).flatten(2).mT[:, None] for z in (q, k, v))
            return functional.scaled_dot_product_attention(q, k, v)[:, 0].mT
        if self.how == "over queries":
            out = (q @ k.mT).softmax(-2) @ v
        elif self.how == "gated":
            out = ((q @ k.mT).softmax(-1) * q.mean(-1, keepdim=True).sigmoid()) @ v
        elif self.how == "summed":
            out = ((q @ k.mT).softmax(-1).unsqueeze(-1) * v.unsqueeze(-3)).sum(-2)
        else:  # heads before images
            q, k, v = (z.transpose(0, 1).flatten(0, 1) for z in (q, k, v))
            out = ((q @ k.mT).softmax(-1) @ v).unflatten(0, (h, b)).transpose(0, 1)
        return out.transpose(1, 2).flatten(2)


# By what is wrong, what the refusal says of it.
REASONS = {
    "windows": "windows, frames or passes of each",
    "channels": r"do not stand row by row|expected \(sample, 2 heads",
    "over queries": "do not sum to 1",
    "gated": "do not sum to 1",
    "summed": "not made by matmul",
    "heads first": "its batch axis does not hold images first",
    "announced": "a scale or a bias is missing",
    "batch": "depends on the others in its batch",
}


@dataclass
class Layer:
    """A module, how often it runs in a row, and whether under autocast."""

    module: nn.Module
    runs: int
    cast: bool


class RandomDenoiser(nn.Module):
    """An image in, layers that attend, an image out."""

    def __init__(self, layers: list[Layer], norm: nn.Module, truth: list[Tensor]) -> None:
        super().__init__()
        self.time, self.norm = nn.Embedding(100, WIDTH), norm
        self.enter, self.leave = nn.Conv2d(1, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.layers = nn.ModuleList([layer.module for layer in layers])
        self.plan, self.truth = layers, truth

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        time = self.time(timestep)
        x = self.norm(self.enter(x_t) + time[:, :, None, None])
        for layer in self.plan:
            for _ in range(layer.runs):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=layer.cast):
                    x = layer.module(*([x, time] if layer.module.timed else [x])).to(x.dtype)
        return self.leave(x)


def draw(seed: int) -> tuple[RandomDenoiser, set[str], torch.dtype]:
    """Return a network, what is wrong with it, and the precision of its weights."""
    random, truth, wrong = np.random.default_rng(seed), list[Tensor](), set[str]()
    dtype = torch.float64 if random.random() < 0.1 else torch.float32
    layers = []
    for _ in range(random.integers(1, 4)):
        module, what = _module(random)
        wrong |= what
        cast = dtype == torch.float32 and random.random() < 0.15 and isinstance(module, Fused)
        layers.append(Layer(module, int(random.choice([1, 1, 1, 2, 3])), bool(cast)))
        for part in module.modules():
            if isinstance(part, Noted):
                part.truth = truth  # all in one list, in the order in which they run
    if random.random() < 0.2:  # a module that runs again later
        layers.append(Layer(layers[0].module, 1, layers[0].cast))
    norm: nn.Module = nn.GroupNorm(4, WIDTH) if random.random() < 0.3 else nn.Identity()
    if random.random() < 0.05:
        norm, wrong = nn.BatchNorm2d(WIDTH, track_running_stats=False), wrong | {"batch"}
    network = RandomDenoiser(layers, norm, truth)
    return network.to(dtype).eval().requires_grad_(False), wrong, dtype


def _module(random: np.random.Generator) -> tuple[nn.Module, set[str]]:
    share = random.random()
    if share < 0.12:
        how = str(random.choice([reason for reason in REASONS if reason != "batch"]))
        return (Announced(wrong=True) if how == "announced" else Wrong(how)), {how}
    if share < 0.45:
        return Fused(str(random.choice(list(MASKS)))), set()
    if share < 0.52:
        return Announced(), set()
    if share < 0.57:
        return Torchs(weights=True), set()
    if share < 0.64:
        return _joined(random), set()
    build: Callable[[], nn.Module] = LAYOUTS[str(random.choice(list(LAYOUTS)))]
    return build(), set()


def _joined(random: np.random.Generator) -> Joined:
    """Return attention over places and tokens without one, before them, after them or both, and perhaps memory."""
    before, after = (int(count) for count in random.integers(0, 4, 2))
    memory = 0 if after else int(random.integers(0, 3))  # with both, nothing says which ones have a query
    return Joined(before, after, timed=bool(before and random.random() < 0.5), memory=memory)


assert HEADS > 1  # else heads before images are the same
