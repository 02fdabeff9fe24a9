"""The planted denoiser, built once, with its two halves of images, which remember the losses they were asked for."""

import pytest
import torch
from planted_halves import PlantedFiles, write_planted

from diffmech.attention.sites import HeadId
from diffmech.circuits.kept import KeptHeads


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PlantedFiles:
    torch.set_num_threads(1)
    return write_planted(tmp_path_factory.mktemp("planted_circuit"))


@pytest.fixture(scope="session")
def halves(planted: PlantedFiles) -> tuple[KeptHeads, KeptHeads]:
    return planted.halves()


@pytest.fixture(scope="session")
def ranking(halves: tuple[KeptHeads, KeptHeads]) -> dict[HeadId, float]:
    """The exact effect of every head on the discovery half, the largest first."""
    kept, _ = halves
    clean, *ablated = kept.losses([kept.everything, *(kept.everything - {head} for head in kept.heads)]).mean((1, 2))
    effects = {head: float(loss - clean) for head, loss in zip(kept.heads, ablated, strict=True)}
    return dict(sorted(effects.items(), key=lambda item: -item[1]))
