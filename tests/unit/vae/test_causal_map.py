"""The scene's graph is recovered from its mechanism and by a perfect encoder; codes of nothing find none."""

import itertools

import numpy as np
import pytest
import torch
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.factor import Factor
from diffmech.data.factors.pendulum import PendulumScene, shadow
from diffmech.data.factors.sprites import DSpritesLike
from diffmech.errors import DataError
from diffmech.randomness import generator
from diffmech.vae.causal_map import (
    SMALLEST,
    causal_map,
    edges_frame,
    estimate,
    graphs_table,
    random_graphs,
    set_scenes,
    structural_hamming_distance,
)
from diffmech.vae.factor_images import FactorImages
from diffmech.vae.readout import as_vectors, fit_readout, spread
from diffmech.vae.tables import EDGES, GRAPHS
from diffmech.vae.training import read_vae, train_vae

NAMES = ["angle", "light", "shadow_position", "shadow_length"]
MEASURES = VaeMeasures(permutations=500)


class Told(PendulumScene):
    """The scene, with its values in place of pictures."""

    def images_of(self, values, identity=None):
        return self.checked(values, identity)[0][:, :, None, None]


SCENE = Told(8)
VALUES, NOBODY = SCENE.draw(350, generator(0, "natural scenes"))


def told(images):
    return images.reshape(len(images), -1)


def edges(frame, level):
    rows = frame[(frame["level"] == level) & frame["edge"]]
    return set(zip(rows["cause"], rows["effect"], strict=True))


def true_edges():
    return {(NAMES[cause], NAMES[effect]) for cause, effect in zip(*np.nonzero(SCENE.graph), strict=True)}


@pytest.fixture(scope="module")
def perfect():
    return edges_frame({"inputs": told}, VALUES, NOBODY, data=SCENE, factors=NAMES, measures=MEASURES)


def test_the_mechanism_gives_its_graph_and_nothing_else_changes_at_all(perfect) -> None:
    mechanism = perfect[perfect["level"] == "generator"]
    assert edges(perfect, "generator") == true_edges()
    assert (mechanism.loc[~mechanism["true"], "change"] == 0).all()
    assert (mechanism["floor"] == 0).all()


def test_a_perfect_encoder_gives_it_too_though_shadows_follow_in_all_images(perfect) -> None:
    assert edges(perfect, "inputs") == true_edges()
    assert (perfect.loc[perfect["level"] == "inputs", "readout"] > 0.98).all()


def test_the_change_of_an_effect_is_that_of_the_mechanism(perfect) -> None:
    scenes = set_scenes(SCENE, NAMES, MEASURES.scenes, seed=MEASURES.seed)
    angle, light = scenes.values[scenes.before[2]].T[:2]
    turned = scenes.values[scenes.after[0, 2]].T[0]
    expected = np.abs(shadow(turned, light)[0] - shadow(angle, light)[0]).mean() / VALUES[:, 2].std()
    row = perfect.set_index(["level", "cause", "effect"]).loc[("generator", "angle", "shadow_position")]
    assert row["change"] == pytest.approx(expected)


@pytest.mark.parametrize("cause", range(4))
@pytest.mark.parametrize("effect", range(4))
def test_only_the_cause_is_set_and_only_the_effect_is_free(cause, effect) -> None:
    scenes = set_scenes(SCENE, NAMES, 20, seed=3)
    before, control = scenes.values[scenes.before[effect]], scenes.values[scenes.control[effect]]
    np.testing.assert_array_equal(control[:, effect], before[:, effect])
    if cause != effect:
        after = scenes.values[scenes.after[cause, effect]]
        held = [factor for factor in range(4) if factor not in (cause, effect)]
        np.testing.assert_array_equal(after[:, held], before[:, held])
        assert (after[:, cause] != before[:, cause]).any()


def test_codes_that_know_nothing_find_no_more_than_alpha() -> None:
    found = 0
    for seed in range(20):
        source = generator(seed, "codes of nothing")
        measures = VaeMeasures(seed=seed, permutations=200, scenes=40)
        frame = edges_frame(
            {"inputs": lambda images, source=source: source.standard_normal((len(images), 5))},
            VALUES[:200],
            NOBODY[:200],
            data=SCENE,
            factors=NAMES,
            measures=measures,
        )
        found += bool(edges(frame, "inputs"))
    assert found <= 4  # of 20 at a rate of 0.05: more has a chance of 0.003


def test_a_code_that_mixes_an_effect_with_another_factor_makes_no_false_edge() -> None:
    """Both of the shadow are seen as their sum alone: what is read of one changes with the other as with its causes."""

    def mixed(images):
        angle, light, position, length = told(images).T
        return np.column_stack([angle, light, position + length])

    frame = edges_frame({"inputs": mixed}, VALUES, NOBODY, data=SCENE, factors=NAMES, measures=MEASURES)
    inputs = frame[frame["level"] == "inputs"].set_index(["cause", "effect"])
    leak = inputs.loc[("shadow_length", "shadow_position")]
    assert leak["change"] > SMALLEST  # so that a threshold alone would take it for an edge
    assert edges(frame, "inputs") <= true_edges()


def test_leaks_that_cancel_in_natural_scenes_make_no_false_edge() -> None:
    """The shadow is the further left the further right the lamp is, and length is seen with both added to it."""

    def cancelling(images):
        angle, light, position, length = told(images).T
        return np.column_stack([angle, length + 2 * (position + 0.62 * light)])

    together = VALUES[:, 2] + 0.62 * VALUES[:, 1]
    assert together.std() < 0.7 * VALUES[:, 2].std()
    frame = edges_frame({"inputs": cancelling}, VALUES, NOBODY, data=SCENE, factors=NAMES, measures=MEASURES)
    assert edges(frame, "inputs") <= true_edges()


def test_factors_without_a_mechanism_have_no_edges_whatever_their_kind() -> None:
    data = DSpritesLike(16)
    values, identity = data.draw(300, generator(1, "sprites"))
    names = [factor.name for factor in data.factors]
    frame = edges_frame({"inputs": told}, values, identity, data=data, factors=names, measures=MEASURES)
    assert len(frame) == 2 * 20
    assert not frame["true"].any()
    assert edges(frame, "generator") == edges(frame, "inputs") == set()


def test_some_factors_alone_are_studied_and_the_others_held() -> None:
    frame = edges_frame({"inputs": told}, VALUES, NOBODY, data=SCENE, factors=["light", "angle"], measures=MEASURES)
    assert len(frame) == 4
    assert edges(frame, "generator") == edges(frame, "inputs") == set()


def test_nothing_is_set_where_nothing_can_be(tmp_path, runtime) -> None:
    class Photographs(Told):
        changeable = False

    asked = {"measures": MEASURES, "runtime": runtime}
    for data, factors in ((Photographs(8), NAMES), (SCENE, ["light"])):
        causal_map(tmp_path, tmp_path / "codes", tmp_path / "edges.csv", data=data, factors=factors, **asked)
        assert EDGES.read(tmp_path / "edges.csv").empty


@pytest.mark.parametrize("kind", ["vae", "vq_vae"])
def test_weights_and_codes_make_the_edges_of_one_vae(kind, settings, runtime, tmp_path) -> None:
    data = DSpritesLike(8)
    folder = tmp_path / "sprites" / kind / "0"
    train_vae(FactorImages(data), settings(kind), folder, tmp_path / "checkpoint", runtime=runtime, dataset={})
    values, identity = data.draw(150, generator(0, "encoded"))
    encoded = read_vae(folder, device="cpu").encode(torch.from_numpy(data.images_of(values, identity)))
    names = [factor.name for factor in data.factors]
    known = {"values": (("image", "factor"), values), "identity": ("image", identity)}
    if kind == "vae":
        mean, log_variance = ((("image", "latent"), each.numpy()) for each in encoded)
        codes = {"mean": mean, "log_variance": log_variance}
    else:
        codes = {"chosen": (("image", "y", "x"), encoded.numpy())}
    told_of = {"data": "sprites", "family": kind, "vae_seed": 0, "continuous": kind == "vae"}
    root = xr.Dataset(known | codes, coords={"factor": names}, attrs=told_of)
    latents = xr.Dataset({"deviation": ("latent", np.ones(3))})
    write_store(tmp_path / "codes", xr.DataTree.from_dict({"/": root, "latents": latents}))
    asked = {"data": data, "factors": ["scale", "x"], "measures": VaeMeasures(scenes=20, permutations=100)}
    causal_map(folder, tmp_path / "codes", folder / "edges.csv", runtime=runtime, **asked)
    frame = EDGES.read(folder / "edges.csv")
    assert list(frame["level"]) == [level for level in ("generator", "inputs", "untrained") for _ in range(2)]
    assert frame.loc[frame["level"] != "generator", "readout"].notna().all()
    assert not edges(frame, "generator")


def test_the_table_of_graphs_says_how_far_each_is(perfect, tmp_path) -> None:
    path = tmp_path / "pendulum" / "vae" / "3" / "edges.csv"
    perfect = perfect.copy()
    turned = (perfect["level"] == "inputs") & perfect["cause"].eq("light") & perfect["effect"].eq("shadow_length")
    back = (perfect["level"] == "inputs") & perfect["cause"].eq("shadow_length") & perfect["effect"].eq("light")
    perfect.loc[turned, "edge"], perfect.loc[back, "edge"] = False, True
    EDGES.write(path, perfect)
    graphs_table([path], tmp_path / "graphs.csv", measures=MEASURES)
    frame = GRAPHS.read(tmp_path / "graphs.csv").set_index("level")
    assert frame["distance"].to_dict() == {"generator": 0, "inputs": 1}
    assert set(frame["family"]) == {"vae"}
    assert set(frame["vae_seed"]) == {3}
    assert frame.loc["generator", "p"] < 0.05
    assert np.isnan(frame.loc["generator", "readout"])
    assert frame.loc["inputs", "readout"] > 0.98
    graphs_table([], tmp_path / "none.csv", measures=MEASURES)
    assert GRAPHS.read(tmp_path / "none.csv").empty


def graphs_of_three() -> np.ndarray:
    places = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    graphs = np.zeros((64, 3, 3), dtype=bool)
    for graph, bits in zip(graphs, itertools.product([False, True], repeat=6), strict=True):
        graph[tuple(np.transpose(places))] = bits
    return graphs


def test_structural_hamming_distance_is_a_metric_in_which_a_reversed_edge_is_one() -> None:
    graphs = graphs_of_three()
    distance = structural_hamming_distance(graphs[:, None], graphs[None])
    np.testing.assert_array_equal(distance, distance.T)
    np.testing.assert_array_equal(distance == 0, np.eye(64, dtype=bool))
    assert (distance[:, None] <= distance[:, :, None] + distance[None]).all()
    assert (structural_hamming_distance(graphs, graphs.swapaxes(1, 2)) <= 3).all()
    one = np.array([[0, 1], [0, 0]], dtype=bool)
    assert structural_hamming_distance(one, one.T) == 1
    assert structural_hamming_distance(one, one | one.T) == 1
    assert structural_hamming_distance(one, np.zeros((2, 2), dtype=bool)) == 1


def test_random_graphs_are_acyclic_have_as_many_edges_and_hit_the_scene_one_time_in_ninety() -> None:
    """Four of six pairs are joined in 15 ways, and one order in six has both causes before both effects."""
    drawn = random_graphs(4, 4, 20_000, generator(0, "graphs"))
    assert (drawn.sum((1, 2)) == 4).all()
    power = drawn.astype(int)
    for _ in range(3):
        power = power @ drawn
    assert not power.any()
    hits = (structural_hamming_distance(drawn, SCENE.graph) == 0).mean()
    assert hits == pytest.approx(1 / 90, abs=4 * np.sqrt(1 / 90 / 20_000))
    assert (random_graphs(3, 9, 5, generator(0, "full")).sum((1, 2)) == 3).all()


def test_every_kind_of_factor_is_a_vector_of_its_own_spread() -> None:
    turns = Factor("turn", "circular", "", values=(0.0, 1.0, 2.0, 3.0), period=4.0)
    vectors = as_vectors(np.array([0.0, 1.0, 2.0, 3.0]), turns)
    np.testing.assert_allclose(vectors, [[1, 0], [0, 1], [-1, 0], [0, -1]], atol=1e-12)
    assert spread(vectors, turns) == pytest.approx(1)
    kinds = Factor("kind", "discrete", "", values=(0.0, 5.0))
    np.testing.assert_array_equal(as_vectors(np.array([5.0, 0.0]), kinds), [[0, 1], [1, 0]])
    with pytest.raises(DataError, match="never differs among 3 images"):
        spread(as_vectors(np.zeros(3), kinds), kinds)


def test_readouts_are_perfect_of_factors_and_nothing_of_noise() -> None:
    data = DSpritesLike(8)
    values, _ = data.draw(1200, generator(2, "factors"))
    known = np.concatenate([as_vectors(v, f) for v, f in zip(values.T, data.factors, strict=True)], axis=1)
    assert (fit_readout(known, values, data.factors, seed=0).quality > 0.97).all()
    blind = fit_readout(generator(3, "noise").standard_normal((1200, 6)), values, data.factors, seed=0)
    assert blind.quality[0] == pytest.approx(1 / 3, abs=0.1)  # one class of three
    assert np.abs(blind.quality[1:]).max() < 0.1


def test_readouts_are_judged_on_images_that_they_were_not_fitted_on() -> None:
    """Twenty numbers of noise tell thirty images apart, and nothing of the thirty others."""
    place = Factor("place", "ordinal", "", (0.0, 1.0, 2.0, 3.0))
    turn = Factor("turn", "circular", "", (0.0, 1.0, 2.0, 3.0), period=4.0)
    kind = Factor("kind", "discrete", "", (0.0, 1.0, 2.0))
    judged, right = [], []
    for seed in range(6):
        source = np.random.default_rng(seed)
        values = np.stack([factor.draw(60, source) for factor in (place, turn, kind)], axis=1)
        codes = source.standard_normal((60, 20))
        readout = fit_readout(codes, values, [place, turn, kind], seed=0)
        judged.append(readout.quality)
        right.append((readout.read(codes)[2].argmax(1) == values[:, 2]).mean())  # of all, half of them fitted on
    assert np.max(judged, axis=0)[:2].max() < 0.1
    assert np.mean(judged, axis=0)[2] == pytest.approx(1 / 3, abs=0.1)
    assert np.mean(right) > np.mean(judged, axis=0)[2] + 0.1


def test_a_change_that_is_certain_and_smaller_than_a_tenth_is_no_edge() -> None:
    scenes = set_scenes(SCENE, NAMES, MEASURES.scenes, seed=MEASURES.seed)
    read = list(scenes.values.T[:, :, None])
    large = estimate(scenes, read, VALUES.std(0), MEASURES, exact=True)
    most = np.nanmax(large.change)
    assert (large.edge == SCENE.graph).all()
    small = estimate(scenes, read, VALUES.std(0) * most / 0.099, MEASURES, exact=True)
    assert small.p == pytest.approx(large.p, nan_ok=True)
    assert (small.p[SCENE.graph] <= MEASURES.alpha).all()
    assert not small.edge.any()
    bound = estimate(scenes, read, VALUES.std(0) * most / 0.101, MEASURES, exact=True)
    assert bound.edge.sum() == 1
