"""Labels: planted heads get their names, and nothing gets a name in an untrained model."""

import numpy as np
import pandas as pd
import pytest
from conftest import SETTINGS, write_features
from planted_captures import SITE
from planted_heads import HEADS, write_planted_study

from diffmech.errors import StoreError
from diffmech.mechanisms.clustering import cluster_heads
from diffmech.mechanisms.labels import Evidence, label_mechanisms, name_mechanisms, rank_among_twins
from diffmech.mechanisms.phases import find_phases

NAMES = {
    "edge": "edge",
    "part": "semantic",
    "local": "local",
    "mirror": "mirror",
    "sink": "sink",
    "far": "global",
    "position": "positional",
}


def run(folder, features, settings=SETTINGS):
    phases, members, output = (folder / name for name in ("phases.csv", "members.csv", "heads.csv"))
    find_phases(features, phases, mechanisms=settings)
    cluster_heads(features, phases, members, folder / "clusters.csv", mechanisms=settings)
    label_mechanisms(features, phases, members, output, mechanisms=settings)
    return pd.read_csv(output, keep_default_na=True)


@pytest.fixture(scope="module")
def labelled(planted, tmp_path_factory):
    return run(tmp_path_factory.mktemp("labels"), planted[1]).set_index("head")


def test_planted_heads_get_their_names(labelled):
    for index, head in enumerate(HEADS[:-1]):
        row = labelled.loc[f"{SITE}.h{index:02d}"]
        assert row["label"] == NAMES[head], head
        assert row["confirmed"], head
        assert row["p_holm"] < 0.05
        assert row["beats_untrained"]


def test_a_semantic_head_is_named_after_its_part_or_its_token(labelled):
    assert labelled.loc[f"{SITE}.h01", "probe"] == "eye"
    cross = labelled.loc["down1.0.cross.h00"]
    assert (cross["label"], cross["probe"], bool(cross["confirmed"])) == ("semantic", "glasses", True)


def test_uniform_heads_confirm_no_name(labelled):
    assert not labelled.loc[f"{SITE}.h{HEADS.index('uniform'):02d}", "confirmed"]
    uniform_cross = labelled.loc[[f"down1.0.cross.h{index:02d}" for index in (1, 2, 3)]]
    assert (uniform_cross["label"] == "unassigned").all()


def test_heads_that_change_over_denoising_get_another_name_in_each_phase(tmp_path):
    files = write_planted_study(tmp_path, seed=2, samples=6, seen=2, timesteps=(100, 300, 500, 700), change=2, twins=19)
    table = run(tmp_path, write_features(tmp_path, files))
    assert table["phase"].max() == 2
    edge = table[table["head"] == f"{SITE}.h00"].set_index("phase")
    assert list(edge["phase_last"]) == [300, 700]
    assert edge.loc[1, "label"] == "edge"
    assert edge.loc[2, "mechanism"] != edge.loc[1, "mechanism"]
    assert not edge.loc[2, "confirmed"]
    assert list(zip(table["head"], table["phase"], strict=True)) == sorted(
        zip(table["head"], table["phase"], strict=True)
    )


def test_table_is_the_same_bytes_on_every_run(planted, tmp_path):
    found = []
    for _ in range(2):
        run(tmp_path, planted[1])
        found.append((tmp_path / "heads.csv").read_bytes())
    assert found[0] == found[1]


def test_untrained_model_as_the_study_gets_any_name_no_more_often_than_alpha():
    rng = np.random.default_rng(0)
    studies, alpha, found = 3000, 0.05, 0
    for _ in range(studies):
        # twenty models, 6 probes of very different scale and correlated through the model, 5 heads
        effects = rng.gamma(2.0, size=(20, 1, 1)) * np.exp(rng.normal(size=(20, 5, 6))) * 10.0 ** np.arange(-3, 3)
        maxima = effects.max(axis=1)
        found += bool((rank_among_twins(effects[0], maxima[0], maxima[1:]) <= alpha).any())
    assert abs(found / studies - alpha) < 3 * np.sqrt(alpha * (1 - alpha) / studies)


def test_whole_pipeline_names_nothing_in_an_untrained_study(tmp_path):
    named = 0
    for seed in range(2):
        files = write_planted_study(tmp_path, seed=seed, samples=5, seen=5, timesteps=(100,), twins=19, trained=False)
        named += (run(tmp_path, write_features(tmp_path, files))["label"] != "unassigned").any()
    # each study has a chance of at most 5 %
    assert named == 0


def test_strong_effects_beat_the_twins_even_when_the_study_is_extreme_in_every_probe():
    twins = np.random.default_rng(1).normal(0.01, 0.002, size=(19, 8))
    study = np.linspace(0.1, 0.9, 8)
    effects = np.stack([study, 0.5 * study, np.full(8, 0.01), np.full(8, np.nan)])
    p = rank_among_twins(effects, study, twins)
    assert (p[:2] == 0.05).all()
    assert (p[2] > 0.05).all()
    assert np.isnan(p[3]).all()


def evidence(**changes):
    """Return one mechanism's evidence in which edges win every test."""
    probes = ("position", "edges", "intensity", "part:eye")
    values = {
        "ratio": [1.4, 2.0, 1.2, np.nan],
        "excess": [0.4, 0.3, 0.2, np.nan],
        "p_holm": [0.001, 0.001, 0.001, np.nan],
        "content_p_holm": [np.nan, 0.001, 0.001, np.nan],
        "p_untrained": [0.05, 0.05, 0.05, np.nan],
    }
    arrays = {name: np.array([changes.get(name, value)]) for name, value in values.items()}
    return Evidence(("self-1",), probes, **arrays, content_dependence=np.array([changes.get("dependence", 0.9)]))


@pytest.mark.parametrize(
    ("changes", "label", "probe"),
    [
        ({}, "edge", "edges"),
        ({"content_p_holm": [np.nan, 0.5, 0.001, np.nan]}, "positional", "edges"),
        ({"excess": [0.4, 0.3, 0.5, np.nan]}, "unassigned", "intensity"),
        ({"excess": [0.4, 0.3, 0.2, 0.6], "p_holm": [1, 1, 1, 0.001], "p_untrained": [1, 1, 1, 0.05]}, None, "eye"),
        ({"p_holm": [0.001, 0.05, 1, np.nan], "dependence": 0.1}, "positional", "position"),
        ({"p_untrained": [0.05, 0.1, 0.1, np.nan], "dependence": 0.9}, "unassigned", "edges"),
        ({"excess": [0.4, -0.3, -0.2, np.nan]}, "unassigned", "intensity"),
        # a probe that holds little of a preference for fixed places does not name it
        ({"excess": [0.9, 0.3, 0.2, np.nan], "dependence": 0.1}, "positional", "position"),
        ({"excess": [0.5, 0.3, 0.2, np.nan], "dependence": 0.1}, "edge", "edges"),
        ({"excess": [0.9, 0.3, 0.2, np.nan], "dependence": 0.9}, "edge", "edges"),
    ],
)
def test_a_name_needs_attraction_both_nulls_and_content(changes, label, probe):
    row = name_mechanisms(evidence(**changes), 0.05).iloc[0]
    # the part's map draws no more than other images' maps would: its content p is missing, so nothing speaks against it
    assert row["label"] == (label or "semantic")
    assert row["probe"] == probe


def test_members_of_another_run_are_refused(planted, tmp_path):
    run(tmp_path, planted[1])
    table = pd.read_csv(tmp_path / "members.csv")
    table.assign(head=table["head"] + "x").to_csv(tmp_path / "members.csv", index=False)
    with pytest.raises(StoreError, match=r"members\.csv: names heads or phases that"):
        label_mechanisms(
            planted[1],
            tmp_path / "phases.csv",
            tmp_path / "members.csv",
            tmp_path / "heads.csv",
            mechanisms=SETTINGS,
        )
