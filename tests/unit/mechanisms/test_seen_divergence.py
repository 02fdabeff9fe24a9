"""Seen and unseen images of one domain: what is planted is found, and what is not there is found at its level."""

import numpy as np
import pandas as pd
import pytest
from planted_captures import SITE, PlantedSite, softmax, write_capture

from diffmech.config.analysis import EntropyConfig
from diffmech.mechanisms.seen_divergence import FEWEST, seen_divergence, seen_divergence_table
from diffmech.mechanisms.tables import SEEN_DIVERGENCE

SETTINGS = EntropyConfig(draws=200, permutations=400)
TIMESTEPS = (100, 900)
KINDS = np.array(["self", "self", "cross"])


def entropies(rng, n):
    """Return entropies (sample, timestep, head) of images that differ from each other, heads alike."""
    return 3 + 0.3 * rng.normal(size=(n, 1, 1)) + 0.2 * rng.normal(size=(n, len(TIMESTEPS), len(KINDS)))


def test_a_planted_difference_is_measured_at_its_size():
    rng = np.random.default_rng(0)
    seen = np.arange(4000) % 5 != 4
    values = entropies(rng, 4000)
    values[seen] += np.array([[0.4, -0.2, 0.0], [0.0, 0.0, 0.3]])
    table = seen_divergence_table(values, seen, KINDS, TIMESTEPS, entropy=SETTINGS, seed=0)
    found = table.set_index(["timestep", "kind"])
    assert found.loc[(100, "self"), "divergence"] == pytest.approx(0.3, abs=0.03)
    assert found.loc[(900, "cross"), "divergence"] == pytest.approx(0.3, abs=0.03)
    for place in ((100, "self"), (900, "cross")):
        assert found.loc[place, "low"] <= 0.3 <= found.loc[place, "high"]
        assert found.loc[place, "p"] == pytest.approx(1 / 401)
    assert set(table["n_seen"]) == {3200}
    assert set(table["n_unseen"]) == {800}


def test_where_nothing_differs_p_is_as_often_small_as_it_says():
    # 600 studies of 80 + 20 images; of p at or below 0.05, 30 are expected, give or take 5.3
    rng, small = np.random.default_rng(1), 0
    settings = EntropyConfig(draws=10, permutations=199)
    seen = np.arange(100) % 5 != 4
    for study in range(600):
        table = seen_divergence_table(entropies(rng, 100), seen, KINDS, TIMESTEPS, entropy=settings, seed=study)
        small += table["p"].iloc[0] <= 0.05
    assert 14 <= small <= 47


def write_images(path, n, domain):
    rng = np.random.default_rng(len(domain))
    p = softmax(rng.normal(size=(n, len(TIMESTEPS), 2, 16, 16)))
    return write_capture(path, {SITE: PlantedSite(p, "self")}, timesteps=TIMESTEPS, domain=domain)


def listed(path, **domains):
    rows = [(domain, i, value) for domain, seen in domains.items() for i, value in enumerate(seen)]
    pd.DataFrame(rows, columns=["domain", "sample", "seen"]).to_csv(path, index=False)
    return path


def test_only_domains_with_enough_of_both_have_rows(tmp_path):
    attention = {domain: [write_images(tmp_path / f"{domain}.zarr.zip", 24, domain)] for domain in ("real", "drawn")}
    mixed = [i % 3 != 2 for i in range(24)]
    few = [i >= FEWEST - 1 for i in range(24)]
    out = tmp_path / "out.csv"
    seen_divergence(attention, listed(tmp_path / "s.csv", real=mixed, drawn=few), out, entropy=SETTINGS, seed=0)
    table = pd.read_csv(out)
    assert list(table) == list(SEEN_DIVERGENCE.columns)
    assert set(table["domain"]) == {"real"}
    assert (table["n_seen"].unique(), table["n_unseen"].unique()) == (16, 8)
    assert (table["p_holm"] >= table["p"]).all()
    for nothing in ({"drawn": few}, {}, {"real": [True] * 24, "drawn": [False] * 24}):
        seen_divergence(attention, listed(tmp_path / "s.csv", **nothing), out, entropy=SETTINGS, seed=0)
        assert pd.read_csv(out).empty


def test_images_are_told_by_their_number_not_their_place(tmp_path):
    attention = {"real": [write_images(tmp_path / "real.zarr.zip", 20, "real")]}
    seen = [i % 2 == 0 for i in range(20)]
    tables = []
    for order in (range(20), reversed(range(20))):
        listed(tmp_path / "s.csv", real=seen)
        pd.read_csv(tmp_path / "s.csv").iloc[list(order)].to_csv(tmp_path / "s.csv", index=False)
        seen_divergence(attention, tmp_path / "s.csv", tmp_path / "out.csv", entropy=SETTINGS, seed=0)
        tables.append(pd.read_csv(tmp_path / "out.csv"))
    pd.testing.assert_frame_equal(*tables)
