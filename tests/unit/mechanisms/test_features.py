"""Head features: planted heads have the features they were built with."""

from dataclasses import replace

import numpy as np
import pytest
from feature_files import write_features
from planted_heads import DOMAINS, HEADS

from diffmech.artifacts import open_store
from diffmech.config.analysis import MechanismsConfig
from diffmech.errors import StoreError
from diffmech.mechanisms.features import MEANING
from diffmech.mechanisms.probes import null_p


@pytest.fixture(scope="module")
def store(planted):
    return open_store(planted[1]).to_dataset().load()


def of_head(store, variable, dim, name):
    """Return {planted head: value at the first timestep, in the first domain} of the self-attention heads."""
    names = [str(value) for value in store[dim].values]
    values = store[variable].transpose(..., dim, "head", "timestep").values.reshape(-1, *store[variable].shape[-3:])
    values = values[0, names.index(name), : len(HEADS), 0]
    return dict(zip(HEADS, values, strict=True))


def test_each_planted_head_stands_out_in_its_own_feature(store):
    for feature, head in {
        "log_enrichment_edges": "edge",
        "log_enrichment_parts": "part",
        "neighbourhood_mass": "local",
        "mirror_mass": "mirror",
        "sink_mass": "sink",
        "distance": "far",
        "normalised_entropy": "uniform",
    }.items():
        values = of_head(store, "features", "feature", feature)
        assert max(values, key=values.get) == head, feature


def test_only_heads_that_follow_the_image_depend_on_content(store):
    values = of_head(store, "features", "feature", "content_dependence")
    assert min(values["edge"], values["part"]) > 0.5
    assert max(values[name] for name in ("sink", "far", "position")) < 0.1
    # flat to within rounding, so nothing depends on anything
    assert values["uniform"] < 0.1 or values["uniform"] > 0.9


def test_edge_probe_finds_the_planted_edge_head_and_nothing_for_the_uniform_head(store):
    at, dims = {"domain": 0, "timestep": 0}, ("null_draw", "head", "map")
    rolled, dealt = (store[name].isel(at).transpose(*dims).values for name in ("rolled_null", "content_null"))
    maps = [str(name) for name in store["map"].values]
    ratio = store["ratio"].isel(at).sel(probe=maps).transpose("head", "probe").values
    p = null_p(ratio, rolled, two_sided=True)[:, maps.index("edges")]
    content_p = null_p(store["content"].isel(at).transpose("head", "map").values, dealt, two_sided=False)
    edge, uniform = HEADS.index("edge"), HEADS.index("uniform")
    assert p[edge] < 1e-6
    assert of_head(store, "ratio", "probe", "edges")["edge"] > 2
    assert content_p[edge, maps.index("edges")] < 0.001
    assert p[uniform] > 0.01
    assert of_head(store, "ratio", "probe", "edges")["uniform"] == pytest.approx(1, abs=0.01)


def test_timesteps_described_side_by_side_give_the_same_store(planted, tmp_path):
    files, alone = planted
    assert write_features(tmp_path, files, threads=2).read_bytes() == alone.read_bytes()


def test_parts_are_measured_where_there_are_masks_only(store):
    ratio = store["ratio"].transpose("domain", "probe", "head", "timestep").values
    part = [str(name) for name in store["probe"].values].index("part:eye")
    assert list(store.attrs["domains"]) == ["real", "synthetic"]
    assert np.isnan(ratio[0, part]).all()
    assert np.isfinite(ratio[1, part, : len(HEADS)]).all()
    maps = [str(name) for name in store["map"].values]
    assert list(store["images"].values[:, maps.index("part:eye")]) == [0, 16]


def test_domains_weigh_equally_and_resampled_images_scatter_around_the_features(planted, store, tmp_path):
    files, _ = planted
    few = MechanismsConfig(rolls=2, stability_draws=2)
    alone = []
    for domain in DOMAINS:  # beside itself
        twice = {
            field: dict.fromkeys(DOMAINS, getattr(files, field)[domain])
            for field in ("attention", "latents", "datasets", "untrained")
        }
        path = write_features(tmp_path, replace(files, **twice), few, f"{domain}.zarr.zip")
        alone.append(open_store(path).to_dataset()["features"].transpose("feature", "head", "timestep").values[:8])
    pooled = store["features"].transpose("feature", "head", "timestep").values[:8]
    np.testing.assert_allclose(np.mean(alone, axis=0), pooled, rtol=1e-5)
    drawn = store["features_bootstrap"].transpose("draw", "feature", "head", "timestep").values[:, :8]
    edge = drawn[:, 0, HEADS.index("edge"), 0]
    assert edge.std() > 0
    assert abs(edge.mean() - pooled[0, HEADS.index("edge"), 0]) < 3 * edge.std()


def test_cross_attention_has_tokens_and_no_places(store):
    ratio = store["ratio"].isel(domain=0).transpose("probe", "head", "timestep").values
    names = [str(name) for name in store["probe"].values]
    assert ratio[names.index("token:glasses"), len(HEADS)].min() > 2.5
    assert np.isnan(ratio[names.index("neighbourhood"), len(HEADS) :]).all()
    assert np.isnan(ratio[names.index("token:hat"), : len(HEADS)]).all()


def test_each_head_of_each_twin_is_kept_on_the_images_that_the_twins_saw(store):
    excess = store["untrained_excess"].transpose("twin", "domain", "head", "timestep", "probe")
    assert excess.shape[:4] == (19, 2, len(HEADS) + 4, 2)
    sink = [str(name) for name in store["probe"].values].index("sink")
    values = excess.values[..., : len(HEADS), 0, sink]
    assert np.isfinite(values).all()
    # different heads of different models, in each domain the same preferences of their weights
    assert len(np.unique(values[:, 0])) > 0.9 * values[:, 0].size
    assert np.corrcoef(values[:, 0].ravel(), values[:, 1].ravel())[0, 1] > 0.9


def test_every_variable_has_its_unit_and_meaning(store):
    assert set(store.data_vars) == set(MEANING)
    for variable in store.data_vars.values():
        assert variable.attrs["units"]
        assert variable.attrs["long_name"]


def test_probes_that_are_not_asked_for_are_not_computed(planted, tmp_path):
    files, _ = planted
    few = MechanismsConfig(probes=["edges"], rolls=10, stability_draws=2)
    output = write_features(tmp_path, files, few)
    found = open_store(output).to_dataset()
    assert [str(name) for name in found["map"].values] == ["edges"]
    assert [str(name) for name in found["feature"].values][-1] == "log_enrichment_edges"


def test_captures_without_the_images_behind_them_are_refused(planted, tmp_path):
    files, _ = planted
    with pytest.raises(StoreError, match="no such store"):
        write_features(
            tmp_path,
            replace(files, latents={domain: [tmp_path / "none.zarr.zip"] for domain in files.latents}),
            MechanismsConfig(rolls=10),
        )
    assert not list(tmp_path.iterdir())
