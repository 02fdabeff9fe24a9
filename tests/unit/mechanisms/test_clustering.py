"""Clusters of heads: planted groups are recovered, with names that do not depend on chance."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.metrics import adjusted_rand_score

from diffmech.artifacts import write_store
from diffmech.config.analysis import MechanismsConfig
from diffmech.errors import StoreError
from diffmech.mechanisms.clustering import cluster_heads

FEATURES = ["normalised_entropy", "sink_mass", "distance", "log_enrichment_edges"]


def write_inputs(folder, groups, *, noise=0.05, phases=(1, 1, 2, 2), cross=0, draws=8, seed=0):
    """Write features in which the self heads of one group are alike, and cross heads without spatial features."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(max(groups) + 1, len(FEATURES)))
    values = np.concatenate([centres[list(groups)], rng.normal(size=(cross, len(FEATURES)))])
    values = np.repeat(values.T[..., None], len(phases), axis=-1)
    values[2:, len(groups) :] = np.nan
    heads = len(groups) + cross
    kinds = ["self"] * len(groups) + ["cross"] * cross
    drawn = values + noise * rng.normal(size=(draws, *values.shape))
    store = xr.Dataset(
        {
            "features": (("feature", "head", "timestep"), values + noise * rng.normal(size=values.shape)),
            "features_bootstrap": (("draw", "feature", "head", "timestep"), drawn),
        },
        coords={
            "head": [f"{kind}.h{index:02d}" for index, kind in enumerate(kinds)],
            "site": ("head", kinds),
            "kind": ("head", kinds),
            "feature": FEATURES,
            "timestep": np.arange(len(phases)) * 100,
        },
    )
    assert heads == store.sizes["head"]
    write_store(folder / "f.zarr.zip", store)
    pd.DataFrame({"timestep": np.arange(len(phases)) * 100, "phase": phases}).to_csv(folder / "p.csv", index=False)
    return folder / "f.zarr.zip", folder / "p.csv"


def run(folder, inputs, **settings):
    settings = MechanismsConfig(**{"cluster_range": (2, 5), **settings})
    cluster_heads(*inputs, folder / "members.csv", folder / "clusters.csv", mechanisms=settings)
    return pd.read_csv(folder / "members.csv"), pd.read_csv(folder / "clusters.csv")


def test_planted_groups_are_recovered_and_stable(tmp_path):
    groups = [0] * 5 + [1] * 4 + [2] * 3
    members, clusters = run(tmp_path, write_inputs(tmp_path, groups), clusters=3)
    assert adjusted_rand_score(np.repeat(groups, 2), members["mechanism"]) == 1
    assert list(members["phase"]) == [1, 2] * 12
    assert list(members["phase_first"][:2]) == [0, 200]
    sizes = members["mechanism"].value_counts()
    assert dict(sizes) == {"self-1": 10, "self-2": 8, "self-3": 6}
    assert (members["stability"] == 1).all()
    best = clusters.set_index("k").loc[3]
    assert best["chosen"]
    assert best["ari_sample_bootstrap"] == 1
    assert best["ari_seeds"] == 1
    assert best["ari_mixture"] == 1
    assert clusters.set_index("k")["silhouette"].idxmax() == 3


def test_clusters_of_noise_are_reported_as_unstable(tmp_path):
    inputs = write_inputs(tmp_path, [0] * 20, noise=1.0)
    members, clusters = run(tmp_path, inputs, clusters=5)
    assert clusters["ari_sample_bootstrap"].max() < 0.4
    assert members["stability"].mean() < 0.6


def test_kinds_of_attention_are_clustered_apart_on_the_features_they_have(tmp_path):
    members, _ = run(tmp_path, write_inputs(tmp_path, [0, 0, 1, 1], cross=3), clusters=2, cross_clusters=2)
    assert members.groupby("kind")["mechanism"].nunique().to_dict() == {"cross": 2, "self": 2}
    assert members["mechanism"].str.split("-").str[0].eq(members["kind"]).all()
    assert members.loc[members["kind"] == "cross", "distance"].isna().all()


def test_too_few_heads_lower_the_number_of_clusters_and_say_so(tmp_path):
    members, clusters = run(tmp_path, write_inputs(tmp_path, [0, 1, 2], phases=(1, 1)), clusters=8)
    row = clusters[clusters["chosen"]].iloc[0]
    assert (row["k"], row["requested"], row["observations"]) == (2, 8, 3)
    assert members["mechanism"].nunique() == 2
    members, clusters = run(tmp_path, write_inputs(tmp_path, [0], phases=(1, 1)), clusters=8)
    assert list(members["mechanism"]) == ["self-1"]
    assert list(clusters["k"]) == [1]


def test_tables_are_the_same_bytes_on_every_run(tmp_path):
    inputs = write_inputs(tmp_path, [0, 0, 1, 1, 2, 2], cross=4, noise=0.5)
    found = []
    for _ in range(2):
        run(tmp_path, inputs, clusters=3)
        found.append([(tmp_path / name).read_bytes() for name in ("members.csv", "clusters.csv")])
    assert found[0] == found[1]


def test_a_table_that_is_not_of_phases_is_named(tmp_path):
    features, phases = write_inputs(tmp_path, [0, 1, 2])
    phases.write_text("a,b\n1,2\n")
    with pytest.raises(StoreError, match=r"p\.csv: lacks the columns timestep, phase"):
        run(tmp_path, (features, phases))
