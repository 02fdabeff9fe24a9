"""What the model has to beat, on the same split, smoothed alike and brought to a slice score alike.

None sees a label but that training slices have no lesion. Without training:

- `random`: standard normal noise, the floor;
- `position`: how near the slice is to the middle of the brain, no image at all;
- `brain_area`: the share of the slice that is brain, no intensity at all;
- `threshold`: the intensity itself (Meissen et al. 2021, arXiv 2109.06023, for FLAIR).

Fitted to slices without a lesion:

- `atlas`: |z| of each pixel against healthy slices of about the same position; `atlas_bright` is z itself, which knows
  beforehand that lesions are bright;
- `pca`: the residual outside of the leading principal components;
- `nearest_features`: distance of the features of each place to the nearest of a bank of healthy ones, after PatchCore
  (Roth et al. 2022), with features of the model's own encoder instead of a network trained on photographs, and a bank
  drawn at random instead of greedily.

The autoencoders, plain and denoising (Kascenas et al. 2022), are trained by `diffmech.anomaly.training` and scored by
`reconstruction_error`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from diffmech.anomaly.atlas import healthy_atlas
from diffmech.anomaly.network import AnomalyVae, in_batches
from diffmech.anomaly.scores import Scored, scored
from diffmech.anomaly.slices import Slices
from diffmech.anomaly.training import healthy
from diffmech.config.anomaly import ScoreConfig
from diffmech.errors import DataError
from diffmech.randomness import generator

VARIANCE = 0.9  # that principal components explain
BANK = 4000  # features that are kept of healthy slices


def simple_scores(slices: Slices, modality: str, config: ScoreConfig, *, seed: int) -> dict[str, Scored]:
    """Return the scores of those that are fitted to nothing. Raises DataError for a modality that is not there."""
    noise = generator(seed, "random score").standard_normal(slices.brain.shape).astype(np.float32)
    return {
        "random": Scored(generator(seed, "random slice score").standard_normal(len(slices)), noise),
        "position": Scored(-np.abs(np.nan_to_num(slices.position, nan=0.0) - 0.5)),
        "brain_area": Scored(slices.brain.mean((1, 2), dtype=np.float64)),
        "threshold": scored(intensity(slices, modality), slices.brain, config),
    }


def intensity(slices: Slices, modality: str) -> np.ndarray:
    """Return the intensity `(slice, y, x)` in one modality. Raises DataError where the slices have none of it."""
    if modality not in slices.modalities:
        raise DataError(
            f"a threshold of {modality} was asked for, but the slices hold {', '.join(slices.modalities)}; name one of "
            "these"
        )
    return slices.images[:, slices.modalities.index(modality)]


def atlas_scores(slices: Slices, training: Slices, config: ScoreConfig) -> dict[str, Scored]:
    """Return the scores of z, averaged over modalities, against the atlas of healthy training slices."""
    mean, variance = healthy_atlas(healthy(training, "training"), slices.position)
    z = (slices.images - mean) / np.sqrt(variance)
    return {
        "atlas": scored(np.abs(z).mean(1), slices.brain, config),
        "atlas_bright": scored(z.mean(1), slices.brain, config),
    }


def pca_score(slices: Slices, training: Slices, config: ScoreConfig, *, seed: int) -> Scored:
    """Return the score of |x - its projection| on the components that explain 90 % of healthy training slices."""
    normal = healthy(training, "training")
    flat = normal.images.reshape(len(normal), -1)
    most = min(len(flat) - 1, 100, flat.shape[1])
    fitted = PCA(most, svd_solver="randomized", random_state=seed).fit(flat)
    kept = int(np.searchsorted(np.cumsum(fitted.explained_variance_ratio_), VARIANCE)) + 1
    axes, centred = fitted.components_[:kept], slices.images.reshape(len(slices), -1) - fitted.mean_
    residual = np.abs(centred - centred @ axes.T @ axes).reshape(slices.images.shape)
    return scored(residual.mean(1), slices.brain, config)


def reconstruction_error(network: AnomalyVae, slices: Slices) -> np.ndarray:
    """Return |x - what the network makes of it| `(slice, y, x)`, nothing drawn, averaged over modalities."""
    parts = in_batches(network, slices, lambda images, positions: network(images, positions)[0].cpu())
    return np.asarray(np.abs(slices.images - torch.cat(parts).numpy()).mean(1))


def nearest_features_score(
    slices: Slices, training: Slices, networks: Sequence[AnomalyVae], config: ScoreConfig, *, seed: int
) -> Scored:
    """Return the score of the distance to the nearest healthy features, averaged over networks."""
    normal = healthy(training, "training")
    maps = [_distances(slices, normal, network, seed) for network in networks]
    return scored(np.mean(maps, axis=0), slices.brain, config)


def _distances(slices: Slices, normal: Slices, network: AnomalyVae, seed: int) -> np.ndarray:
    """Return distances `(slice, y, x)` to the nearest healthy features."""
    known, inside = _features(normal, network)
    bank = known[inside]
    bank = bank[generator(seed, "bank of features").permutation(len(bank))[:BANK]]
    centre, deviation = bank.mean(0), bank.std(0) + 1e-6
    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit((bank - centre) / deviation)
    asked, inside = _features(slices, network)
    distances = np.zeros(inside.shape, dtype=np.float32)
    distances[inside] = neighbours.kneighbors((asked[inside] - centre) / deviation)[0][:, 0]
    whole = F.interpolate(
        torch.from_numpy(distances)[:, None], size=slices.brain.shape[1:], mode="bilinear", align_corners=False
    )
    return whole[:, 0].numpy()


def _features(slices: Slices, network: AnomalyVae) -> tuple[np.ndarray, np.ndarray]:
    """Return features `(slice, y, x, feature)` of a grid of a quarter of the sides, and which places hold any brain.

    They are those of the last two grids of the encoder, each averaged over 3 x 3 places (Roth et al. 2022).
    """

    def of_batch(images: Tensor, positions: Tensor) -> Tensor:
        grids = network.grids(images, network.guide(positions))[-2:]
        near = [F.avg_pool2d(grid, 3, 1, 1) for grid in grids]
        return torch.cat([_enlarged(grid, grids[0].shape[2:]) for grid in near], 1).permute(0, 2, 3, 1).cpu()

    features = torch.cat(in_batches(network, slices, of_batch)).numpy()
    brain = torch.from_numpy(slices.brain)[:, None].float()
    inside = F.adaptive_max_pool2d(brain, features.shape[1:3])[:, 0].numpy() > 0
    return features, inside


def _enlarged(grid: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)


def network_scores(networks: Mapping[str, AnomalyVae], slices: Slices, config: ScoreConfig) -> dict[str, Scored]:
    """Return the scores of the reconstruction errors of trained networks, by their names."""
    return {name: scored(reconstruction_error(each, slices), slices.brain, config) for name, each in networks.items()}
