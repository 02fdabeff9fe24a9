"""Mechanisms: clusters of heads that behave alike within a phase.

An observation is a head in a phase: its features averaged over the phase's timesteps, standardised over observations
of the same kind of attention. Clusters are k-means; silhouette (Rousseeuw 1987), the BIC of diagonal Gaussian mixtures
and the agreement of the two are shown for a range of k. Stability is the adjusted Rand index (Hubert & Arabie 1985)
against clusters of resampled images and of other seeds, and for a single cluster the mean of its largest Jaccard
similarity with a cluster of resampled images (Hennig 2007). The features, and thus the mechanisms, are ours.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.mixture import GaussianMixture

from diffmech.artifacts import open_store
from diffmech.config.analysis import MechanismsConfig
from diffmech.mechanisms.k_means import k_means
from diffmech.mechanisms.tables import CLUSTERS, MEMBERS, PHASES
from diffmech.randomness import generator

RESTARTS = 10
# Stability needs many fits; a few restarts each, so that it also shows how easily k-means goes astray.
STABILITY_RESTARTS = 3
OTHER_SEEDS = 10
# Variance, in units of the feature's own, that keeps a mixture component from collapsing onto one observation.
MIXTURE_FLOOR = 1e-2


def cluster_heads(features: Path, phases: Path, members: Path, clusters: Path, *, mechanisms: MechanismsConfig) -> None:
    """Write each head's mechanism in each phase to `members`, the quality of every k tried to `clusters`.

    Of fewer observations than were asked for, fewer clusters are chosen.
    """
    store = open_store(features).to_dataset().transpose(..., "head", "timestep").load()
    observed = observations(store["features"], phases)
    drawn = [observations(draw, phases) for draw in store["features_bootstrap"]]
    tables, qualities = [], []
    for kind in dict.fromkeys(observed["kind"]):
        rows = (observed["kind"] == kind).to_numpy()
        names = [str(name) for name in store["feature"].values]
        columns = [name for name in names if np.isfinite(observed.loc[rows, name]).all()]
        scaled = _standardised([table.loc[rows, columns].to_numpy() for table in (observed, *drawn)])
        requested = mechanisms.clusters if kind == "self" else mechanisms.cross_clusters
        labels, stability, quality = _cluster(str(kind), scaled[0], scaled[1:], requested, mechanisms)
        order = _deterministic_order(labels, observed.loc[rows, "normalised_entropy"].to_numpy())
        table = observed.loc[rows].copy()
        table.insert(6, "mechanism", [f"{kind}-{order[label]}" for label in labels])
        table.insert(7, "stability", stability[labels])
        tables.append(table)
        qualities.append(quality)
    MEMBERS.write(members, pd.concat(tables).sort_values(["head", "phase"], kind="stable"))
    CLUSTERS.write(clusters, pd.concat(qualities))


def observations(features: xr.DataArray, phases: Path) -> pd.DataFrame:
    """Return one row per head and phase: head, site, kind, phase, phase_first, phase_last, and mean features."""
    spans = read_phases(phases)
    tables = []
    for phase, timesteps in spans.items():
        mean = features.sel(timestep=timesteps).astype(np.float64).mean("timestep")
        table = pd.DataFrame(mean.transpose("head", "feature").values, columns=[str(f) for f in mean["feature"].values])
        about = pd.DataFrame({name: [str(v) for v in mean.coords[name].values] for name in ("head", "site", "kind")})
        about = about.assign(phase=phase, phase_first=min(timesteps), phase_last=max(timesteps))
        tables.append(pd.concat([about, table], axis=1))
    return pd.concat(tables, ignore_index=True)


def read_phases(phases: Path) -> dict[int, list[int]]:
    """Return the timesteps of each phase."""
    table = PHASES.read(phases, ["timestep", "phase"])
    spans: dict[int, list[int]] = {}
    for timestep, phase in zip(table["timestep"], table["phase"], strict=True):
        spans.setdefault(int(phase), []).append(int(timestep))
    return spans


def _standardised(
    tables: list[Float[np.ndarray, "_observation feature"]],
) -> list[Float[np.ndarray, "_observation feature_that_differs"]]:
    """Scale all (observation, feature) tables by the first, without features that do not differ there."""
    centre, spread = tables[0].mean(axis=0), tables[0].std(axis=0)
    differing = spread > 1e-9
    if not differing.any():
        return [np.zeros((len(table), 1)) for table in tables]
    return [((table - centre)[:, differing]) / spread[differing] for table in tables]


def _cluster(
    kind: str,
    values: Float[np.ndarray, "observation feature"],
    drawn: list[Float[np.ndarray, "_observation feature"]],
    requested: int,
    mechanisms: MechanismsConfig,
) -> tuple[Int[np.ndarray, "observation"], Float[np.ndarray, "cluster"], pd.DataFrame]:
    """Return labels, the stability of each cluster, and the quality of every k."""
    most = min(len(values) - 1, len(np.unique(values, axis=0)))
    chosen = min(requested, most)
    if chosen < 2:
        about = {"kind": kind, "k": 1, "chosen": True, "requested": requested, "observations": len(values)}
        return np.zeros(len(values), dtype=int), np.ones(1), pd.DataFrame([about], columns=_QUALITY)
    low, high = mechanisms.cluster_range
    rows = []
    labels, stability = np.zeros(len(values), dtype=int), np.ones(1)
    for k in sorted({*range(low, min(high, most) + 1), chosen}):
        random = generator(mechanisms.seed, "k-means", kind, k)
        reference = k_means(values[None], k, random, restarts=RESTARTS)[0]
        others = k_means(np.stack([values] * OTHER_SEEDS), k, random, restarts=STABILITY_RESTARTS)
        resampled = k_means(np.stack(drawn), k, random, restarts=STABILITY_RESTARTS)
        mixture = GaussianMixture(
            k, covariance_type="diag", reg_covar=MIXTURE_FLOOR, random_state=int(random.integers(2**31))
        )
        in_mixture = mixture.fit_predict(values)
        rows.append(
            {
                "kind": kind,
                "k": k,
                "chosen": k == chosen,
                "requested": requested,
                "observations": len(values),
                "silhouette": silhouette_score(values, reference),
                "bic": mixture.bic(values),
                "ari_mixture": adjusted_rand_score(reference, in_mixture),
                "ari_sample_bootstrap": np.mean([adjusted_rand_score(reference, other) for other in resampled]),
                "ari_seeds": np.mean([adjusted_rand_score(reference, other) for other in others]),
            }
        )
        if k == chosen:
            labels, stability = reference, np.mean([_jaccard(reference, other, k) for other in resampled], axis=0)
    return labels, stability, pd.DataFrame(rows, columns=_QUALITY)


_QUALITY = [
    "kind",
    "k",
    "chosen",
    "requested",
    "observations",
    "silhouette",
    "bic",
    "ari_mixture",
    "ari_sample_bootstrap",
    "ari_seeds",
]


def _jaccard(
    reference: Int[np.ndarray, "observation"], other: Int[np.ndarray, "observation"], k: int
) -> Float[np.ndarray, "cluster"]:
    """Return, for each cluster of `reference`, its largest Jaccard similarity with a cluster of `other`."""
    mine = (reference[:, None] == np.arange(k)).astype(float)
    theirs = (other[:, None] == np.arange(k)).astype(float)
    both = mine.T @ theirs
    either = mine.sum(axis=0)[:, None] + theirs.sum(axis=0) - both
    return (both / np.maximum(either, 1)).max(axis=1)


def _deterministic_order(labels: np.ndarray, entropy: np.ndarray) -> Mapping[int, int]:
    """Return the rank of each cluster from 1: the largest first, of equal ones the most focused."""
    keys = {}
    for label in np.unique(labels):
        inside = labels == label
        keys[int(label)] = (-int(inside.sum()), float(entropy[inside].mean()), int(np.argmax(inside)))
    return {label: rank for rank, label in enumerate(sorted(keys, key=lambda label: keys[label]), start=1)}
