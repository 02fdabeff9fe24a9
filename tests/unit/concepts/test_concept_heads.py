"""Weights by the heads and mechanisms that they belong to: sums, overlap with causal heads, edits of mechanisms."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_concept_jobs import ATTRIBUTION, COUNT, EVALUATION, HAT, judge, untrained  # noqa: F401 (a fixture)

from diffmech.concepts.attribution import attribute_concept
from diffmech.concepts.evaluation import edit_concept, original_images
from diffmech.concepts.gradients import added, read_gradients
from diffmech.concepts.groups import Weight, by_mechanism, weights
from diffmech.concepts.heads import (
    Components,
    causal_heads,
    chosen_components,
    concept_heads,
    gradients_of,
    head_rows,
    mechanism_of_heads,
    overlap,
)
from diffmech.concepts.masks import edited_weights, read_mask
from diffmech.concepts.probes import random_edit
from diffmech.concepts.selection import select
from diffmech.concepts.tables import HEADS, OVERLAP
from diffmech.config.judging import JudgesConfig
from diffmech.config.studies.concepts import EditConfig
from diffmech.errors import ModelError, StoreError
from diffmech.models.load import load_denoiser
from diffmech.report.concepts.heads import findings

NAMES = tuple(f"{site}.self.h0{head}" for site in "ab" for head in range(4))
SETTINGS = {"permutations": 400, "seed": 0}


def two_matrices():
    """Two layers of four heads with two rows each; the second is an output projection, whose columns are its heads."""
    heads = [tuple(np.repeat(NAMES[:4], 2)), tuple(np.repeat(NAMES[4:], 2))]
    groups = ["self_query", "self_out"]
    return [
        Weight(f"{site}.weight", torch.nn.Parameter(torch.zeros(8, 8)), group, own)
        for site, group, own in zip("ab", groups, heads, strict=True)
    ]


def planted(head, positive=1.0):
    """Scores that are small everywhere and large in one head."""
    scores = {name: np.random.default_rng(0).uniform(0.1, 0.2, (8, 8)) for name in ("a.weight", "b.weight")}
    place = NAMES.index(head)
    if place < 4:
        scores["a.weight"][2 * place : 2 * place + 2] += positive
    else:
        scores["b.weight"][:, 2 * (place - 4) : 2 * (place - 4) + 2] += positive
    return scores


@pytest.mark.parametrize("head", ["a.self.h02", "b.self.h01"])
def test_planted_components_are_summed_and_chosen_in_their_head(head):
    among, scores = two_matrices(), planted(head)
    rows = pd.DataFrame(head_rows(among, scores, {head: True})).set_index("head")
    assert rows["positive"].idxmax() == head
    assert rows["positive"].sum() == pytest.approx(sum(values.sum() for values in scores.values()))
    assert (rows["negative"] == 0).all()
    assert rows["causal"].sum() == 1
    chosen = chosen_components(among, scores, 1, 16)
    assert chosen.chosen.sum(0).tolist() == [16 * (name == head) for name in NAMES]
    assert chosen.sizes.sum() == 128


def test_overlap_is_held_against_both_nulls():
    sizes = np.concatenate([np.kron(np.eye(2), np.full((1, 4), 16))])
    chosen = np.zeros((2, 8), dtype=int)
    chosen[0, :2], chosen[1, 4:6] = 8, 8
    causal = dict.fromkeys((*NAMES[:2], *NAMES[4:6]), True)
    both = overlap(Components(sizes.astype(int), chosen, NAMES), causal, **SETTINGS)
    assert (both["share"], both["components"], both["causal_heads"]) == (1, 32, 4)
    assert both["expected"] == pytest.approx(0.5, abs=0.02)
    assert both["p_components"] < 0.01
    # two of four heads in each of two layers: one exchange in 36 is as good, and the other end counts too
    assert 1 / 36 < both["p_heads"] < 0.15
    assert both["p"] == both["p_heads"]
    [elsewhere] = [overlap(Components(sizes.astype(int), chosen, NAMES), {NAMES[2]: True}, **SETTINGS)]
    assert elsewhere["share"] == 0
    even = np.where(sizes > 0, 4, 0).astype(int)
    same = overlap(Components(sizes.astype(int), even, NAMES), {NAMES[0]: True}, **SETTINGS)
    assert same["p"] > 0.9


def test_components_of_heads_by_chance_overlap_no_more_often_than_alpha():
    source, found, studies = np.random.default_rng(4), 0, 200
    sizes = np.kron(np.eye(2), np.full((1, 4), 16)).astype(int)
    for _ in range(studies):
        # heads differ in how much they hold, which weights at random within matrices do not know of
        shares = np.where(sizes > 0, source.integers(0, 16, sizes.shape), 0)
        causal = {name: bool(mark) for name, mark in zip(NAMES, source.random(8) < 0.5, strict=True)}
        found += (
            overlap(Components(sizes, shares, NAMES), causal, permutations=100, seed=int(source.integers(2**31)))["p"]
            <= 0.05
        )
    assert found / studies <= 0.09


def ablations(path, *rows):
    columns = ["domain", "group", "target", "method", "timestep", "verdict", "effect_percent"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def test_a_head_is_causal_whose_removal_is_told_to_harm_a_domain(tmp_path):
    told, untold = "differs from zero", "no effect found"
    rows = [
        ("real", "heads", NAMES[0], "mean", "all", untold, 0.1),
        ("synthetic", "heads", NAMES[0], "mean", "all", told, 3.0),
        *((domain, "heads", NAMES[1], "mean", "all", untold, 3.0) for domain in ("real", "synthetic")),
        *((domain, "heads", NAMES[2], "mean", "all", told, -3.0) for domain in ("real", "synthetic")),
        ("real", "heads", NAMES[3], "mean", "500", told, 3.0),
        ("real", "heads", NAMES[3], "zero", "all", told, 3.0),
        ("real", "layers", "a.self", "mean", "all", told, 3.0),
    ]
    assert causal_heads(ablations(tmp_path / "effects.csv", *rows), "mean") == {
        NAMES[0]: True,
        NAMES[1]: False,
        NAMES[2]: False,
    }
    with pytest.raises(StoreError, match="has no single heads replaced by 'resample'"):
        causal_heads(tmp_path / "effects.csv", "resample")


def test_the_words_of_the_main_study_are_its_own():
    from diffmech.interventions import decisions

    assert causal_heads.__globals__["TOLD"] == decisions.DIFFERS


def test_a_mechanism_is_one_unit_over_all_its_heads():
    scores = {name: torch.from_numpy(values) for name, values in planted("a.self.h02").items()}
    mechanisms = {NAMES[2]: "self-1", NAMES[5]: "self-1", NAMES[0]: "self-2"}
    chosen = select(scores, by_mechanism(two_matrices(), mechanisms), granularity="mechanism", dose=4)
    assert chosen.units == 2
    assert chosen.count == 8
    rows = chosen.indices["a.weight"] // 8
    assert np.isin(rows, (0, 1, 4, 5)).all()  # h00 and h02
    assert "b.weight" not in chosen.indices  # h05 is of the same unit as h02, whose scores are higher
    with pytest.raises(ModelError, match="belongs to one attention head of a mechanism"):
        select(scores, by_mechanism(two_matrices(), {}), granularity="mechanism", dose=4)


def test_the_mechanism_of_a_head_is_that_of_most_phases(tmp_path):
    rows = [("h0", "self-2"), ("h0", "self-1"), ("h0", "self-1"), ("h1", "self-3"), ("h1", "self-4")]
    pd.DataFrame(rows, columns=["head", "mechanism"]).to_csv(tmp_path / "heads.csv", index=False)
    assert mechanism_of_heads(tmp_path / "heads.csv") == {"h0": "self-1", "h1": "self-3"}


def test_jobs_sum_heads_and_edit_by_mechanism(judge, runtime, tmp_path):  # noqa: F811
    model = untrained(tmp_path, 8)
    denoiser = load_denoiser(model, device="cpu")
    names = sorted({head for weight in weights(denoiser) for head in weight.heads})
    files = [str(tmp_path / f"{window}.safetensors") for window in range(2)]
    settings = {"concept": HAT, "runtime": runtime}
    attribute_concept(
        model,
        {"erase": files},
        tmp_path / "map.csv",
        groups=None,
        attribution=ATTRIBUTION,
        curvature=False,
        **settings,
    )
    rows = [("real", "heads", name, "mean", "all", "differs from zero", float(n)) for n, name in enumerate(names)]
    for effects in (None, ablations(tmp_path / "effects.csv", *rows)):
        tables = [tmp_path / f"{name}.csv" for name in ("heads", "overlap")]
        concept_heads(
            model,
            gradients_of(files, ["hat"], ["erase"]),
            effects,
            *tables,
            components=30,
            method="mean",
            device="cpu",
            **SETTINGS,
        )
        heads, overlaps = HEADS.read(tables[0]), OVERLAP.read(tables[1])
        assert sorted(heads["head"]) == names
        assert len(overlaps) == (0 if effects is None else 2)
    assert heads["causal"].sum() == len(names) - 1
    assert overlaps["components"].tolist() == [30, 30]
    among = [weight for weight in weights(denoiser) if weight.heads]
    scores = added([read_gradients(file) for file in files]).scores(among, "first")
    total = sum(float(scores[weight.name].double().sum()) for weight in among)
    assert heads[["positive", "negative"]].to_numpy().sum() == pytest.approx(total, rel=1e-4, abs=1e-9)

    pd.DataFrame({"head": names, "mechanism": ["self-1", *["cross-1"] * (len(names) - 1)]}).to_csv(
        tmp_path / "mechanisms.csv", index=False
    )
    shared = {"evaluation": EVALUATION, "judges": JudgesConfig(), **settings}
    original_images(model, judge, tmp_path / "originals.zip", uce=False, **shared)
    groups = ["self_query", "self_out", "cross_query"]
    edit_concept(
        model,
        files,
        tmp_path / "originals.zip",
        judge,
        tmp_path / "mask.safetensors",
        tmp_path / "edit.zip",
        objective="erase",
        edit=EditConfig(groups=groups, granularity="mechanism", baselines=["random"], random_draws=1),
        dose=COUNT,
        mechanisms=tmp_path / "mechanisms.csv",
        **shared,
    )
    mask = read_mask(tmp_path / "mask.safetensors")
    assert (mask.about["units"], mask.count) == (2, 2 * COUNT)
    again = random_edit(denoiser, mask, 0)  # the mask itself knows its mechanisms
    units = {weight.name: weight for weight in edited_weights(denoiser, mask)}
    assert again.count == mask.count
    assert {name for weight in units.values() for name in weight.heads} <= {"self-1", "cross-1"}


def test_what_cannot_be_told_apart_is_said():
    row = dict.fromkeys(OVERLAP.columns, 0.5) | {"heads": 8, "causal_heads": 8}
    [finding] = findings(pd.DataFrame([row]), alpha=0.05)
    assert finding.verdict == "cannot be told"
    assert list(findings(OVERLAP.frame(), alpha=0.05)) == []
