"""Motifs are counted as by hand, random graphs keep degrees and signs, and what is planted is found."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.pendulum import PendulumScene
from diffmech.data.factors.sprites import DSpritesLike
from diffmech.randomness import generator
from diffmech.vae.motif_tables import has_direction, motif_rows, motif_tables
from diffmech.vae.motif_tables import tested as level_of  # pytest would collect its own name
from diffmech.vae.motifs import FIXED, MOTIFS, TESTED, Graph, count_motifs, deal_out, random_graphs
from diffmech.vae.tables import LINKS
from diffmech.vae.tables import MOTIFS as TABLE

MEASURES = VaeMeasures(permutations=199)


def signs(source, rows, columns, share=0.5):
    return (source.random((rows, columns)) < share) * source.choice([-1, 1], (rows, columns))


def drawn(seed, factors=3, units=10, latents=4, outputs=3, share=0.5):
    source = generator(seed, "a graph")
    return Graph(
        signs(source, factors, units, share), signs(source, units, latents, share), signs(source, latents, outputs)
    )


def counted_by_hand(graph: Graph) -> dict[str, int]:
    a, b, c = graph.units, graph.latents, graph.outputs
    found = dict.fromkeys(MOTIFS, 0)
    for f, u, z, o in np.ndindex(*a.shape, *c.shape):
        if sign := a[f, u] * b[u, z] * c[z, o]:
            found["positive chain" if sign > 0 else "negative chain"] += 1
    for name, first, second in (("units", a, b), ("latents", b, c)):
        for start, end in np.ndindex(len(first), second.shape[1]):
            for one, two in itertools.combinations(range(len(second)), 2):
                paths = first[start, one] * second[one, end], first[start, two] * second[two, end]
                if all(paths):
                    found[("coherent " if paths[0] == paths[1] else "incoherent ") + name] += 1
    for name, edges in (("factor bi-fan", a), ("unit bi-fan", b)):
        rows, columns = (itertools.combinations(range(size), 2) for size in edges.shape)
        found[name] = sum(bool(edges[np.ix_(r, k)].all()) for r, k in itertools.product(rows, list(columns)))
    pairs = list(itertools.combinations(range(a.shape[1]), 2))
    found["fan-out"] = sum(bool(row[one] and row[two]) for row in a for one, two in pairs)
    found["convergence"] = sum(bool(row[one] and row[two]) for row in b.T for one, two in pairs)
    found["shared unit"] = sum(
        bool(column[one] and column[two]) for column in a.T for one, two in itertools.combinations(range(len(a)), 2)
    )
    return found


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_going_through_all_tuples(seed) -> None:
    graph = drawn(seed)
    assert dict(zip(MOTIFS, count_motifs(graph).tolist(), strict=True)) == counted_by_hand(graph)


@pytest.mark.parametrize("shape", [(3, 12), (12, 3), (1, 5), (4, 4)])
def test_dealt_out_anew_every_node_keeps_its_edges_of_each_sign(shape) -> None:
    edges = signs(generator(5, "edges"), *shape)
    dealt = deal_out(edges, 50, generator(6, "deal"))
    for sign in (-1, 1):
        for axis in (1, 2):
            expected = (edges == sign).sum(axis - 1)
            np.testing.assert_array_equal((dealt == sign).sum(axis), np.broadcast_to(expected, (50, len(expected))))
    if max(shape) > 5:
        assert len(np.unique(dealt, axis=0)) > 40


def test_all_graphs_of_the_same_degrees_are_equally_likely() -> None:
    edges = np.array([[1, 1, 0, -1], [0, 1, -1, 0], [1, 0, 0, 1], [0, -1, 1, 0]])
    rows = [sorted(set(itertools.permutations(row))) for row in edges.tolist()]
    every = np.array(list(itertools.product(*rows)))
    fitting = [graph for graph in every if all(((graph == s).sum(0) == (edges == s).sum(0)).all() for s in (-1, 1))]
    drawn_graphs = deal_out(edges, 200 * len(fitting), generator(0, "uniform"))
    found, times = np.unique(drawn_graphs, axis=0, return_counts=True)
    assert len(found) == len(fitting) > 20
    chi_square = np.square(times - 200).sum() / 200
    freedom = len(fitting) - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_rows_that_can_only_be_exchanged_as_a_whole_are() -> None:
    """Both rows have one edge of each sign and none in common, so that no two columns can be exchanged alone."""
    found = np.unique(deal_out(np.array([[1, 0, -1], [0, -1, 1]]), 100, generator(1, "whole rows")), axis=0)
    assert len(found) == 2


def test_the_degrees_alone_decide_the_motifs_that_are_not_tested() -> None:
    graph = drawn(1)
    null = count_motifs(random_graphs(graph, 30, generator(2, "null")))
    fixed = [MOTIFS.index(motif) for motif in FIXED]
    np.testing.assert_array_equal(null[:, fixed], np.broadcast_to(count_motifs(graph)[fixed], (30, 3)))
    assert (null[:, [MOTIFS.index(motif) for motif in TESTED]].std(0) > 0).all()
    rows = {row["motif"]: row for row in motif_rows(graph, MEASURES)}
    for motif in FIXED:
        assert rows[motif]["found"] == rows[motif]["expected"]
        assert np.isnan(rows[motif]["p"])


def test_planted_coherent_paths_are_found() -> None:
    """Units carry each factor to each latent with one sign."""
    source = generator(3, "planted")
    unit = source.choice([-1, 1], 30)
    units = (source.random((4, 30)) < 0.5) * unit * source.choice([-1, 1], (4, 1))
    latents = (source.random((30, 5)) < 0.5) * unit[:, None] * source.choice([-1, 1], (1, 5))
    rows = {row["motif"]: row for row in motif_rows(Graph(units, latents, signs(source, 5, 3)), MEASURES)}
    assert rows["incoherent units"]["found"] == 0 < rows["incoherent units"]["low"]
    assert rows["coherent units"]["found"] > rows["coherent units"]["high"]
    assert rows["coherent units"]["p_corrected"] <= 0.05 * 2  # 2 / 200 is the least p, and eight motifs are tested
    assert rows["coherent units"]["p"] == rows["incoherent units"]["p"] == pytest.approx(2 / 200)


def test_graphs_of_the_null_have_motifs_at_no_more_than_alpha() -> None:
    base = drawn(7, factors=3, units=14)
    of_null = random_graphs(base, 60, generator(8, "graphs that are random"))
    small = 0
    for number in range(60):
        graph = Graph(of_null.units[number], of_null.latents[number], of_null.outputs[number])
        small += sum(row["p"] <= 0.05 for row in motif_rows(graph, VaeMeasures(permutations=79, seed=number)))
    assert small <= 40  # of 480 at a rate of 0.05, which is 24, not independent within a graph


def test_factors_have_a_direction_where_their_values_have_an_order_or_are_two() -> None:
    assert [has_direction(factor) for factor in DSpritesLike(8).factors] == [False, True, False, True, True]
    assert all(has_direction(factor) for factor in PendulumScene(8).factors)


PAIRS, UNITS, LATENTS = 60, 12, 3
NAMES = ("angle", "light")


@pytest.fixture
def linear(tmp_path):
    """A VAE whose units are linear in factors and whose latents are linear in units, by weights 1, -1 and 0."""
    source = generator(9, "linear")
    inward, through = signs(source, 2, UNITS), signs(source, UNITS, LATENTS)
    studies = []
    for place, name in enumerate(NAMES):
        before, after = source.normal(size=(2, PAIRS))
        signed = 0.7 * (after - before)[:, None] * inward[place] / before.std()
        tried = np.arange(0, PAIRS, 2)
        kept = {"signed": signed, "tried": tried, "unit_latent": 0.3 * signed[tried][:, :, None] * through}
        root = {"before": before, "after": after}
        layers = {"encoder.conv1": {}, "encoder.hidden": kept, "decoder.hidden": {}}
        studies.append(SimpleNamespace(family="vae", seed=4, factor=name, root=root, layers=layers))
    change = np.zeros((LATENTS, 2, 20))
    change[0, 0], change[1, 0], change[2, 1] = 3.0, -4.0, 0.01
    told = {"data": "pendulum", "family": "vae", "vae_seed": 4, "continuous": True}
    latents = xr.Dataset(
        {"feature_change": (("latent", "feature", "probe"), change)}, {"feature": ["brightness", "centre_x"]}
    )
    path = tmp_path / "codes.zarr.zip"
    write_store(path, xr.DataTree.from_dict({"/": xr.Dataset(attrs=told), "latents": latents}))
    return path, studies, inward, through


def test_links_of_a_linear_vae_are_its_weights_and_no_others(linear, tmp_path) -> None:
    path, studies, inward, through = linear
    links, motifs = tmp_path / "links.csv", tmp_path / "motifs.csv"
    motif_tables([path], studies, links, motifs, data=PendulumScene(8), measures=MEASURES)
    frame = LINKS.read(links).set_index(["source", "target"])
    expected = {
        **{(NAMES[f], f"unit {u}"): 0.7 * inward[f, u] for f, u in zip(*np.nonzero(inward), strict=True)},
        **{
            (f"unit {u}", f"latent {z}"): 0.3 * through[u, z]
            for u, z in zip(*np.nonzero(through), strict=True)
            if inward[:, u].any()
        },
        ("latent 0", "brightness"): 0.6,
        ("latent 1", "brightness"): -0.8,
        ("latent 2", "centre_x"): 1.0,
    }
    assert frame["weight"].to_dict() == pytest.approx(expected, rel=1e-5)
    assert (frame["p_corrected"] <= 0.05).all()
    assert set(frame["layer"]) == {"encoder.hidden"}
    outward = np.array([[1, 0], [-1, 0], [0, 1]])
    seen = through * inward.any(0)[:, None]
    assert TABLE.read(motifs)["found"].tolist() == count_motifs(Graph(inward, seen, outward)).tolist()


def test_where_there_is_no_latent_or_no_direction_there_is_no_graph(linear, tmp_path) -> None:
    path, studies, _, _ = linear
    told = {"data": "pendulum", "family": "vq_vae", "vae_seed": 0, "continuous": False}
    write_store(tmp_path / "grid", xr.DataTree(xr.Dataset(attrs=told)))
    turned = [SimpleNamespace(**{**vars(study), "factor": "orientation"}) for study in studies]
    links, motifs = tmp_path / "links.csv", tmp_path / "motifs.csv"
    for codes, given in (([tmp_path / "grid"], turned), ([path], turned), ([path], []), ([], [])):
        motif_tables(codes, given, links, motifs, data=DSpritesLike(8), measures=MEASURES)
        assert LINKS.read(links).empty
        assert TABLE.read(motifs).empty


def test_an_edge_is_no_accident_and_no_trifle() -> None:
    """Of 40 samples: weights of 0.5 and -0.5, the same by chance, and a certain one that is too small."""
    spread = np.where(np.arange(40) % 2, 1.0, -1.0)  # of mean 0
    changes = np.stack([0.5 + 0.1 * spread, -0.5 + 0.1 * spread, 0.5 + 9 * spread, 0.09 + 0.01 * spread], axis=1)
    level = level_of([changes, -changes], MEASURES)
    assert level.weight[0] == pytest.approx([0.5, -0.5, 0.5, 0.09])
    assert (level.p[0] <= MEASURES.alpha).tolist() == [True, True, False, True]
    assert level.edge.tolist() == [[1, -1, 0, 0], [-1, 1, 0, 0]]
