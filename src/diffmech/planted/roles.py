"""The roles of planted heads: what each attends to, what it reads, and how its weights come about. Ours.

Queries, keys, values and the output projection are set by hand. With positions p centred on the image, the score of a
key is a quadratic form of query and key features, so that softmax gives the attention in closed form:

| role | score of key j for query i | reads | tells of |
|---|---|---|---|
| local | -abs(p_i - p_j)^2 / 2 s^2 | detail | its own pixel |
| mirror | -abs(mirror(p_i) - p_j)^2 / 2 s^2 | detail | its own pixel, if fine noise is mirrored |
| global | +b abs(p_i - p_j)^2 | pixel | its quadrant: the opposite one is as bright |
| uniform | 0 | pixel | the brightness of the whole image |
| edge, texture | b times the feature of j | the feature | a template, by a contrast |
| semantic | b times how dark j is beside its surroundings | that | a template, by the depth of the dip |
| sink | -abs(p_j - p_0)^2 / 2 s^2 | blob | a template, by the height of the spot |
| positional | the same of rows alone | detail | a template, by the height of the ridge |
| pair_first, pair_second | the same of columns, one each | detail | a template, by its sign |
| dead_local, dead_sink | as local and sink | the same | nothing: the output weights are exactly 0 |
| writer | as sink | blob | nothing but to the reader, in a channel that nobody else reads |
| reader, in a later layer | 0 | what the writer wrote | what sink tells of, in its place |

The readout of what they write, a gain per channel and timestep, is the least-squares fit to the clean image over drawn
images of both variants, since how much of each reading is worth depends on the noise.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffmech.config.models import PLANTED_ROLES, PlantedCircuit, PlantedRole
from diffmech.planted.images import draw_images, places
from diffmech.planted.network import HEAD_WIDTH, OFFSETS, READ, RELAY, PlantedAttention, PlantedDenoiser
from diffmech.randomness import generator
from diffmech.training.seeds import seeded

# Widths of attention in pixels, strength of the far preference per square image side, sharpness per unit of a feature.
LOCAL_WIDTH, MIRROR_WIDTH, POINT_WIDTH, LINE_WIDTH = 0.7, 0.35, 0.35, 0.6
FAR, FEATURE_SHARPNESS = 8.0, {"edge": 40.0, "texture": 40.0, "blob": -40.0}
FEATURE_OF = {"edge": "edge", "texture": "texture", "semantic": "blob"}
# Each head of the pair alone drives the channel this far beyond where it saturates, at a ridge of full height.
PAIR_GAIN = 60.0
# Timesteps at which the readout is fitted.
LEVELS = (0, 30, 60, 100, 150, 250, 450, 999)
FIT_BATCH = 32


@dataclass(frozen=True)
class Role:
    """What a head of this role is known to be.

    `label`: the name that mechanisms should get, `unassigned` for uniform attention, which is no specialisation.
    `causal`: whether replacing this head alone raises the denoising loss. `symmetric_only`: only on images whose fine
    structure is mirrored.
    """

    label: str
    causal: bool = True
    symmetric_only: bool = False


ROLES: dict[PlantedRole, Role] = {
    "local": Role("local"),
    "mirror": Role("mirror", symmetric_only=True),
    "global": Role("global"),
    "uniform": Role("unassigned"),
    "edge": Role("edge"),
    "texture": Role("texture"),
    "semantic": Role("semantic"),
    "sink": Role("sink"),
    "positional": Role("positional"),
    "pair_first": Role("positional", causal=False),
    "pair_second": Role("positional", causal=False),
    "dead_local": Role("local", causal=False),
    "dead_sink": Role("sink", causal=False),
    "writer": Role("sink"),
    "reader": Role("unassigned"),
}
assert set(ROLES) == set(PLANTED_ROLES)
PAIR: tuple[PlantedRole, PlantedRole] = ("pair_first", "pair_second")


def shuffled_layers(circuit: PlantedCircuit) -> list[list[PlantedRole]]:
    """Return the role of every head, layer by layer, in the order that the seed gives them."""
    random = generator(circuit.seed, "planted", "order")
    return [[layer[index] for index in random.permutation(len(layer))] for layer in circuit.layers]


def build_network(circuit: PlantedCircuit, size: int, alphas_cumprod: Tensor) -> PlantedDenoiser:
    """Return the planted denoiser of `circuit` for images of `size` pixels, in evaluation mode.

    `alphas_cumprod` (timestep,) is the schedule that its readout is fitted in.
    """
    layers = shuffled_layers(circuit)
    with seeded(circuit.seed):
        relay = any("writer" in layer for layer in layers)
        network = PlantedDenoiser(size, [len(layer) for layer in layers], list(LEVELS), relay=relay)
        network.eval().requires_grad_(False)
    random = generator(circuit.seed, "planted", "weights")
    for layer, block in zip(layers, network.blocks, strict=True):
        attention = block.get_submodule("attn")
        assert isinstance(attention, PlantedAttention)
        _set_heads(attention, layer, size, network.channels)
        for projection in (attention.to_q, attention.to_k):
            error = 1 + circuit.weight_noise * random.standard_normal(projection.weight.shape)
            projection.weight.mul_(torch.tensor(error, dtype=projection.weight.dtype))
    _fit_readout(network, circuit, alphas_cumprod)
    return network


def _set_heads(attention: PlantedAttention, roles: list[PlantedRole], size: int, channels: tuple[str, ...]) -> None:
    for projection in (attention.to_q, attention.to_k, attention.to_v, attention.to_out):
        projection.weight.zero_()
    for head, role in enumerate(roles):
        first = head * HEAD_WIDTH
        score, read, write = _plan(role, size)
        for dimension, (query, key) in enumerate(score):
            # attention divides scores by the root of the width
            for linear, form, scale in ((attention.to_q, query, HEAD_WIDTH**0.5), (attention.to_k, key, 1.0)):
                for channel, factor in form.items():
                    linear.weight[first + dimension, channels.index(channel)] = scale * factor
        attention.to_v.weight[first, channels.index(read)] = 1
        if write is not None:
            attention.to_out.weight[channels.index(write), first] = PAIR_GAIN if write == "pair" else 1


# A linear form over channels; a score is a sum of products of one of the query and one of the key.
Form = dict[str, float]


def _plan(role: PlantedRole, size: int) -> tuple[list[tuple[Form, Form]], str, str | None]:
    """Return the score, the channel read, and the channel written, None for a dead head."""
    kind = role.removeprefix("dead_")
    written = None if role != kind else "pair" if role in PAIR else role
    where = places(size)
    middle = (size - 1) / 2
    if kind in ("local", "mirror"):
        sharp = _sharpness(LOCAL_WIDTH if kind == "local" else MIRROR_WIDTH, size)
        return _square(-sharp, across=1 if kind == "local" else -1), "detail", written
    if kind == "global":
        return _square(FAR), "pixel", written
    if kind == "uniform":
        return [], "pixel", written
    if kind == "reader":
        return [], RELAY, "sink"
    if kind == "writer":
        return _plan("sink", size)[0], "blob", RELAY
    if kind in FEATURE_OF:
        feature = FEATURE_OF[kind]
        return [({"one": FEATURE_SHARPNESS[feature]}, {feature: 1.0})], feature, written
    width = POINT_WIDTH if kind == "sink" else LINE_WIDTH
    y, x = {
        "sink": where.spot,
        "positional": (where.row, None),
        "pair_first": (None, where.columns[0]),
        "pair_second": (None, where.columns[1]),
    }[kind]
    sharp = _sharpness(width, size)
    score: list[tuple[Form, Form]] = []
    for axis, target in (("y", y), ("x", x)):
        if target is not None:
            place = (target - middle) / size
            score.append(({"one": sharp}, {axis: 2 * place, 2 * axis: -1.0}))
    return score, "blob" if kind == "sink" else "detail", written


def _square(factor: float, across: int = 1) -> list[tuple[Form, Form]]:
    """Return factor * abs(p_i - p_j)^2 but for what is the same for all keys; `across` -1 mirrors the query."""
    return [
        ({"y": -2 * factor}, {"y": 1.0}),
        ({"x": -2 * factor * across}, {"x": 1.0}),
        ({"one": factor}, {"yy": 1.0, "xx": 1.0}),
    ]


def _sharpness(width: float, size: int) -> float:
    """Return 1 / 2 s^2 for a width in pixels, per square image side."""
    return size**2 / (2 * width**2)


def _fit_readout(network: PlantedDenoiser, circuit: PlantedCircuit, alphas_cumprod: Tensor) -> None:
    """Set gains and offsets to the least-squares fit of the clean image, at each level of noise."""
    half = circuit.images // 2
    seed = int(generator(circuit.seed, "planted", "fit").integers(2**31))  # not that of a data set
    parts = [draw_images(range(half), seed, network.size, symmetric=symmetric) for symmetric in (True, False)]
    clean = torch.tensor(np.concatenate([images for images, _, _ in parts]), dtype=torch.float32)[:, None]
    random = generator(circuit.seed, "planted", "noise")
    terms = len(READ) + len(OFFSETS)
    for index, level in enumerate(LEVELS):
        share = float(alphas_cumprod[level])
        noise = torch.tensor(random.standard_normal(clean.shape), dtype=torch.float32)
        noisy = share**0.5 * clean + (1 - share) ** 0.5 * noise
        gram, right = np.zeros((terms, terms)), np.zeros(terms)
        for some in range(0, len(clean), FIT_BATCH):
            x_t, x_0 = noisy[some : some + FIT_BATCH], clean[some : some + FIT_BATCH]
            read, offsets = network.read(network.tokens(x_t))
            columns = torch.cat([read, offsets.T.expand(len(x_t), -1, -1)], dim=-1).flatten(0, 1).double().numpy()
            gram += columns.T @ columns
            right += columns.T @ x_0.flatten().double().numpy()
        solved = np.linalg.lstsq(gram, right, rcond=1e-10)[0]
        network.gain[index] = torch.tensor(solved[: len(READ)])
        network.offset[index] = torch.tensor(solved[len(READ) :])
