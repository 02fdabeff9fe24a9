"""Measures of disentanglement on codes whose scores are known, and beside a few lines that compute them otherwise."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import mutual_info_score
from sklearn.preprocessing import KBinsDiscretizer
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from diffmech.errors import DataError
from diffmech.vae.metrics.dci import concentration, dci, weighted_mean
from diffmech.vae.metrics.factor_vae import factor_vae_score
from diffmech.vae.metrics.infomec import dominance, infomec
from diffmech.vae.metrics.mig import mig, mutual_information
from diffmech.vae.metrics.representation import Representation, bins, floor
from diffmech.vae.metrics.sap import sap

SIZES = (3, 4, 5)
NAMES = ("shape", "scale", "place")
DISCRETE = (False, False, False)


def grid(repeats: int = 10) -> np.ndarray:
    """All combinations of factors of these sizes, equally often, `(sample, factor)`: they are independent."""
    values = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), -1).reshape(-1, 3)
    return np.repeat(values, repeats, axis=0).astype(np.float64)


def represented(codes: np.ndarray, continuous: tuple[bool, ...] = DISCRETE, kind: str = "means") -> Representation:
    factors = grid(len(codes) // math.prod(SIZES))
    return Representation(codes, factors, NAMES, continuous, kind)


def permuted_identity() -> np.ndarray:
    return grid()[:, [2, 0, 1]] * [0.1, -3.0, 1.0] + [1.0, 0.0, -2.0]


def noise(latents: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((600, latents))


def mixed(seed: int = 0) -> np.ndarray:
    """Codes that know something of several factors each."""
    turn = np.random.default_rng(seed).standard_normal((3, 4))
    return grid() @ turn + 0.3 * noise(4, seed)


# The largest values there are.


def test_a_permuted_identity_has_the_largest_mutual_information_gap() -> None:
    found = mig(represented(permuted_identity()))
    assert found.score == pytest.approx(1, abs=1e-12)
    assert found.entropies == pytest.approx(np.log(SIZES))
    assert np.argmax(found.information, axis=0).tolist() == [1, 2, 0]


@pytest.mark.parametrize("regressor", ["boosted_trees", "lasso"])
@pytest.mark.parametrize("continuous", [DISCRETE, (True, True, True)])
def test_a_permuted_identity_has_the_largest_dci(regressor: str, continuous: tuple[bool, ...]) -> None:
    found = dci(represented(permuted_identity(), continuous), regressor=regressor)
    if regressor == "lasso" and not continuous[0]:
        # a class between others is no line of its code, so nothing predicts it; what is relied on is still one latent
        assert found.disentanglement > 0.8
        return
    assert found.disentanglement == pytest.approx(1, abs=0.01)
    assert found.completeness == pytest.approx(1, abs=0.01)
    assert found.informativeness == pytest.approx(1, abs=0.01)


def test_a_permuted_identity_has_the_largest_sap() -> None:
    numbers = sap(represented(permuted_identity(), (True, True, True)))
    assert numbers.score == pytest.approx(1, abs=1e-12)
    classes = sap(represented(permuted_identity()))
    assert classes.predictability.max(0) == pytest.approx(np.ones(3))
    assert classes.gaps == pytest.approx(1 - 1 / np.array(SIZES), abs=0.08)  # others are right by chance


def test_a_permuted_identity_has_the_largest_infomec() -> None:
    found = infomec(represented(permuted_identity()))
    assert found.modularity == pytest.approx(1, abs=0.05)
    assert found.compactness == pytest.approx(1, abs=0.05)
    codes = infomec(represented(grid()[:, [2, 0, 1]], kind="codes"))
    assert (codes.modularity, codes.compactness) == (pytest.approx(1, abs=1e-9), pytest.approx(1, abs=1e-9))
    assert codes.explicitness == pytest.approx(1, abs=0.01)


def drawing(encode):
    """Codes of images whose factors are drawn evenly, with one of them fixed where asked for."""

    def draw(factor: int | None, count: int, source: np.random.Generator) -> np.ndarray:
        values = np.stack([source.integers(size, size=count) for size in SIZES], axis=1).astype(np.float64)
        if factor is not None:
            values[:, factor] = values[0, factor]
        return encode(values, source)

    return draw


def test_a_permuted_identity_has_the_largest_factor_vae_score() -> None:
    found = factor_vae_score(drawing(lambda values, _: values[:, [2, 0, 1]] * [0.1, 3, 1]), 3, votes=60)
    assert found.score == found.fit == 1
    assert found.votes.argmax(1).tolist() == [2, 0, 1]


# The smallest.


def test_codes_that_know_nothing_are_at_the_floor_of_every_measure() -> None:
    nothing = represented(noise())
    measures = {
        "mig": (lambda one: mig(one).score, 0.03),
        "sap": (lambda one: sap(one).score, 0.08),
        "lasso": (lambda one: dci(represented(one.codes, (True, True, True)), regressor="lasso").informativeness, 0.05),
        "explicitness": (lambda one: infomec(one).explicitness, 0.05),
    }
    for measure, highest in measures.values():
        null = floor(measure, nothing, draws=4)
        assert abs(measure(nothing)) < highest
        assert np.abs(null).max() < highest
    shares = infomec(nothing)  # of next to nothing: as large as those of codes that know something
    assert min(shares.modularity, shares.compactness) > 0.1
    knows = represented(permuted_identity())
    assert floor(lambda one: mig(one).score, knows, draws=5).max() < 0.05 < mig(knows).score


@pytest.mark.parametrize("number", [True, False])
def test_informativeness_is_of_images_that_nothing_was_fitted_on(number: bool) -> None:
    """Trees learn noise by heart: what they were fitted on is predicted well, and the rest not at all."""
    found = dci(Representation(noise(2)[:300], grid(5)[:, :1], NAMES[:1], (number,)))
    chance = 0 if number else 1 / 3
    assert found.fit[0] > chance + 0.4
    assert found.informativeness == found.prediction[0] < chance + 0.08  # R2 is below 0: what was learned misleads


def test_thresholds_are_scored_on_images_that_they_were_not_fitted_on() -> None:
    """Of few images thresholds fit noise: right in a third more cases than chance on these, and no more on others."""
    factors = grid(1)
    nothing = Representation(np.random.default_rng(0).standard_normal((60, 25)), factors, NAMES, DISCRETE)
    fitted, scored = nothing.halves(0)
    on_fitted, expected = np.zeros((25, 3)), np.zeros((25, 3))
    for latent, factor in np.ndindex(25, 3):
        code, classes = nothing.standardised()[:, [latent]], factors[:, factor]
        tree = DecisionTreeClassifier(max_leaf_nodes=SIZES[factor], class_weight="balanced", random_state=0)
        tree.fit(code[fitted], classes[fitted])
        on_fitted[latent, factor] = tree.score(code[fitted], classes[fitted])
        expected[latent, factor] = tree.score(code[scored], classes[scored])
    found = sap(nothing).predictability
    assert found == pytest.approx(expected)
    assert found.mean(0) == pytest.approx(1 / np.array(SIZES), abs=0.05)
    assert (on_fitted.mean(0) > found.mean(0) + 0.1).all()
    assert sap(represented(noise(2))).score < 0.05


def test_information_of_independent_codes_is_overestimated_as_the_expansion_says() -> None:
    """By (bins - 1) (classes - 1) / 2n nats (Miller 1955): what the floor is there to show."""
    source = np.random.default_rng(0)
    pairs = [(source.integers(10, size=2000), source.integers(5, size=2000)) for _ in range(200)]
    assert np.mean([mutual_information(*pair) for pair in pairs]) == pytest.approx(9 * 4 / 4000, rel=0.1)


def test_codes_that_know_nothing_are_right_by_chance_in_the_factor_vae_score() -> None:
    found = factor_vae_score(drawing(lambda values, source: source.standard_normal((len(values), 5))), 3, votes=400)
    assert found.score == pytest.approx(1 / 3, abs=0.06)
    assert found.fit >= found.score - 0.06


def test_collapsed_latents_are_not_named() -> None:
    def encode(values: np.ndarray, source: np.random.Generator) -> np.ndarray:
        return np.hstack([1e-3 * source.standard_normal((len(values), 1)), values])

    found = factor_vae_score(drawing(encode), 3, votes=40)
    assert found.active.tolist() == [False, True, True, True]
    assert found.score == 1
    nothing = factor_vae_score(drawing(lambda values, _: 0 * values), 3, votes=5)
    assert (nothing.score, nothing.active.any()) == (0, False)


# Codes in between.


def test_two_factors_in_one_latent_and_one_factor_in_two() -> None:
    factors = grid()
    both = represented(np.column_stack([factors[:, 0] + 3 * factors[:, 1], factors[:, 2], factors[:, 2]]))
    found = mig(both)
    assert found.gaps[2] == pytest.approx(0, abs=1e-12)
    assert found.gaps[:2] == pytest.approx([1, 1], abs=1e-12)  # a gap does not see that a latent knows two factors
    shares = np.array([[np.log(3), np.log(4), 0], [0, 0, 1], [0, 0, 1]])
    assert dominance(found.information / found.entropies, axis=1) == pytest.approx(((0.5 + 1 + 1) / 3 - 1 / 3) * 1.5)
    assert concentration(shares[1:], axis=0)[2] == 0
    importance = np.array([[1, 1, 0], [0, 0, 0.5], [0, 0, 0.5]])
    assert concentration(importance, axis=1) == pytest.approx([1 - np.log(2) / np.log(3), 1, 1])
    assert concentration(importance, axis=0) == pytest.approx([1, 1, 1 - np.log(2) / np.log(3)])
    assert weighted_mean(np.array([1.0, 0.0]), np.array([3.0, 1.0])) == 0.75
    assert weighted_mean(np.array([1.0, 0.0]), np.zeros(2)) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_do_not_depend_on_order_sign_or_unit_of_latents(seed: int) -> None:
    codes = mixed(seed)
    moved = codes[:, [3, 1, 0, 2]] * [5, -0.2, 1, -3] + [1, 2, 3, 4]
    for measure in (
        lambda one: mig(one).score,
        lambda one: sap(one).score,
        lambda one: sap(one, classifier="linear").score,
        lambda one: sap(represented(one.codes, (True, True, True))).score,
        lambda one: dci(represented(one.codes, (True, True, True)), regressor="lasso").disentanglement,
        lambda one: infomec(one).explicitness,
    ):
        assert measure(represented(moved)) == pytest.approx(measure(represented(codes)), abs=0.02)


# The same numbers, computed otherwise.


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gap_is_that_of_scikit_learn_s_information(seed: int) -> None:
    codes, factors = mixed(seed), grid()
    cut = KBinsDiscretizer(20, encode="ordinal", strategy="uniform", subsample=None).fit_transform(codes)
    known = np.array([[mutual_info_score(code, factor) for factor in factors.T] for code in cut.T])
    ordered = np.sort(known, axis=0)
    expected = np.mean((ordered[-1] - ordered[-2]) / [stats.entropy(np.bincount(f.astype(int))) for f in factors.T])
    assert mig(represented(codes)).score == pytest.approx(expected, abs=1e-9)


def test_predictability_is_that_of_a_line_and_of_a_support_vector_machine() -> None:
    codes, factors = mixed(), grid()
    lines = [[stats.linregress(code, factor).rvalue ** 2 for factor in factors.T] for code in codes.T]
    assert sap(represented(codes, (True, True, True))).predictability == pytest.approx(np.array(lines))
    representation = represented(codes)
    train, test = representation.halves(0)
    code = (codes[:, 1] - codes[:, 1].mean()) / codes[:, 1].std()
    # the dual problem of the same machine, as scikit-learn solves it by default, as disentanglement_lib does
    machine = LinearSVC(C=0.01, class_weight="balanced", dual=True, max_iter=100_000, random_state=0)
    machine.fit(code[train, None], factors[train, 2])
    expected = np.mean(machine.predict(code[test, None]) == factors[test, 2])
    assert sap(representation, classifier="linear").predictability[1, 2] == pytest.approx(expected, abs=0.02)


def test_the_entropy_of_importances_is_that_of_scipy() -> None:
    importance = np.random.default_rng(3).dirichlet(np.ones(4), 3).T
    by_latent = 1 - stats.entropy(importance.T, base=3)
    by_factor = 1 - stats.entropy(importance, base=4)
    assert concentration(importance, axis=1) == pytest.approx(by_latent)
    assert concentration(importance, axis=0) == pytest.approx(by_factor)
    found = dci(represented(mixed(), (True, True, True)), regressor="lasso")
    assert found.importance.sum(0) == pytest.approx(np.ones(3))
    expected = np.sum((1 - stats.entropy(found.importance.T, base=3)) * found.importance.sum(1)) / 3
    assert found.disentanglement == pytest.approx(expected)
    assert found.completeness == pytest.approx(np.mean(1 - stats.entropy(found.importance, base=4)))


def test_votes_are_those_of_a_loop() -> None:
    """Codes of which each factor moves two latents unequally: the loop takes variances over the standard deviation."""
    turn = np.array([[1.0, 0.4, 0, 0.2], [0, 1, 0.5, 0.1], [0.3, 0, 1, 0.2]])
    draw = drawing(lambda values, _: values @ turn)
    found = factor_vae_score(draw, 3, votes=150)
    source = np.random.default_rng(5)
    deviation = draw(None, 5000, source).std(0)
    votes = np.zeros((2, 4, 3))
    for part in (0, 1):
        for _ in range(600):
            factor = source.integers(3)
            votes[part, np.argmin(np.var(draw(factor, 64, source) / deviation, axis=0)), factor] += 1
    expected = votes[1, np.arange(4), votes[0].argmax(1)].sum() / 600
    assert found.score == pytest.approx(expected, abs=0.08)


def test_infomec_is_that_of_its_definition() -> None:
    codes, factors = mixed(), grid()
    scaled = (codes - codes.mean(0)) / codes.std(0)
    known = np.array(
        [
            mutual_info_classif(scaled, f.astype(int), n_neighbors=10, random_state=7) / np.log(s)
            for f, s in zip(factors.T, SIZES, strict=True)
        ]
    )  # (factor, latent)
    modularity = (np.mean(known.max(0) / known.sum(0)) - 1 / 3) / (1 - 1 / 3)
    compactness = (np.mean(known.max(1) / known.sum(1)) - 1 / 4) / (1 - 1 / 4)
    found = infomec(represented(codes))
    assert found.modularity == pytest.approx(modularity, abs=0.01)  # the noise that breaks ties is of another seed
    assert found.compactness == pytest.approx(compactness, abs=0.01)


def test_latents_of_a_small_range_are_left_out_of_infomec() -> None:
    codes = np.hstack([permuted_identity() / [0.1, 3.0, 1.0], 1e-3 * noise(1)])
    found = infomec(represented(codes))
    assert found.active.tolist() == [True, True, True, False]
    assert found.inputs["left_out"] == [3]
    assert found.compactness == dominance(found.information[:3], axis=0)
    assert math.isnan(infomec(represented(codes[:, :1])).compactness)


# What a representation is.


def test_a_continuous_factor_is_cut_and_a_discrete_one_is_not() -> None:
    values = np.linspace(0, 1, 200)[:, None]
    number = Representation(values, values, ("angle",), (True,))
    classes = Representation(values, values, ("angle",), (False,))
    assert len(np.unique(number.labels(0))) == 20
    assert mig(number).score == pytest.approx(1)
    # 200 classes, of which a code of 20 bins tells so much: the ceiling that its docstring names
    assert mig(classes).score == pytest.approx(np.log(20) / np.log(200))
    assert bins(values[:, 0]).tolist() == np.repeat(np.arange(20), 10).tolist()


def test_scores_say_what_they_are_of() -> None:
    few = represented(grid()[:, :2], (False, True, True))
    said = few.statement()
    assert said["note"].startswith("3 factors but 2 latents: not every factor can have a latent of its own")
    assert said["continuous"] == ["scale", "place"]
    assert (said["inputs"], said["samples"], said["factors"]) == ("means of the posterior", 600, list(NAMES))
    assert "note" not in represented(mixed()).statement()
    for found in (mig(few), sap(few), infomec(few), dci(few, regressor="lasso")):
        assert found.inputs["note"] == said["note"]
    assert mig(few).gaps == pytest.approx([1, 1, 0])


def test_a_representation_that_is_none_is_refused() -> None:
    codes, factors = noise(), grid()
    with pytest.raises(DataError, match=r"codes of shape \(5, 4\) and factors of shape \(600, 3\) are no repr"):
        Representation(codes[:5], factors, NAMES, DISCRETE)
    with pytest.raises(DataError, match="3 factors have 2 names and 3 kinds; give one of each per factor"):
        Representation(codes, factors, NAMES[:2], DISCRETE)
    with pytest.raises(DataError, match="codes of a representation are not finite; look whether its VAE has diverged"):
        Representation(np.where(codes > 2, np.nan, codes), factors, NAMES, DISCRETE)
    with pytest.raises(DataError, match="factor 'scale' has one value in these 600 samples, so nothing can be known"):
        Representation(codes, factors * [1, 0, 1], NAMES, DISCRETE)
