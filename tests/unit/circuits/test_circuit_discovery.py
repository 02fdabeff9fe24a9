"""Discovery on a planted denoiser: found on one half of the images, tested on the other; untrained, there is none."""

import json

import numpy as np
import pandas as pd
import pytest
from planted_halves import IMAGES, RUNTIME, TIMESTEPS

from diffmech.attention.sites import HeadId
from diffmech.circuits.discovery import TABLES, CircuitTables, discover_circuit, find_and_test
from diffmech.circuits.kept import KeptHeads
from diffmech.circuits.ranking import rank_heads
from diffmech.circuits.tables import HEADS
from diffmech.circuits.verdict import circuit_verdicts
from diffmech.config.analysis import AblationConfig
from diffmech.config.circuit import CircuitConfig, DiscoveryConfig
from diffmech.errors import DataError, StoreError
from diffmech.interventions.ablation import ablate_heads
from diffmech.testing import assert_same_up_to_rounding

SETTINGS = DiscoveryConfig(
    faithfulness=0.99,
    random_circuits=20,
    random_orders=3,
    subset_orders=2,
    greedy_heads=1,
    draws=200,
    permutations=1000,
    graph_heads=3,
    alpha=0.1,
)


@pytest.fixture(scope="module")
def found(halves, ranking) -> CircuitTables:
    return find_and_test(*halves, {"exact": ranking}, discovery=SETTINGS, seed=0)


def test_halves_that_share_an_image_are_refused(halves, ranking) -> None:
    def half(*samples: int) -> KeptHeads:
        return KeptHeads(
            halves[0].denoiser,
            halves[0].sites,
            halves[0].files,
            halves[0].references,
            samples=samples,
            timesteps=TIMESTEPS,
            method="mean",
            seed=0,
            runtime=RUNTIME,
        )

    with pytest.raises(DataError, match="images 2 are in both halves"):
        find_and_test(half(0, 1, 2), half(2, 3, 4), {"exact": ranking}, discovery=SETTINGS, seed=0)


def test_what_is_reported_is_measured_on_the_test_half(found, halves) -> None:
    circuit = frozenset(map(HeadId.parse, found.summary["circuit"]))
    for half, reported in zip(
        halves, (found.summary["discovery_faithfulness"], found.summary["faithfulness"]["estimate"]), strict=True
    ):
        nothing, everything, kept = half.losses([frozenset(), half.everything, circuit]).mean((1, 2))
        assert reported == pytest.approx((nothing - kept) / (nothing - everything))


def test_curves_run_from_0_to_1_at_the_same_sizes_for_every_ranking(found) -> None:
    curves = found.curve[found.curve["ranking"].isin(["exact", "chance"])].pivot(
        index="size", columns="ranking", values="faithfulness"
    )
    assert curves.columns.tolist() == ["chance", "exact"]
    assert curves.index.tolist()[:4] == [0, 1, 2, 4]
    assert curves.index.max() == found.summary["heads"]
    # of equal losses; the order in which the mean over images sums them is NumPy's, and depends on the machine
    np.testing.assert_allclose(curves.iloc[0], 0, atol=1e-12)
    np.testing.assert_allclose(curves.iloc[-1], 1, rtol=1e-12)
    areas = found.summary["areas"]
    # what single heads are worth alone orders them better than chance does
    assert areas["exact"]["beyond_chance"]["low"] > 0
    assert areas["exact"]["cpr"]["estimate"] > areas["chance"]["cpr"]["estimate"]
    points = found.curve.set_index("ranking")
    assert points.loc["circuit", "size"] == found.summary["size"]
    assert points.loc["circuit", "faithfulness"] == pytest.approx(found.summary["faithfulness"]["estimate"])
    assert points.loc["random circuits", "sets"] == 20


def test_the_planted_circuit_is_found_and_one_of_dead_heads_in_its_place_is_not(found, halves, planted) -> None:
    summary = found.summary
    (verdict,) = circuit_verdicts([summary], SETTINGS.alpha)
    assert verdict.verdict == "found"
    assert summary["random"]["count"] == 20
    assert summary["random"]["p"] == 1 / 21
    assert summary["random"]["mean"] < summary["completeness"]["estimate"] or summary["p_complement"] <= SETTINGS.alpha
    # a search that is told the worst heads are the best, and is content with a little
    dead = planted.named("dead_local", "dead_sink")
    worst = {head: float(head in dead) for head in halves[0].heads}
    content = SETTINGS.model_copy(update={"faithfulness": 0.01, "search": "ranked"})
    tables = find_and_test(*halves, {"exact": worst}, discovery=content, seed=0)
    assert circuit_verdicts([tables.summary], SETTINGS.alpha)[0].verdict == "not found"


def test_over_subsets_what_is_reported_is_measured_on_the_test_half(found, halves) -> None:
    circuit = frozenset(map(HeadId.parse, found.summary["circuit"]))
    kept = halves[1]
    nothing, everything = kept.losses([frozenset(), kept.everything]).mean((1, 2))
    for row in found.subsets.itertuples():
        removed = frozenset(map(HeadId.parse, row.removed.split()))
        assert removed <= circuit
        assert len(removed) == row.size
        own, rest = (nothing - kept.losses([circuit - removed, kept.everything - removed]).mean((1, 2))) / (
            nothing - everything
        )
        assert (row.circuit_without, row.model_without) == pytest.approx((own, rest), abs=1e-9)
        assert row.incompleteness == pytest.approx(abs(own - rest), abs=1e-9)
    whole = found.subsets[found.subsets["how"] == "whole"].iloc[0]
    assert whole["incompleteness"] == pytest.approx(found.summary["completeness"]["estimate"])
    worst = found.summary["subsets"]["worst"]
    assert worst["estimate"] in found.subsets["incompleteness"].tolist()
    random = found.subsets[found.subsets["how"] == "random"]
    assert found.summary["subsets"]["mean"]["estimate"] == pytest.approx(random["incompleteness"].mean())


def test_a_head_is_worth_at_least_as_much_in_its_best_setting_as_alone_where_it_was_chosen(found, halves) -> None:
    circuit = frozenset(map(HeadId.parse, found.summary["circuit"]))
    rows = found.heads[found.heads["in_circuit"] & (found.heads["timestep"] == "all")]
    for half, where in zip(halves, ("chosen", "tested"), strict=True):
        nothing, everything = half.losses([frozenset(), half.everything]).mean((1, 2))
        for row in rows.itertuples():
            head = HeadId.parse(row.head)
            removed = frozenset(map(HeadId.parse, str(row.without).split()))
            sets = [circuit - removed, circuit - removed - {head}, circuit, circuit - {head}]
            share = (nothing - half.losses(sets).mean((1, 2))) / (nothing - everything)
            if where == "chosen":
                assert share[0] - share[1] >= share[2] - share[3] - 1e-12
            else:
                assert row.minimality == pytest.approx(share[0] - share[1], abs=1e-9)
    assert set(found.summary["subsets"]["not_minimal"]) == set(rows.loc[rows["minimality_low"] <= 0, "head"])


def test_dead_heads_are_out_and_each_needed_head_drops_faithfulness_surely(found, planted) -> None:
    heads = found.heads[found.heads["timestep"] == "all"].set_index("head")
    assert not heads.loc[list(map(str, planted.named("dead_local", "dead_sink"))), "in_circuit"].any()
    inside = heads[heads["in_circuit"]]
    assert sorted(inside.index) == sorted(found.summary["circuit"])
    assert (inside["needed"] == ((inside["drop"] > 0) & (inside["p_needed"] <= SETTINGS.alpha))).all()
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
    assert_same_up_to_rounding(other.losses(sets), kept.losses(sets))


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_denoiser_has_no_circuit(planted, seed: int) -> None:
    halves = planted.halves(untrained_seed=seed)
    tables = find_and_test(*halves, {"exact": dict.fromkeys(halves[0].heads, 0.0)}, discovery=SETTINGS, seed=0)
    assert not tables.summary["chosen"]
    assert tables.summary["reason"] in ("heads do not help", "heads help too little", "contribution cannot be told")
    assert tables.summary["circuit"] == []
    assert not tables.heads["in_circuit"].any()
    assert tables.heads.columns.tolist() == list(HEADS.columns)
    assert len(tables.curve) == len(tables.edges) == len(tables.subsets) == 0


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
        **{name: tmp_path / f"{name}.csv" for name in TABLES},
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
    assert not set(summary["discovery_samples"]) & set(summary["test_samples"])
    assert len(summary["discovery_samples"]) == len(summary["test_samples"]) == IMAGES // 2
    assert summary["areas"].keys() == {"exact", "attribution", "chance"}
    for name, declared in TABLES.items():
        assert pd.read_csv(outputs[name]).columns.tolist() == list(declared.columns)
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
