"""Edits to compare with: as many weights, chosen otherwise, and a closed-form edit of cross-attention values.

Each takes as many weights as the edit does in each unit of its granularity, so that only the choice differs: at random;
at random in the same rows of the same matrices, among those that the edit left; the largest weights; the largest
gradients of the same objective; the largest weights times the norm of their inputs (Wanda, Sun et al. 2024), those only
whose inputs are larger with the concept than without, as in ConceptPrune (arXiv 2405.19237), where both were seen.

UCE (Gandikota et al. 2024, arXiv 2308.14761) changes all values of cross-attention:
W' = (lambda W + sum v* c^T + sum W p p^T)
(lambda I + sum c c^T + sum p p^T)^-1 with the concept's token c, v* = W b of the token b without it, and all other
tokens p kept. lambda = 0.1 is that of the authors' first released code (0.5 in the later one).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from diffmech.concepts.gradients import Gradients
from diffmech.concepts.groups import Weight, weights
from diffmech.concepts.selection import equally_many
from diffmech.concepts.ways import CrossTokens
from diffmech.config.studies.concepts import Baseline, Granularity
from diffmech.models.denoiser import Denoiser
from diffmech.randomness import generator

UCE_LAMBDA = 0.1
RANDOM = ("random", "random_rows")


def baseline(
    kind: Baseline,
    indices: Mapping[str, np.ndarray],
    among: Sequence[Weight],
    found: Gradients,
    *,
    granularity: Granularity,
    seed: int = 0,
    draw: int = 0,
) -> dict[str, np.ndarray]:
    """Return the positions that a baseline changes in place of `indices`, by the name of the weight.

    `draw` numbers random ones. Raises ValueError for `uce`, which is no choice of weights.
    """
    if kind == "random_rows":
        scores = _random(among, seed, kind, draw)
        for name, positions in indices.items():
            scores[name].reshape(-1)[torch.from_numpy(np.asarray(positions))] -= 1  # only where a row has no others
        return equally_many(scores, among, indices, granularity="row")
    if kind == "random":
        scores = _random(among, seed, kind, draw)
    elif kind == "magnitude":
        scores = {weight.name: weight.parameter.detach().abs() for weight in among}
    elif kind == "gradient":
        scores = {weight.name: found.gradient[weight.name].abs() for weight in among}
    elif kind == "wanda":
        scores = {weight.name: _wanda(weight, found) for weight in among}
    else:
        raise ValueError(f"{kind} chooses no weights")
    return equally_many(scores, among, indices, granularity=granularity)


def _random(among: Sequence[Weight], seed: int, kind: str, draw: int) -> dict[str, Tensor]:
    return {
        weight.name: torch.from_numpy(generator(seed, kind, draw, weight.name).random(tuple(weight.parameter.shape)))
        for weight in among
    }


def _wanda(weight: Weight, found: Gradients) -> Tensor:
    values = weight.parameter.detach().abs().float().cpu()
    if weight.name not in found.inputs:  # norms and embeddings scale single channels
        return values
    norms = found.inputs[weight.name].sqrt()
    if weight.name in found.base_inputs:
        norms = norms * (found.inputs[weight.name] > found.base_inputs[weight.name])
    if len(norms) != values.shape[1]:  # a convolution in groups: each output reads its own inputs
        norms = norms.reshape(-1, values.shape[1]).mean(0)
    return values * norms.reshape(1, -1, *([1] * (values.dim() - 2)))


def uce_values(denoiser: Denoiser, tokens: CrossTokens) -> dict[str, Tensor]:
    """Return the values' matrices that UCE puts in place of those of `denoiser`, by name."""
    edited = {}
    with torch.no_grad():
        asked, base, kept = (part.double() for part in (tokens.asked.T, tokens.base.T, tokens.kept))
        for weight in weights(denoiser, ["cross_value"]):
            matrix = weight.parameter.double()
            common = UCE_LAMBDA * torch.eye(matrix.shape[1], dtype=torch.float64, device=matrix.device) + kept.T @ kept
            target = matrix @ common + matrix @ base @ asked.T
            edited[weight.name] = torch.linalg.solve(common + asked @ asked.T, target, left=False).to(weight.parameter)
    return edited


@contextmanager
def replaced(denoiser: Denoiser, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context the weights named in `values` have these; afterwards their own, bit for bit."""
    known = {weight.name: weight.parameter for weight in weights(denoiser) if weight.name in values}
    before = {name: parameter.data for name, parameter in known.items()}
    try:
        for name, parameter in known.items():
            parameter.data = values[name].to(parameter.data)
        yield
    finally:
        for name, parameter in known.items():
            parameter.data = before[name]
