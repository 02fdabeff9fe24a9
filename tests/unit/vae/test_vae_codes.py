"""The store of codes and the tables of latents, on a linear VAE whose mixing is known."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from linear_vae import LOG_VARIANCE, Bars, encode, linear_vae, mixing

from diffmech.artifacts import write_json, write_store
from diffmech.config.studies.vae import VaeMeasures
from diffmech.errors import StoreError
from diffmech.vae import account, codes
from diffmech.vae.features import FEATURES, features
from diffmech.vae.learned import has_learned
from diffmech.vae.quality import quality
from diffmech.vae.stores import group, identified, read_codes, record, which_vae
from diffmech.vae.tables import LATENTS, MODELS

LENGTHS = np.array([3.0, 2.0, 0.5 * 8])


def moments(image: np.ndarray) -> dict[str, float]:
    found = features(torch.from_numpy(image[None, None]))
    return dict(zip(FEATURES, found[0].tolist(), strict=True))


def test_features_of_known_images() -> None:
    one = np.zeros((8, 16))
    one[1, 4] = 0.5
    found = moments(one)
    assert found["brightness"] == pytest.approx(0.5 / 128)
    assert (found["centre_x"], found["centre_y"]) == (
        pytest.approx(4.5 / 16, abs=1e-4),
        pytest.approx(1.5 / 8, abs=1e-4),
    )
    assert found["spread"] == pytest.approx(0, abs=1e-2)
    even = moments(np.ones((8, 16)))
    assert (even["centre_x"], even["centre_y"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert even["spread"] == pytest.approx(math.sqrt((1 - 1 / 64) / 12 + (1 - 1 / 256) / 12))  # of even places
    two = np.zeros((8, 8))
    two[3, 1] = two[3, 5] = 1
    assert moments(two)["spread"] == pytest.approx(2 / 8, abs=1e-5)
    black = moments(np.zeros((4, 4)))
    assert (black["centre_x"], black["centre_y"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_store_of_a_linear_vae_holds_its_closed_forms(tmp_path, monkeypatch) -> None:
    path = encode(linear_vae(), tmp_path, monkeypatch)
    kept = read_codes(path)
    assert (kept.data, kept.family, kept.seed, kept.factors) == ("bars", "vae", 3, ("row", "column"))
    row, column = kept.values.T
    expected = np.column_stack([column, np.full(400, 0.5), -2 * row])
    assert kept.mean == pytest.approx(expected, abs=1e-4)
    spread = np.sqrt(expected.var(0) + math.exp(LOG_VARIANCE))
    assert kept.deviation == pytest.approx(spread, rel=1e-5)
    latents = group(path, "latents")
    probes = latents.sizes["probe"]
    strength = latents["strength"]
    assert strength.sel(intervention="raw").values == pytest.approx(np.tile(LENGTHS[:, None], probes), rel=1e-5)
    calibrated = strength.sel(intervention="calibrated").values
    assert calibrated == pytest.approx(np.tile((LENGTHS * spread)[:, None], probes), rel=1e-5)
    away = np.abs(expected[:probes] - expected.mean(0)).T
    assert strength.sel(intervention="clamped").values == pytest.approx(away * LENGTHS[:, None], abs=1e-4)
    swapped = strength.sel(intervention="swapped").values / LENGTHS[:, None]
    steps = swapped[[0, 2]] / [[1], [2]]
    assert steps == pytest.approx(np.rint(steps), abs=1e-4)  # differences of two rows or two columns
    assert swapped[1] == pytest.approx(np.zeros(probes), abs=1e-5)
    change = latents["change"].values.reshape(3, -1)
    assert change == pytest.approx(mixing().numpy() * spread[:, None], rel=1e-4)
    brightness = latents["feature_change"].sel(feature="brightness").values
    assert brightness[2] == pytest.approx(np.full(probes, 0.5 * spread[2]), rel=1e-4)


def test_a_traversal_walks_one_latent_of_a_usual_image(tmp_path, monkeypatch) -> None:
    path = encode(linear_vae(), tmp_path, monkeypatch)
    pictures, kept = group(path, "pictures"), read_codes(path)
    assert pictures["original"].shape == pictures["reconstruction"].shape == (8, 8, 8, 1)
    assert pictures["original"].dtype == np.uint8
    assert pictures["traversal"].shape == (3, 7, 8, 8, 1)
    assert pictures["traversal_at"].values[0] == pytest.approx(np.linspace(-2, 2, 7))
    assert kept.deviation is not None
    assert kept.mean is not None
    nearest = np.square((kept.mean - kept.mean.mean(0)) / kept.deviation).sum(1).argmin()
    walked = np.tile(kept.mean[nearest], (7, 1))
    walked[:, 2] = kept.mean[:, 2].mean() + np.linspace(-2, 2, 7) * kept.deviation[2]
    decoded = np.clip(walked @ mixing().numpy() + 0.25, 0, 1) * 255
    found = pictures["traversal"].values[2].reshape(7, -1).astype(float)
    assert np.abs(found - decoded).max() <= 0.51


def of_a_factor(path, family: str, factor: str, moved: np.ndarray) -> None:
    root = xr.Dataset({"moved": (("pair", "latent"), moved)})
    root.attrs = {"data": "bars", "family": family, "vae_seed": 3, "factor": factor}
    write_store(path, xr.DataTree.from_dict({"/": root}))


def test_the_table_of_latents_says_what_the_mixing_says(tmp_path, monkeypatch) -> None:
    path = encode(linear_vae(), tmp_path, monkeypatch)
    of_a_factor(tmp_path / "row.zarr.zip", "vae", "row", np.array([[0.0, 0, 1], [0.0, 0, -3]]))
    of_a_factor(tmp_path / "column.zarr.zip", "vae", "column", np.array([[1.0, 0, 2], [-1.0, 0, 2]]))
    factors = [tmp_path / "row.zarr.zip", tmp_path / "column.zarr.zip"]
    account.latents_table([path], factors, tmp_path / "latents.csv", measures=VaeMeasures(draws=200))
    table = LATENTS.read(tmp_path / "latents.csv")
    assert table["active"].tolist() == [True, False, True]
    assert table["raw"].tolist() == pytest.approx(LENGTHS.tolist())
    assert table["raw_low"].tolist() == pytest.approx(LENGTHS.tolist())  # all images alike
    assert table["per_pixel"].tolist() == pytest.approx((LENGTHS / 8).tolist())
    assert table["calibrated"].tolist() == pytest.approx((LENGTHS * table["deviation"] / 8).tolist(), rel=1e-4)
    assert table["bounded"].tolist() == pytest.approx([1, 1 - math.log(4) / math.log(64), 0], abs=1e-6)
    assert table["specificity"][1:].tolist() == pytest.approx([1 / math.log(4), 1 / math.log(64)], rel=1e-4)
    assert table["specificity"][0] > 1e6  # the published formula has no upper end
    assert table["factor"].tolist()[0] == "column"
    assert table["over_factors"].tolist()[0] == pytest.approx(1)
    assert table["over_factors"].tolist()[2] == pytest.approx(0)  # moved by 2 by either
    assert pd.isna(table["over_factors"][1])  # nothing moves it
    account.latents_table([path], [], tmp_path / "alone.csv", measures=VaeMeasures(draws=200))
    alone = LATENTS.read(tmp_path / "alone.csv")
    assert alone[["factor", "over_factors"]].isna().all(axis=None)
    account.latents_table([], [], tmp_path / "none.csv", measures=VaeMeasures())
    assert LATENTS.read(tmp_path / "none.csv").empty


def test_the_table_of_models_says_what_their_records_say(tmp_path, images, settings) -> None:
    from diffmech.vae.families import build_vae

    paths = []
    for kind in ("vae", "vq_vae"):
        config = settings(kind)
        found = quality(build_vae((1, 8, 8), config).eval(), images.images)
        path = tmp_path / "bars" / kind / "1" / "vae.json"
        content = {
            "config": config.canonical(),
            "quality": found.record(),
            "training": {"seconds": 2.5},
            "parameters": 7,
        }
        write_json(path, content)
        paths.append(path)
    account.models_table(paths, tmp_path / "models.csv")
    table = MODELS.read(tmp_path / "models.csv")
    assert table["family"].tolist() == ["vae", "vq_vae"]
    assert table["vae_seed"].tolist() == [1, 1]
    assert table["latents"].tolist()[0] == 3
    assert table["latents"].isna().tolist() == table["active_latents"].isna().tolist() == [False, True]
    assert table["codes_in_use"].isna().tolist() == [True, False]
    assert table["steps"].tolist() == [5, 5]
    assert not table["learned"].any()  # their weights are random


@pytest.mark.parametrize(
    ("reconstruction", "active", "likelihood", "learned"),
    [
        (49.0, [True, True, False], "bernoulli", True),
        (51.0, [True, True, False], "bernoulli", False),
        (49.0, [True, False, False], "bernoulli", False),
        (49.0, None, "bernoulli", True),
        (51.0, [True, True], "gaussian", True),
        (101.0, [True, True], "gaussian", False),
    ],
)
def test_what_has_learned_saves_half_of_the_nats_and_uses_two_latents(reconstruction, active, likelihood, learned):
    found = {"reconstruction": reconstruction, "mean_image": 100.0, "active": active}
    assert has_learned(found, likelihood) == learned


def test_no_vaes_make_an_empty_table(tmp_path) -> None:
    account.models_table([], tmp_path / "none.csv")
    assert MODELS.read(tmp_path / "none.csv").empty


def test_a_vae_is_told_by_its_path(tmp_path) -> None:
    assert which_vae("results/vae/sprites/beta_vae/12") == ("sprites", "beta_vae", 12)
    for odd in ("results/vae/sprites/beta_vae", "7"):
        with pytest.raises(StoreError, match="is no folder of a VAE; give one that ends in data set, family and seed"):
            which_vae(odd)


def test_stores_that_are_not_whole_are_named(tmp_path, monkeypatch) -> None:
    told = {"data": "bars", "family": "vae", "vae_seed": 1, "continuous": True}
    write_store(tmp_path / "untold.zarr.zip", xr.DataTree.from_dict({"/": xr.Dataset({"a": 1})}))
    with pytest.raises(StoreError, match=r"does not say of which VAE it is \(data, family, vae_seed"):
        identified(tmp_path / "untold.zarr.zip")
    write_store(tmp_path / "empty.zarr.zip", xr.DataTree.from_dict({"/": xr.Dataset({"a": 1}, attrs=told)}))
    with pytest.raises(StoreError, match=r"holds no codes, .* is missing; let the workflow encode the images"):
        read_codes(tmp_path / "empty.zarr.zip")
    with pytest.raises(StoreError, match="has no group 'latents', only none; delete the store and let its job run"):
        group(tmp_path / "empty.zarr.zip", "latents")
    write_json(tmp_path / "vae.json", {"config": {}})
    with pytest.raises(StoreError, match=r"its vae\.json lacks parts of the record; delete it and let the VAE"):
        record(tmp_path)


def test_all_vaes_of_a_data_set_are_asked_of_the_same_images(tmp_path, monkeypatch) -> None:
    first = read_codes(encode(linear_vae(), tmp_path, monkeypatch))
    again = read_codes(encode(linear_vae(), tmp_path, monkeypatch, family="beta_vae"))
    assert np.array_equal(first.values, again.values)
    other = codes.drawn(Bars(), VaeMeasures(images=400, seed=1))
    assert not np.array_equal(first.values, other.values)
