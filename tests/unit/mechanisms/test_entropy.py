"""Entropy and its divergence: closed forms, and what an untrained model must not show."""

import numpy as np
import pandas as pd
import pytest
from planted_captures import CROSS, SITE, PlantedSite, softmax, write_capture

import diffmech.mechanisms.entropy
from diffmech.config.analysis import EntropyConfig
from diffmech.config.study import NOTHING
from diffmech.errors import StoreError
from diffmech.mechanisms.entropy import against_untrained, attention_entropy, divergence_table
from diffmech.mechanisms.factorial import entropy_factorial
from diffmech.statistics.multiplicity import holm

TIMESTEPS = (100, 500, 900)
SETTINGS = EntropyConfig(draws=400, permutations=400)


def entropy_divergence(captures, untrained, output, *, entropy, seed):
    """Write the divergence of images that are told nothing."""
    copies = {NOTHING: {domain: [path] for domain, path in untrained.items()}}
    by_head = output.with_name(f"{output.name}.heads")
    domains = list(captures)
    entropy_factorial({NOTHING: captures}, copies, output, by_head, domains=domains, entropy=entropy, seed=seed)


def random_sites(rng, shape, sharpness, heads=3):
    return {
        SITE: PlantedSite(softmax(sharpness * rng.normal(size=(*shape, len(TIMESTEPS), heads, 16, 16))), "self"),
        CROSS: PlantedSite(softmax(sharpness * rng.normal(size=(*shape, len(TIMESTEPS), heads, 16, 3))), "cross"),
    }


def write_study(folder, rng, sharpness, *, samples=24, twins=19, seen=8, untrained_sharpness=(0.3, 0.3)):
    captures, untrained = {}, {}
    for domain, sharp, dull in zip(("real", "synthetic"), sharpness, untrained_sharpness, strict=True):
        captures[domain] = [
            write_capture(folder / f"{domain}.zarr.zip", random_sites(rng, (samples,), sharp), timesteps=TIMESTEPS)
        ]
        untrained[domain] = write_capture(
            folder / f"{domain}.twins.zarr.zip",
            random_sites(rng, (twins, seen), dull),
            timesteps=TIMESTEPS,
            twins=True,
        )
    return captures, untrained


def test_uniform_attention_has_the_entropy_of_its_number_of_keys(tmp_path):
    captures, untrained = write_study(tmp_path, np.random.default_rng(0), (0.0, 0.0), samples=4, twins=2, seen=2)
    attention_entropy(captures, untrained, tmp_path / "heads.csv", entropy=SETTINGS, seed=0)
    table = pd.read_csv(tmp_path / "heads.csv")
    keys = table["kind"].map({"self": 16, "cross": 3})
    assert len(table) == 2 * 6 * len(TIMESTEPS)
    np.testing.assert_allclose(table["entropy"], np.log(keys), rtol=1e-5)
    np.testing.assert_allclose(table["effective_keys"], keys, rtol=1e-5)
    np.testing.assert_allclose(table["normalised"], 1, rtol=1e-5)
    assert (table["untrained_low"] <= table["untrained_entropy"]).all()
    assert (table["untrained_high"] <= table["h_max"] + 1e-5).all()
    assert (table["n"] == 4).all()


def test_entropy_table_agrees_with_the_probabilities_it_came_from(tmp_path):
    rng = np.random.default_rng(1)
    sites = random_sites(rng, (6,), 2.0)
    capture = write_capture(tmp_path / "a.zarr.zip", sites, timesteps=TIMESTEPS)
    twins = write_capture(tmp_path / "t.zarr.zip", random_sites(rng, (3, 2), 0.1), timesteps=TIMESTEPS, twins=True)
    attention_entropy(
        {"real": [capture], "synthetic": [capture]},
        {"real": twins, "synthetic": twins},
        tmp_path / "heads.csv",
        entropy=SETTINGS,
        seed=0,
    )
    table = pd.read_csv(tmp_path / "heads.csv").set_index(["domain", "head", "timestep"])
    p = sites[SITE].p
    expected = -(p * np.log(p)).sum(-1).mean(-1)  # (sample, timestep, head)
    row = table.loc[("synthetic", f"{SITE}.h02", 500)]
    assert row["entropy"] == pytest.approx(expected[:, 1, 2].mean(), rel=1e-5)
    assert row["effective_keys"] == pytest.approx(np.exp(expected[:, 1, 2]).mean(), rel=1e-5)
    assert row["low"] < row["entropy"] < row["high"]


def test_divergence_finds_domains_that_differ_and_its_interval_holds_the_truth(tmp_path):
    captures, untrained = write_study(tmp_path, np.random.default_rng(2), (1.0, 1.6))
    entropy_divergence(captures, untrained, tmp_path / "d.csv", entropy=SETTINGS, seed=0)
    table = pd.read_csv(tmp_path / "d.csv")
    # never of all heads together: the bounds of self- and cross-attention differ
    assert list(table["kind"]) == ["self", "cross"] * len(TIMESTEPS)
    assert table["significant"].all()
    assert (table["floor_high"] < table["divergence"]).all()
    assert (table["jensen_shannon"] > table["jensen_shannon_floor"]).all()
    assert ((table["low"] < table["divergence"]) & (table["divergence"] < table["high"])).all()
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]), rtol=1e-5)  # over timesteps and kinds together


def test_difference_that_untrained_models_show_too_is_not_significant(tmp_path):
    captures, untrained = write_study(
        tmp_path, np.random.default_rng(3), (1.0, 1.6), untrained_sharpness=(1.0, 1.6), samples=16
    )
    entropy_divergence(captures, untrained, tmp_path / "d.csv", entropy=SETTINGS, seed=0)
    table = pd.read_csv(tmp_path / "d.csv")
    assert (table["p_holm"] < 0.05).all()
    assert not table["significant"].any()


def test_untrained_model_as_the_study_is_found_different_no_more_often_than_alpha():
    """Over two kinds on scales of their own; 2,000 studies tell 0.05 from 0.1 by ten standard errors."""
    rng = np.random.default_rng(4)
    studies, alpha, found, apart = 2000, 0.05, 0, 0
    for _ in range(studies):
        models = np.abs(rng.normal(size=(20, 6, 2))) * rng.gamma(2.0, size=(20, 1, 2)) * [1, 100]
        p, _ = against_untrained(models[0], models[1:], alpha)
        found += bool((p <= alpha).any())
        apart += any(
            (against_untrained(models[0, :, k : k + 1], models[1:, :, k : k + 1], alpha)[0] <= alpha).any()
            for k in (0, 1)
        )
    assert abs(found / studies - alpha) < 3 * np.sqrt(alpha * (1 - alpha) / studies)
    assert apart / studies > 0.08  # where each kind is corrected by itself


KINDS = np.repeat(["self", "cross"], [4, 2])
FEW = EntropyConfig(draws=2, permutations=199)


@pytest.fixture
def hasty(monkeypatch):
    """No floor of the Jensen-Shannon divergence, which decides nothing and costs most."""
    monkeypatch.setattr(diffmech.mechanisms.entropy, "FLOOR_PERMUTATIONS", 1)


def simulated(rng, difference=0.0, *, images=12, timesteps=2, twins=19, twins_differ=0.0, twins_scatter=1.0):
    """Return the table of one study whose domains differ by `difference` in the entropy of every head."""
    shape = (images, timesteps, len(KINDS))
    values = {name: rng.gumbel(0, 0.3, shape) + sign * difference / 2 for name, sign in (("a", 1), ("b", -1))}
    scatter = twins_scatter * 0.39 / np.sqrt(images)
    copies = {
        name: rng.normal(sign * twins_differ / 2, scatter, (twins, *shape[1:])) for name, sign in (("a", 1), ("b", -1))
    }
    seen = {name: np.arange(images) for name in values}
    return divergence_table(values, copies, seen, KINDS, [100, 500][:timesteps], entropy=FEW, seed=0)


def test_the_card_finds_a_divergence_in_no_more_studies_than_alpha(hasty):
    """Shuffled labels alone decide here: copies hardly scatter. 400 studies tell 0.05 from 0.1 by 4 standard errors."""
    rng, studies, alpha = np.random.default_rng(9), 400, 0.05
    tables = [simulated(rng, twins_scatter=0.01) for _ in range(studies)]
    assert all((table["p_untrained"] <= alpha).all() for table in tables)
    assert np.mean([(table["p"] <= alpha).any() for table in tables]) > 2 * alpha
    found = np.mean([table["significant"].any() for table in tables])
    assert found <= alpha + 2.5 * np.sqrt(alpha * (1 - alpha) / studies)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_the_smallest_divergence_is_found_at_least_four_times_in_five(kind, hasty):
    rng = np.random.default_rng(10)

    def of_kind(table):
        return table[table["kind"] == kind]

    least = np.median([of_kind(simulated(rng))["smallest"] for _ in range(30)])
    found = np.mean([of_kind(simulated(rng, least))["significant"] for _ in range(100)])
    assert found >= 0.78
    assert np.mean([of_kind(simulated(rng, least / 2))["significant"] for _ in range(50)]) < 0.6
    assert np.isinf(simulated(rng, twins=18)["smallest"]).all()


def test_a_share_of_the_bound_is_the_mean_of_the_shares_of_heads():
    """Not a ratio of means over bounds, which differ: within a kind too, where layers have other numbers of keys."""
    bounds = np.array([np.log(256), np.log(4), 1.0])
    differences = np.array([0.1, 0.3, 0.2]) * bounds
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, (8, 1, 3))
    values = {"a": noise + differences, "b": noise}
    table = divergence_table(
        values,
        {name: np.zeros((19, 1, 3)) for name in values},
        {name: np.arange(8) for name in values},
        np.array(["self", "self", "cross"]),
        [100],
        entropy=FEW,
        seed=0,
        bounds=bounds,
    ).set_index("kind")
    assert table["share"].to_dict() == pytest.approx({"self": (0.1 + 0.3) / 2, "cross": 0.2})


def test_what_so_few_images_and_permutations_can_reach_is_told():
    table = simulated(np.random.default_rng(0), images=3)
    assert table["p_least"].to_numpy() == pytest.approx(4 * (1 + 199 * 2 / 20) / 200)


def test_domains_of_one_distribution_stay_within_the_floor(tmp_path):
    captures, untrained = write_study(tmp_path, np.random.default_rng(5), (1.0, 1.0), samples=12, twins=2, seen=2)
    entropy_divergence(captures, untrained, tmp_path / "d.csv", entropy=SETTINGS, seed=0)
    table = pd.read_csv(tmp_path / "d.csv")
    assert (table["p_holm"] > 0.05).all()
    assert (table["divergence"] < 2 * table["floor"]).all()
    assert not table["significant"].any()


def test_tables_are_the_same_bytes_on_every_run(tmp_path):
    captures, untrained = write_study(tmp_path, np.random.default_rng(6), (1.0, 1.2), samples=6, twins=3, seen=2)
    for compute in (attention_entropy, entropy_divergence):
        for name in ("first.csv", "second.csv"):
            compute(captures, untrained, tmp_path / name, entropy=SETTINGS, seed=7)
        assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()


def test_captures_of_other_timesteps_are_refused_by_name(tmp_path):
    captures, untrained = write_study(tmp_path, np.random.default_rng(7), (1.0, 1.0), samples=3, twins=2, seen=2)
    rng = np.random.default_rng(8)
    sites = random_sites(rng, (2, 2), 0.1)
    untrained["real"] = write_capture(tmp_path / "odd.zarr.zip", sites, timesteps=(1, 2, 3), twins=True)
    with pytest.raises(StoreError, match=r"odd\.zarr\.zip: the untrained twins lack"):
        entropy_divergence(captures, untrained, tmp_path / "d.csv", entropy=SETTINGS, seed=0)
    captures["synthetic"] = [
        write_capture(tmp_path / "other.zarr.zip", random_sites(rng, (3,), 1), timesteps=(1, 2, 3))
    ]
    with pytest.raises(
        StoreError, match="captures of 'synthetic' and 'real' differ in sites or timesteps; capture both"
    ):
        entropy_divergence(captures, untrained, tmp_path / "d.csv", entropy=SETTINGS, seed=0)
    assert not (tmp_path / "d.csv").exists()
