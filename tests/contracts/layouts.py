"""Attention as people write it, in the layouts of well-known code bases, each in a denoiser of 8 x 8 images.

Written anew and small; what is kept is how heads, images and tokens stand, where scale and softmax are, and which
functions make the products. `truth` (sample, head) of each module is the entropy of its attention in float64, the mean
over the places of the image, which it notes while it runs. A module that is `timed` gets the embedded timestep too.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE, WIDTH, HEADS = 8, 16, 2
LOUD = 8.0


def entropy(p: Tensor) -> Tensor:
    """Return the mean over queries of the entropy of p (..., query, key)."""
    p = p.detach().double()
    return -torch.special.xlogy(p, p).sum(-1).mean(-1)


class Noted(nn.Module):
    """Notes the entropy of every attention that it makes, (sample, head) each."""

    timed = False

    def __init__(self) -> None:
        super().__init__()
        self.truth: list[Tensor] = []

    def note(self, p: Tensor, images: int) -> None:
        self.truth.append(entropy(p).reshape(images, -1))


class Images(Noted):
    """Attention on images (sample, channel, y, x), all layers made by 1 x 1 convolutions."""

    def __init__(self, heads: int = HEADS) -> None:
        super().__init__()
        self.count = heads
        self.norm = nn.GroupNorm(4, WIDTH)
        self.qkv_conv, self.proj = nn.Conv2d(WIDTH, 3 * WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)

    def three(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.qkv_conv(self.norm(x)).chunk(3, dim=1)
        return LOUD * q, k, v

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(self.mix(*self.three(x)).reshape(x.shape))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class FourthRoot(Images):
    """q and k each times the fourth root of the scale, heads folded into the batch, two einsums (guided-diffusion)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        c = WIDTH // self.count
        q, k, v = (z.reshape(-1, c, SIZE * SIZE) for z in (q, k, v))
        b = len(q) // self.count
        s = 1 / math.sqrt(math.sqrt(c))
        weight = torch.einsum("bct,bcs->bts", q * s, k * s)
        weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
        self.note(weight, b)
        return torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, SIZE * SIZE)


class Interleaved(FourthRoot):
    """The other order of query, key and value: channels of each head stand together."""

    def three(self, x: Tensor) -> tuple[Tensor, ...]:
        b, c = len(x), WIDTH // self.count
        q, k, v = self.qkv_conv(self.norm(x)).reshape(b * self.count, 3 * c, -1).split(c, dim=1)
        return LOUD * q, k, v


class Turned(Images):
    """One head, bmm with the values first and the weights turned (VQGAN and latent diffusion)."""

    def __init__(self) -> None:
        super().__init__(1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, c, h, w = q.shape
        weights = torch.bmm(q.reshape(b, c, h * w).permute(0, 2, 1), k.reshape(b, c, h * w)) * c**-0.5
        weights = functional.softmax(weights, dim=2)
        self.note(weights, b)
        return torch.bmm(v.reshape(b, c, h * w), weights.permute(0, 2, 1))


class Spatial(Images):
    """Scores kept as (sample, y, x, y', x'), flattened for the softmax (Song et al.'s score networks)."""

    def __init__(self) -> None:
        super().__init__(1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, c, h, w = q.shape
        weights = torch.einsum("bchw,bcij->bhwij", q, k) * c**-0.5
        weights = functional.softmax(weights.reshape(b, h, w, h * w), dim=-1)
        self.note(weights.reshape(b, h * w, h * w), b)
        return torch.einsum("bqk,bck->bcq", weights.reshape(b, h * w, h * w), v.reshape(b, c, h * w))


class Attend(Noted):
    """A helper module that does the attention of its parent (lucidrains)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        similar = torch.einsum("b h i d, b h j d -> b h i j", q, k) * q.shape[-1] ** -0.5
        p = functional.dropout(similar.softmax(dim=-1), 0.1, self.training)
        self.note(p, len(q))
        return torch.einsum("b h i j, b h j d -> b h i d", p, v)


class Helped(Images):
    """The same where a child module attends."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.attend = HEADS, Attend()
        self.truth = self.attend.truth

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.reshape(len(z), self.heads, -1, SIZE * SIZE).mT for z in (q, k, v))
        return self.attend(q, k, v).mT.reshape(len(q), -1, SIZE * SIZE)


class Remembering(Helped):
    """The same with learned keys and values before those of the image (lucidrains' `mem_kv`)."""

    def __init__(self) -> None:
        super().__init__()
        self.mem_kv = nn.Parameter(torch.randn(2, HEADS, 4, WIDTH // HEADS))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.reshape(len(z), self.heads, -1, SIZE * SIZE).mT for z in (q, k, v))
        more_k, more_v = (z.expand(len(q), -1, -1, -1) for z in self.mem_kv)
        out = self.attend(q, torch.cat((more_k, k), dim=-2), torch.cat((more_v, v), dim=-2))
        return out.mT.reshape(len(q), -1, SIZE * SIZE)


class Adapted(Images):
    """One convolution for all heads' q, k and v, each head's scale split between q and k (k-diffusion)."""

    timed = True

    def __init__(self) -> None:
        super().__init__()
        self.about = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        weight, bias = self.about(time)[:, :, None, None].chunk(2, dim=1)
        normed = torch.addcmul(bias, functional.group_norm(x, 4), weight + 1)
        b, c, h, w = x.shape
        qkv = self.qkv_conv(normed).reshape(b, 3 * self.count, c // self.count, h * w).transpose(2, 3)
        q, k, v = qkv.chunk(3, dim=1)
        s = k.shape[3] ** -0.25
        weights = ((LOUD * q * s) @ (k.transpose(2, 3) * s)).softmax(3)
        self.note(weights, b)
        mixed = functional.dropout(weights, 0.1, self.training) @ v
        return x + self.proj(mixed.transpose(2, 3).reshape(b, c, h, w))


class ByHead(Images):
    """Tokens before heads, einsum over both (labml)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.flatten(2).mT.unflatten(-1, (self.count, -1)) for z in (q, k, v))
        attn = torch.einsum("bihd,bjhd->bijh", q, k) * q.shape[-1] ** -0.5
        attn = attn.softmax(dim=2)
        self.note(attn.permute(0, 3, 1, 2), len(q))
        return torch.einsum("bijh,bjhd->bihd", attn, v).flatten(2).mT


class Numbered(Images):
    """q and k scaled before the product, softmax in float32, matmul (EDM)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.reshape(len(z) * self.count, -1, SIZE * SIZE) for z in (q, k, v))
        w = torch.einsum("ncq,nck->nqk", q.float(), (k / math.sqrt(k.shape[1])).float()).softmax(dim=2).to(q.dtype)
        self.note(w, len(q) // self.count)
        return torch.einsum("nqk,nck->ncq", w, v).reshape(len(q) // self.count, -1, SIZE * SIZE)


class Tokens(Noted):
    """Attention on tokens (sample, token, channel)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def three(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return LOUD * q, k, v

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(2).mT
        return image + self.proj(self.mix(*self.three(x))).mT.reshape(image.shape)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class Spelt(Tokens):
    """The unfused path of timm, which DiT and U-ViT use."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attn = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        self.note(attn, len(q))
        return (attn @ v).transpose(1, 2).flatten(2)


class Among(Spelt):
    """The same over a sequence of which `places` are those of the image, and perhaps over `memory` learned keys."""

    def __init__(self, places: slice, memory: int) -> None:
        super().__init__()
        self.places = places
        self.more = nn.Parameter(torch.randn(2, HEADS, memory, WIDTH // HEADS))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.three(x)
        k, v = (
            torch.cat([more.expand(len(x), -1, -1, -1), z], dim=2) for more, z in zip(self.more, (k, v), strict=True)
        )
        return x + self.proj(self.mix(q, k, v))

    def note(self, p: Tensor, images: int) -> None:
        super().note(p[:, :, self.places], images)


class Joined(Noted):
    """Blocks of attention over places and the tokens `before` and `after` them, which stand nowhere (ViT).

    Where it is `timed`, the token before them is that of the time (U-ViT).
    """

    def __init__(self, before: int, after: int, *, timed: bool = False, memory: int = 0) -> None:
        super().__init__()
        self.timed, self.before, self.after = timed, before, after
        self.extra = nn.Parameter(torch.randn(before + after, WIDTH))
        self.norm, places = nn.LayerNorm(WIDTH), slice(before, before + SIZE * SIZE)
        self.blocks = nn.ModuleList(Among(places, memory) for _ in range(2))
        for block in self.blocks:
            block.truth = self.truth

    @property
    def proj(self) -> nn.Module:
        return self.blocks[-1].proj

    def forward(self, image: Tensor, *time: Tensor) -> Tensor:
        extra = self.extra.expand(len(image), -1, -1)
        first, last = extra[:, : self.before], extra[:, self.before :]
        x = torch.cat([first + time[0][:, None] if time else first, image.flatten(2).mT, last], dim=1)
        for block in self.blocks:
            x = block(self.norm(x))
        return x[:, self.before : x.shape[1] - self.after].mT.reshape(image.shape)


class Masked(Tokens):
    """A mask and a bias per head on the scores, subtracted maximum, a softmax of exponentials."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attn = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        near = torch.arange(SIZE * SIZE)
        attn = attn - 0.01 * (near[:, None] - near).abs() * torch.tensor([1.0, 3.0])[:, None, None]
        attn = attn.masked_fill((near[:, None] - near).abs() > 40, -1e9)
        attn = (attn - attn.amax(-1, keepdim=True)).exp()
        attn = attn / attn.sum(-1, keepdim=True)
        self.note(attn, len(q))
        return torch.matmul(attn, v).transpose(1, 2).flatten(2)


class Folded(Tokens):
    """Heads folded into the batch, baddbmm, bmm (diffusers before 0.18)."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.flatten(0, 1) for z in (q, k, v))
        empty = torch.empty(len(q), q.shape[1], k.shape[1], dtype=q.dtype)
        scores = torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=q.shape[-1] ** -0.5)
        p = scores.softmax(dim=-1)
        self.note(p, len(q) // HEADS)
        return torch.bmm(p, v).unflatten(0, (-1, HEADS)).transpose(1, 2).flatten(2)


class Torchs(Noted):
    """torch's own layer; `weights` asks for the weights, which takes another way inside; `bias` adds a learned key."""

    def __init__(self, *, weights: bool, bias: bool = False) -> None:
        super().__init__()
        self.mha, self.weights = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=bias), weights
        with torch.no_grad():
            self.mha.in_proj_weight[:WIDTH].mul_(LOUD)  # the queries

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(2).mT
        out, p = self.mha(x, x, x, need_weights=self.weights, average_attn_weights=False)
        if p is not None:
            self.note(p, len(x))
        return image + out.mT.reshape(image.shape)


class Net(nn.Module):
    """Two layers of attention of one kind on an image of 8 x 8 tokens."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.time = nn.Embedding(100, WIDTH)
        self.enter, self.leave = nn.Conv2d(1, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.layers = nn.ModuleList([build(), build()])

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        time = self.time(timestep)
        x = self.enter(x_t) + time[:, :, None, None]
        for layer in self.layers:
            x = layer(x, time) if layer.timed else layer(x)
        return self.leave(x)

    def truth(self) -> list[Tensor]:
        """Return what the modules noted of their last pass, in order, and forget it."""
        noted = [module.truth for module in self.layers]
        found = [entropies.copy() for entropies in noted]
        for entropies in noted:
            entropies.clear()
        return [entropy for entropies in found for entropy in entropies]


LAYOUTS: dict[str, Callable[[], nn.Module]] = {
    "fourth root": FourthRoot,
    "interleaved": Interleaved,
    "turned": Turned,
    "spatial": Spatial,
    "helped": Helped,
    "by head": ByHead,
    "numbered": Numbered,
    "spelt": Spelt,
    "masked": Masked,
    "folded": Folded,
    "torch's": lambda: Torchs(weights=True),
    "torch's and a bias": lambda: Torchs(weights=True, bias=True),
    "remembering": Remembering,
    "adapted": Adapted,
    "time token": lambda: Joined(1, 0, timed=True),
    "class token and registers": lambda: Joined(1, 3),
    "class token and memory": lambda: Joined(1, 0, memory=2),
}
