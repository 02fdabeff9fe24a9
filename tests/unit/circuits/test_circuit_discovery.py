"""Discovery on a planted denoiser: found on one half of the images, tested on the other; untrained, there is none."""

import json

import numpy as np
import pandas as pd
import pytest
from planted_halves import IMAGES, RUNTIME, TIMESTEPS

from diffmech.attention.sites import HeadId
from diffmech.circuits.discovery import CURVE_COLUMNS, HEAD_COLUMNS, CircuitTables, discover_circuit, find_and_test
from diffmech.circuits.edges import EDGE_COLUMNS
from diffmech.circuits.ranking import rank_heads
from diffmech.config.analysis import AblationConfig
from diffmech.config.circuit import CircuitConfig, DiscoveryConfig
from diffmech.errors import DataError, StoreError
from diffmech.interventions.ablation import ablate_heads

SETTINGS = DiscoveryConfig(
    faithfulness=0.99, random_circuits=20, draws=200, permutations=1000, graph_heads=3, alpha=0.1
)


@pytest.fixture(scope="module")
def found(halves, ranking) -> CircuitTables:
    return find_and_test(*halves, ranking, discovery=SETTINGS, seed=0)


def test_the_halves_share_no_image(found) -> None:
    chosen, tested = (set(found.summary[name]) for name in ("discovery_samples", "test_samples"))
    assert not chosen & tested
    assert len(chosen) == len(tested) == IMAGES // 2


def test_what_is_reported_is_measured_on_the_test_half(found, halves) -> None:
    circuit = frozenset(map(HeadId.parse, found.summary["circuit"]))
    for half, reported in zip(
        halves, (found.summary["discovery_faithfulness"], found.summary["faithfulness"]["estimate"]), strict=True
    ):
        nothing, everything, kept = half.losses([frozenset(), half.everything, circuit]).mean((1, 2))
        assert reported == pytest.approx((nothing - kept) / (nothing - everything))


def test_the_curve_runs_from_exactly_0_to_exactly_1_through_the_circuit(found) -> None:
    curve = found.curve.set_index("size")
    ends = [curve.index.min(), curve.index.max()]
    assert ends == [0, found.summary["heads"]]
    assert curve["faithfulness"].loc[ends].tolist() == [0, 1]
    (row,) = found.curve[found.curve["circuit"]].itertuples()
    assert row.size == found.summary["size"]
    assert row.faithfulness == pytest.approx(found.summary["faithfulness"]["estimate"])
    assert row.random_circuits == 20


def test_the_planted_circuit_beats_random_ones_and_every_random_one_has_its_size(found) -> None:
    assert found.summary["found"]
    random = found.summary["random"]
    assert random["count"] == 20
    assert random["mean"] < found.summary["faithfulness"]["estimate"]
    assert random["p"] >= 1 / 21


def test_dead_heads_are_out_and_each_needed_head_drops_faithfulness_surely(found, planted) -> None:
    heads = found.heads[found.heads["timestep"] == "all"].set_index("head")
    assert not heads.loc[list(map(str, planted.named("dead_local", "dead_sink"))), "in_circuit"].any()
    inside = heads[heads["in_circuit"]]
    assert sorted(inside.index) == sorted(found.summary["circuit"])
    assert (inside["needed"] == (inside["low"] > 0)).all()
    assert sorted(inside.index[~inside["needed"]]) == sorted(found.summary["not_needed"])
    assert heads["drop"].idxmax() == str(planted.named("local")[0])


def test_edges_partition_each_senders_total_effect(found) -> None:
    table = found.edges.pivot_table(index="sender", columns="path", values="effect_percent", aggfunc="sum")
    assert len(table) == 3
    edges = table["edge"].fillna(0)  # a head of the last layer has none
    np.testing.assert_allclose(table["direct"] + edges + table["residual"], table["total"], atol=1e-9)
    np.testing.assert_allclose(edges, table["mediated"], atol=1e-9)
    tested = found.edges["path"].isin(["edge", "direct"])
    assert found.edges.loc[tested, "p_holm"].notna().all()
    assert found.edges.loc[~tested, "p_holm"].isna().all()
    assert not found.edges.loc[~tested, "significant"].any()


def test_the_local_head_reaches_the_output_directly(found, planted) -> None:
    (local,) = planted.named("local")
    row = found.edges.set_index(["sender", "path"]).loc[(str(local), "direct")]
    assert row["significant"]
    assert row["low"] > 0


def test_batch_size_does_not_matter(planted, halves) -> None:
    kept, other = halves[1], planted.halves(batch_size=5)[1]
    sets = [frozenset(), kept.everything, frozenset(kept.heads[:4]), frozenset(kept.heads[3:9])]
    np.testing.assert_allclose(other.losses(sets), kept.losses(sets), rtol=1e-5)
    few = other.first(3)
    np.testing.assert_allclose(few.losses(sets), kept.losses(sets)[:, :3], rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_denoiser_has_no_circuit(planted, seed: int) -> None:
    halves = planted.halves(untrained_seed=seed)
    tables = find_and_test(*halves, dict.fromkeys(halves[0].heads, 0.0), discovery=SETTINGS, seed=0)
    assert not tables.summary["found"]
    assert tables.summary["reason"] in ("heads do not help", "heads help too little")
    assert tables.summary["circuit"] == []
    assert not tables.heads["in_circuit"].any()
    assert tables.heads.columns.tolist() == HEAD_COLUMNS
    assert len(tables.curve) == len(tables.edges) == 0


def test_the_artifacts_hold_what_was_found(planted, tmp_path) -> None:
    ablation = AblationConfig(methods=["mean"], samples=IMAGES)
    store = tmp_path / "heads.zarr.zip"
    ablate_heads(
        [planted.latents],
        planted.model_json,
        [planted.reference],
        store,
        group="heads",
        ablation=ablation,
        seed=0,
        runtime=RUNTIME,
    )
    outputs = {
        "summary": tmp_path / "circuit.json",
        **{name: tmp_path / f"{name}.csv" for name in ("heads", "curve", "edges")},
    }

    def discover(samples: int) -> None:
        discover_circuit(
            [planted.latents],
            planted.model_json,
            [planted.reference],
            [store],
            outputs,
            domain="symmetric",
            discovery=SETTINGS.model_copy(update={"faithfulness": 0.9, "graph_heads": 2}),
            circuit=CircuitConfig(),
            method="mean",
            samples=samples,
            timesteps=TIMESTEPS,
            seed=0,
            runtime=RUNTIME,
        )

    discover(IMAGES)
    summary = json.loads(outputs["summary"].read_text())
    assert summary["domain"] == "symmetric"
    assert summary["measure"] == "denoising loss"
    assert summary["circuit"][0] == str(planted.named("local")[0])
    for name, columns in (("heads", HEAD_COLUMNS), ("curve", CURVE_COLUMNS), ("edges", EDGE_COLUMNS)):
        assert pd.read_csv(outputs[name]).columns.tolist() == columns
    discover(3)
    assert json.loads(outputs["summary"].read_text())["reason"] == "too few images"
    with pytest.raises(DataError, match=r"hold 1 images.*give at least 4"):
        discover(1)


def test_ranking_by_attribution_agrees_with_exact_effects_and_exact_ones_need_their_images(
    planted, halves, ranking, tmp_path
) -> None:
    estimated = rank_heads(halves[0], [], ranking="attribution", circuit=CircuitConfig(), seed=0)
    assert next(iter(estimated)) == next(iter(ranking))
    assert estimated.keys() == ranking.keys()
    ablation = AblationConfig(methods=["mean"], samples=IMAGES)
    store, later = tmp_path / "later.zarr.zip", halves[1].samples
    ablate_heads(
        [planted.latents],
        planted.model_json,
        [planted.reference],
        store,
        group="heads",
        ablation=ablation,
        seed=0,
        runtime=RUNTIME,
        sample_ids=later[:2],
    )
    with pytest.raises(StoreError, match="holds none of the images 0 to 7"):
        rank_heads(halves[0], [store], ranking="exact", circuit=CircuitConfig(), seed=0)
