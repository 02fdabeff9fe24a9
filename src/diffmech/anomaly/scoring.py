"""The scores of one round: of what predicts a variance, of autoencoders, and of what needs no network. Ours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmech.anomaly.competitors import (
    atlas_scores,
    nearest_features_score,
    network_scores,
    pca_score,
    simple_scores,
)
from diffmech.anomaly.inside import head_entropies
from diffmech.anomaly.rounds import Parts
from diffmech.anomaly.scores import Scored, model_maps, model_scores
from diffmech.anomaly.slices import Slices
from diffmech.anomaly.stores import TEST, VALIDATION, write_prediction, write_scores
from diffmech.anomaly.tables import ENTROPIES
from diffmech.anomaly.training import read_anomaly_vae
from diffmech.anomaly.uncertainty import predict
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.anomaly import ScoreConfig, UncertaintyConfig


def score_predicting(
    networks: Sequence[Path],
    parts: Parts,
    output: Path | str,
    prediction: Path | str,
    *,
    alone: str | None,
    uncertainty: UncertaintyConfig,
    scores: ScoreConfig,
    runtime: RuntimeConfig,
) -> None:
    """Write the scores of what the networks predict together, and their prediction of the test slices.

    With `alone` the one score that models are compared by is written, under this name; else all of them.
    """
    members = [read_anomaly_vae(path, device=runtime.device) for path in networks]
    both = {VALIDATION: parts.validation, TEST: parts.test}
    predicted = {name: predict(members, part, uncertainty) for name, part in both.items()}
    maps = {name: model_maps(part.images, predicted[name]) for name, part in both.items()}
    found: dict[str, dict[str, Scored]] = {}
    weights: dict[str, float] = {}
    for name, part in both.items():
        every, weights = model_scores(maps[name], part, maps[VALIDATION], parts.validation, scores)
        found[name] = every if alone is None else {alone: every[scores.model]}
    write_scores(output, found, weights=weights)
    write_prediction(prediction, predicted[TEST])


def score_autoencoder(
    name: str, network: Path, parts: Parts, output: Path | str, *, scores: ScoreConfig, runtime: RuntimeConfig
) -> None:
    """Write the score of the reconstruction error of an autoencoder, under its name."""
    networks = {name: read_anomaly_vae(network, device=runtime.device)}
    both = {VALIDATION: parts.validation, TEST: parts.test}
    write_scores(output, {part: network_scores(networks, own, scores) for part, own in both.items()})


def score_competitors(
    members: Sequence[Path], parts: Parts, output: Path | str, *, scores: ScoreConfig, seed: int, runtime: RuntimeConfig
) -> None:
    """Write the scores of all that is not trained; features are those of the encoders of the `members`."""
    networks = [read_anomaly_vae(path, device=runtime.device) for path in members]

    def every(slices: Slices) -> dict[str, Scored]:
        return {
            **simple_scores(slices, scores.modality, scores, seed=seed),
            **atlas_scores(slices, parts.training, scores),
            "pca": pca_score(slices, parts.training, scores, seed=seed),
            "nearest_features": nearest_features_score(slices, parts.training, networks, scores, seed=seed),
        }

    write_scores(output, {VALIDATION: every(parts.validation), TEST: every(parts.test)})


def entropies_table(network: Path, parts: Parts, output: Path | str, *, runtime: RuntimeConfig) -> None:
    """Write the entropy of every head of one network on every test slice, none for a network without attention."""
    vae, rows = read_anomaly_vae(network, device=runtime.device), []
    if vae.config.attention:
        found = head_entropies(vae, parts.test)
        rows = [(row, head, found[row, head]) for row, head in np.ndindex(*found.shape)]
    ENTROPIES.write(output, ENTROPIES.frame(rows))
