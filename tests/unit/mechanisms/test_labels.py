"""Labels: planted heads get their names in each domain, and what gets none is told why."""

import numpy as np
import pandas as pd
import pytest
from feature_files import SETTINGS, write_features
from planted_captures import SITE
from planted_heads import HEADS, write_planted_study

from diffmech.errors import StoreError
from diffmech.mechanisms.clustering import cluster_heads
from diffmech.mechanisms.evidence import Evidence
from diffmech.mechanisms.labels import label_mechanisms, labels_by_domain, name_mechanisms
from diffmech.mechanisms.phases import find_phases

NAMES = {
    "edge": "edge",
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


@pytest.mark.parametrize("name", NAMES)
def test_planted_heads_get_their_names_in_both_domains(name, labelled):
    row = labelled.loc[f"{SITE}.h{HEADS.index(name):02d}"]
    assert list(row[["label", "label_first", "label_second"]]) == [NAMES[name]] * 3
    assert row["confirmed"]
    assert row["confirmed_first"]
    assert row["confirmed_second"]
    assert pd.isna(row["reason"])
    assert row["p_untrained"] == 0.05
    assert row["excess"] > row["smallest_excess"]
    # the domain that says less
    assert row["enrichment"] == min(row["enrichment_first"], row["enrichment_second"]) > 1
    assert list(row[["found_on_first", "found_on_second", "tested_on_first", "tested_on_second"]]) == [16] * 4
    # places and tokens have no map to roll or to deal out
    of_maps = row[["p_rolled_holm", "p_content_holm", "p_rolled_holm_first", "p_content_holm_second"]]
    assert (of_maps < 0.05).all() if name == "edge" else of_maps.isna().all()


def test_a_semantic_head_is_named_after_its_part_or_its_token(labelled):
    part = labelled.loc[f"{SITE}.h01"]
    assert (part["label_second"], part["probe_second"], bool(part["confirmed_second"])) == ("semantic", "eye", True)
    cross = labelled.loc["down1.0.cross.h00"]
    assert (cross["label"], cross["probe"], bool(cross["confirmed"])) == ("semantic", "glasses token", True)


def test_each_domain_has_its_own_label_which_some_head_must_confirm(labelled):
    part = labelled.loc[f"{SITE}.h01", "mechanism"]
    edge = labelled.loc[f"{SITE}.h00", "mechanism"]
    labels = labels_by_domain(labelled.reset_index())
    assert (labels[part, "real"], labels[part, "synthetic"]) == ("unassigned", "semantic")
    assert (labels[edge, "real"], labels[edge, "synthetic"]) == ("edge", "edge")
    off = labels_by_domain(labelled.assign(confirmed_second=False).reset_index())
    assert (off[edge, "real"], off[edge, "synthetic"]) == ("edge", "unassigned")


def test_what_was_measured_in_one_domain_only_names_nothing_in_both(labelled):
    part = labelled.loc[f"{SITE}.h01"]
    assert (part["label"], bool(part["confirmed"])) == ("unassigned", False)
    # it looks at a part wherever that is, which is no preference for what is near the query
    assert part["label_first"] == "unassigned"
    assert part["reason"] == (
        "cannot be told of both domains: unassigned on real, semantic (eye) on synthetic,"
        " where eye was not measured on real"
    )


def test_uniform_heads_confirm_no_name(labelled):
    assert not labelled.loc[f"{SITE}.h{HEADS.index('uniform'):02d}", "confirmed"]
    uniform_cross = labelled.loc[[f"down1.0.cross.h{index:02d}" for index in (1, 2, 3)]]
    assert (uniform_cross["label"] == "unassigned").all()


def test_heads_that_change_over_denoising_get_another_name_in_each_phase(tmp_path):
    files = write_planted_study(tmp_path, seed=2, samples=16, seen=2, timesteps=(100, 300, 500, 700), change=2)
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


PROBES = ("position", "edges", "intensity", "part:eye", "sink")


def evidence(domains=("real",), copies=19, images=16, **changes):
    """Return one mechanism's evidence in which edges win every test, alike in all domains; changes are per domain."""
    values = {
        "ratio": [1.4, 2.0, 1.2, np.nan, 1.1],
        "excess": [0.4, 0.3, 0.2, np.nan, 0.01],
        "p_rolled_holm": [np.nan, 0.001, 0.001, np.nan, np.nan],
        "p_content_holm": [np.nan, 0.001, 0.001, np.nan, np.nan],
        "p_untrained": [0.05, 0.05, 0.05, np.nan, 1.0],
    }
    arrays = {}
    for name, value in values.items():
        given = changes.get(name, value)
        arrays[name] = np.array([given] * len(domains) if np.ndim(given) == 1 else given, dtype=float)[:, None]
    few = np.full((len(domains), len(PROBES)), images)
    return Evidence(
        domains,
        ("self-1",),
        PROBES,
        **arrays,
        content_dependence=np.full((len(domains), 1), changes.get("dependence", 0.9)),
        images=few,
        smallest_content_p=np.where(few < 4, 1.0, 1e-9),
        copies=copies,
        smallest_excess=np.full(len(PROBES), 0.02),
    )


UNTOLD_PART = {"excess": [0.4, 0.3, 0.2, 0.6, 0], "p_rolled_holm": [np.nan, 1, 1, 0.001, np.nan]}


@pytest.mark.parametrize(
    ("changes", "label", "probe", "reason"),
    [
        ({}, "edge", "edges", ""),
        # places that the maps of all images share
        (
            {"p_content_holm": [np.nan, 0.5, 0.001, np.nan, np.nan]},
            "unassigned",
            "edges",
            "not shown to exceed the maps of other images",
        ),
        ({"p_content_holm": [np.nan, 0.5, 0.001, np.nan, np.nan], "dependence": 0.1}, "positional", "position", ""),
        (
            {"p_content_holm": [np.nan, 0.5, 0.001, np.nan, np.nan], "images": 3},
            "unassigned",
            "edges",
            "cannot be told: 3 images allow no p of content below 1",
        ),
        # what the audit saw: all pass, and the page said that nothing did
        (
            {"excess": [0.02, 0.08, 0.10, np.nan, 0]},
            "unassigned",
            "intensity",
            "intensity is strongest and names no mechanism",
        ),
        (UNTOLD_PART | {"p_untrained": [1, 1, 1, 0.05, 1]}, "semantic", "eye", ""),
        (
            {"p_rolled_holm": [np.nan, 0.05, 1, np.nan, np.nan], "dependence": 0.1},
            "positional",
            "position",
            "",
        ),
        ({"p_untrained": [0.05, 0.1, 0.1, np.nan, 1]}, "unassigned", "edges", "not shown to exceed untrained copies"),
        (
            {"p_untrained": [0.1, 0.1, 0.1, np.nan, 1], "p_rolled_holm": [np.nan, 0.6, 1, np.nan, np.nan]},
            "unassigned",
            "edges",
            "not shown to exceed rolled maps or untrained copies",
        ),
        ({"p_rolled_holm": [np.nan, 0.6, 1, np.nan, np.nan]}, "unassigned", "edges", "not shown to exceed rolled maps"),
        (
            {"excess": [0.4, -0.3, -0.2, np.nan, -0.3]},
            "unassigned",
            "intensity",
            "nothing attracts more attention than it would of uniform attention",
        ),
        (
            {"p_untrained": [0.1, 0.1, 0.1, np.nan, 0.1], "copies": 9},
            "unassigned",
            "edges",
            "cannot be told: 9 untrained copies allow no p below 0.1",
        ),
        # a place needs no map
        ({"excess": [0.4, 0.1, 0.2, np.nan, 0.35], "p_untrained": [0.05] * 3 + [np.nan, 0.05]}, "sink", "sink", ""),
        # a probe that holds little of a preference for fixed places does not name it
        ({"excess": [0.9, 0.3, 0.2, np.nan, 0], "dependence": 0.1}, "positional", "position", ""),
        ({"excess": [0.5, 0.3, 0.2, np.nan, 0], "dependence": 0.1}, "edge", "edges", ""),
        ({"excess": [0.9, 0.3, 0.2, np.nan, 0], "dependence": 0.9}, "edge", "edges", ""),
    ],
)
def test_a_name_needs_all_its_tests_and_none_is_told_why(changes, label, probe, reason):
    row = name_mechanisms(evidence(**changes), 0.05).iloc[0]
    assert (row["label"], row["probe"], row["reason"]) == (label, probe, reason)
    assert (row["label_first"], row["probe_first"], row["reason_first"]) == (label, probe, reason)


BOTH = ("real", "synthetic")


def test_a_name_that_holds_in_one_domain_is_that_domains_alone():
    """4.25 times uniform on the first domain, 0.27 times on the second: the mean is above 2, and names nothing."""
    excess = [[0, 0.1, 0, 0.5, 0], [0, 0.1, 0, -0.1, 0]]
    ratio = [[1, 1.5, 1, 4.25, 1], [1, 1.5, 1, 0.27, 1]]
    passing = {"p_rolled_holm": [np.nan, 0.5, 0.5, 0.001, np.nan], "p_content_holm": [np.nan, 0.5, 0.5, 0.001, np.nan]}
    found = evidence(BOTH, excess=excess, ratio=ratio, p_untrained=[1, 0.05, 1, 0.05, 1], **passing)
    row = name_mechanisms(found, 0.05).iloc[0]
    assert (row["label_first"], row["probe_first"], row["enrichment_first"]) == ("semantic", "eye", 4.25)
    assert (row["label_second"], row["probe_second"]) == ("unassigned", "edges")
    assert (row["label"], row["reason"]) == (
        "unassigned",
        "the two domains share no name: semantic (eye) on real, unassigned on synthetic",
    )


def test_the_evidence_for_a_shared_name_is_that_of_the_domain_that_says_less():
    p = [[np.nan, 0.001, 1, np.nan, np.nan], [np.nan, 0.004, 1, np.nan, np.nan]]
    excess = [[0, 0.3, 0.1, np.nan, 0], [0, 0.2, 0.1, np.nan, 0]]
    row = name_mechanisms(evidence(BOTH, p_rolled_holm=p, excess=excess), 0.05).iloc[0]
    assert (row["label"], row["excess"], row["p_rolled_holm"]) == ("edge", 0.2, 0.004)
    assert (row["excess_first"], row["p_rolled_holm_second"]) == (0.3, 0.004)


def test_two_parts_share_no_name_and_reasons_that_differ_are_told_by_domain():
    row = name_mechanisms(
        evidence(
            BOTH,
            p_rolled_holm=[[np.nan, 0.9, 1, np.nan, np.nan], [np.nan, 0.001, 1, np.nan, np.nan]],
            p_untrained=[1, 0.1, 1, np.nan, 1],
        ),
        0.05,
    ).iloc[0]
    assert row["reason"] == (
        "unassigned for different reasons: not shown to exceed rolled maps or untrained copies (real); "
        "not shown to exceed untrained copies (synthetic)"
    )
    probes = ("position", "part:eye", "part:hat")
    arrays = {
        "ratio": [[1, 3, 1], [1, 1, 3]],
        "excess": [[0, 0.3, 0], [0, 0, 0.3]],
        **dict.fromkeys(("p_rolled_holm", "p_content_holm"), [[np.nan, 0.001, 0.001]] * 2),
        "p_untrained": [[1, 0.05, 0.05]] * 2,
    }
    found = Evidence(
        BOTH,
        ("self-1",),
        probes,
        **{name: np.array(values, dtype=float)[:, None] for name, values in arrays.items()},
        content_dependence=np.ones((2, 1)),
        images=np.full((2, 3), 16),
        smallest_content_p=np.full((2, 3), 1e-9),
        copies=19,
        smallest_excess=np.zeros(3),
    )
    row = name_mechanisms(found, 0.05).iloc[0]
    assert list(row[["label_first", "label_second", "label"]]) == ["semantic", "semantic", "unassigned"]
    assert row["reason"] == "the two domains share no name: semantic (eye) on real, semantic (hat) on synthetic"


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
