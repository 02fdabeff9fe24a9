"""Families over seeds and effect strength beside disentanglement, against scipy and counting by hand."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from diffmech.config.studies.vae import VaeMeasures
from diffmech.config.vae import BetaVae, PlainVae, VqVae
from diffmech.statistics.bootstrap import resampling_weights
from diffmech.vae.comparison import COMPARED, RELATED, STRENGTHS, compare, families_table, relation, relation_table
from diffmech.vae.disentanglement import MEASURES
from diffmech.vae.tables import FAMILIES, LATENTS, MODELS, RELATION, SCORES

FEW = VaeMeasures(draws=500, permutations=500)
FAMILY = {"plain": PlainVae(), "beta": BetaVae(), "vq": VqVae()}
DCI = {("plain", 0): 0.1, ("plain", 1): 0.2, ("plain", 2): 0.15, ("beta", 0): 0.5, ("beta", 1): 0.4, ("beta", 2): 0.55}
STRENGTH = {of: 5 - 4 * score for of, score in DCI.items()}


def test_a_difference_is_that_of_welch_s_t() -> None:
    source = np.random.default_rng(0)
    for n, others in ((3, 3), (5, 2), (2, 4)):
        a, b = source.normal(1, 2, n), source.normal(0, 1, others)
        found = compare(a, b, FEW)
        known = stats.ttest_ind(a, b, equal_var=False)
        assert found["p"] == pytest.approx(known.pvalue)
        ends = known.confidence_interval(0.95)
        assert (found["difference_low"], found["difference_high"]) == pytest.approx((ends.low, ends.high))
        own = stats.ttest_1samp(a, 0).confidence_interval(0.95)
        assert (found["low"], found["high"]) == pytest.approx((own.low, own.high))


def test_one_seed_has_no_interval_and_equal_seeds_no_test() -> None:
    one = compare(np.array([1.0]), np.array([0.5, 0.7]), FEW)
    assert (one["mean"], one["difference"]) == (1, pytest.approx(0.4))
    assert np.isnan([one[name] for name in ("low", "high", "difference_low", "difference_high", "p")]).all()
    alike = compare(np.array([4.0, 4.0]), np.array([5.0, 5.0]), FEW)
    assert (alike["low"], alike["high"], alike["difference"]) == (4, 4, -1)
    assert math.isnan(alike["p"])
    nothing = compare(np.array([]), np.array([]), FEW)
    assert all(math.isnan(value) for value in nothing.values())


def test_two_groups_of_one_distribution_differ_as_seldom_as_alpha_says() -> None:
    source = np.random.default_rng(1)
    p = [compare(source.normal(size=3), source.normal(size=3), FEW)["p"] for _ in range(1000)]
    assert np.mean(np.array(p) <= 0.05) < 0.07


def test_a_correlation_is_spearman_s_and_its_p_that_of_all_permutations() -> None:
    source = np.random.default_rng(2)
    first = np.round(source.normal(size=6), 1)
    second = np.round(-first + source.normal(size=6), 1)
    names = np.array(["a", "a", "a", "b", "b", "b"])
    found = relation(first, second, names, VaeMeasures(draws=300, permutations=5000))
    assert found["correlation"] == pytest.approx(stats.spearmanr(first, second).statistic)
    every = np.array([stats.spearmanr(first, second[list(order)]).statistic for order in permutations(range(6))])
    exact = (np.abs(every) >= abs(found["correlation"]) - 1e-9).mean()
    assert found["p"] == pytest.approx(exact, abs=0.03)
    assert found["low"] <= found["correlation"] <= found["high"]
    inner = [stats.rankdata(part[names == name]) - 2 for part in (first, second) for name in "ab"]
    within = stats.pearsonr(np.concatenate(inner[:2]), np.concatenate(inner[2:])).statistic
    assert found["within"] == pytest.approx(within)


def test_a_relation_between_families_alone_is_none_within_them() -> None:
    source = np.random.default_rng(3)
    group = np.repeat([0.0, 10.0, 20.0], 8)
    found = relation(group + source.normal(size=24), -group + source.normal(size=24), group.astype(str), FEW)
    assert found["correlation"] < -0.75
    assert found["p"] < 0.01
    assert abs(found["within"]) < 0.45


def test_too_few_vaes_or_values_that_never_differ_have_no_correlation() -> None:
    for first in (np.array([1.0, 2, 3]), np.ones(6)):
        found = relation(first, np.arange(len(first)), np.full(len(first), "a"), FEW)
        assert math.isnan(found["correlation"])
        assert math.isnan(found["p"])
        assert found["n"] == len(first)


def written(folder):
    """Write the tables that are compared, of a study whose numbers are known."""
    scores = []
    for family, seed in [*DCI, ("vq", 0), ("vq", 1)]:
        path = folder / "sprites" / family / str(seed) / "scores.csv"
        of_dci = DCI.get((family, seed), math.nan)
        values = {**dict.fromkeys(MEASURES, of_dci), "mig": 0.3 if family == "vq" else of_dci / 2}
        rows = [(name, value, math.nan, math.nan, math.nan, "") for name, value in values.items()]
        SCORES.write(path, SCORES.frame(rows))
        scores.append(path)
    latents = []
    for (family, seed), strength in STRENGTH.items():
        for latent, active in enumerate((True, True, False)):
            row = dict.fromkeys(LATENTS.columns, 0.0)
            raw = strength + (latent - 0.5 if active else 100)  # one that is not active does not count
            numbers = {"raw": raw, "per_pixel": raw / 32, "calibrated": raw / 64, "factor": "x", "active": active}
            latents.append({**row, "family": family, "vae_seed": seed, "latent": latent, **numbers})
    LATENTS.write(folder / "latents.csv", LATENTS.frame(latents))
    models = []
    for family, seed in [*DCI, ("vq", 0), ("vq", 1)]:
        row = {**dict.fromkeys(MODELS.columns, 1), "family": family, "vae_seed": seed, "reconstruction": 20.0 + seed}
        models.append({**row, "active_latents": None if family == "vq" else 5, "learned": True})
    MODELS.write(folder / "models.csv", MODELS.frame(models))
    return scores, folder / "models.csv", folder / "latents.csv"


def test_the_table_of_families_is_what_its_inputs_say(tmp_path) -> None:
    families_table(*written(tmp_path), tmp_path / "families.csv", families=FAMILY, measures=FEW)
    table = FAMILIES.read(tmp_path / "families.csv").set_index(["measure", "family"])
    assert len(table) == len(COMPARED) * 3
    plain, beta = (np.array([value for (name, _), value in DCI.items() if name == of]) for of in ("plain", "beta"))
    row = table.loc["dci_disentanglement", "beta"]
    assert row["mean"] == pytest.approx(beta.mean(), rel=1e-5)
    assert row["difference"] == pytest.approx(beta.mean() - plain.mean(), rel=1e-5)
    assert row["p"] == pytest.approx(stats.ttest_ind(beta, plain, equal_var=False).pvalue, rel=1e-4)
    assert row["p_corrected"] == row["p"]  # the only family that has this score and is not the plain VAE
    assert table.loc["dci_disentanglement", "plain"][["difference", "p"]].isna().all()
    assert table.loc["dci_disentanglement", "vq"][["mean", "p"]].isna().all()
    assert table["n"]["dci_disentanglement", "vq"] == 0
    assert table["mean"]["mig", "vq"] == pytest.approx(0.3)
    p = table["p"]["reconstruction"]
    smaller, larger = sorted(p.dropna())
    corrected = sorted(table["p_corrected"]["reconstruction"].dropna())
    assert corrected == pytest.approx([1 - (1 - smaller) ** 2, max(1 - (1 - smaller) ** 2, larger)], rel=1e-4)
    strengths = np.array([value for (name, _), value in STRENGTH.items() if name == "beta"])
    assert table["mean"]["raw_strength", "beta"] == pytest.approx(strengths.mean(), rel=1e-5)
    assert table["mean"]["calibrated_strength", "beta"] == pytest.approx(strengths.mean() / 64, rel=1e-5)
    assert math.isnan(table["mean"]["raw_strength", "vq"])
    assert table["mean"]["active_latents", "plain"] == 5


def test_the_relation_is_over_vaes_that_have_both(tmp_path) -> None:
    scores, models, latents = written(tmp_path)
    relation_table(scores, models, latents, tmp_path / "relation.csv", measures=FEW)
    table = RELATION.read(tmp_path / "relation.csv")
    assert len(table) == len(STRENGTHS) * len(RELATED)
    assert (table["n"] == 6).all()
    assert table["correlation"].tolist() == pytest.approx([-1] * 6)
    assert table["within"].tolist() == pytest.approx([-1] * 6)
    failed = MODELS.read(models)
    MODELS.write(models, failed.assign(learned=(failed["family"] != "beta") | (failed["vae_seed"] != 0)))
    relation_table(scores, models, latents, tmp_path / "relation.csv", measures=FEW)
    assert (RELATION.read(tmp_path / "relation.csv")["n"] == 5).all()


def test_without_a_plain_vae_nothing_is_compared_and_without_vaes_nothing_is_found(tmp_path) -> None:
    scores, models, latents = written(tmp_path)
    families_table(scores, models, latents, tmp_path / "f.csv", families={"beta": BetaVae()}, measures=FEW)
    assert FAMILIES.read(tmp_path / "f.csv")["p"].isna().all()
    LATENTS.write(tmp_path / "none.csv", LATENTS.frame())
    relation_table([], models, tmp_path / "none.csv", tmp_path / "r.csv", measures=FEW)
    assert (RELATION.read(tmp_path / "r.csv")["n"] == 0).all()


@pytest.mark.parametrize("confidence", [0.95, 0.6])
def test_the_interval_of_a_correlation_is_that_of_spearman_s_of_each_resample(confidence) -> None:
    source = np.random.default_rng(4)
    first = source.normal(size=12)
    second = first + 2 * np.exp(source.normal(size=12))
    measures = VaeMeasures(draws=400, permutations=100, confidence=confidence)
    found = relation(first, second, np.full(12, "a"), measures)
    every = []
    for weights in resampling_weights(12, 400, measures.seed):
        rows = np.repeat(np.arange(12), np.rint(12 * weights).astype(int))
        every.append(stats.spearmanr(first[rows], second[rows]).statistic)
    ends = np.percentile(every, [50 * (1 - confidence), 50 * (1 + confidence)])
    assert [found["low"], found["high"]] == pytest.approx(ends)
