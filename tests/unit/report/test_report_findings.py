"""Sentences claim what both nulls allow, with the tables' numbers, and say 'no' otherwise."""

from dataclasses import replace

import numpy as np
import pytest
from small_study import study_config

from diffmech.config.study import UntrainedConfig
from diffmech.interventions.decisions import CAUSAL, HELPS, NOT_BEYOND, UNFAIR, UNTOLD
from diffmech.report.findings import findings, is_untrained, measured_counterparts, nothing_found, out_of_reach


def answers(tables):
    return {finding.section: finding for finding in findings(tables, study_config())}


def test_a_divergence_that_beats_both_nulls_is_reported_with_its_largest_value_and_interval(found):
    finding = answers(found[2])["divergence"]
    assert finding.verdict == "found"
    assert "at 4 of 5 timesteps" in finding.answer
    assert "t = 820: 0.0900 nats (0.0765 to 0.103)" in " ".join(finding.details)


def test_of_a_divergence_that_is_not_shown_to_exceed_untrained_copies_no_cause_is_claimed(found):
    tables = found[2]
    reached = tables.divergence.assign(significant=False, p_untrained=0.8)
    finding = answers(replace(tables, divergence=reached))["divergence"]
    assert finding.verdict == "not found"
    said = " ".join(finding.details)
    assert "not shown to by more than in untrained copies" in said
    assert "lies in the images" not in said
    assert "differ as much" not in said


def test_labels_are_counted_in_heads_and_unassigned_clusters_are_told(found):
    finding = answers(found[2])["mechanisms"]
    assert "6 of 8 clusters" in finding.answer
    assert "semantic 15" in finding.details[0]
    assert finding.details[1].startswith("2 clusters of 8 stayed unassigned")


def test_a_mechanism_matters_only_beyond_its_matched_controls(found):
    tables = found[2]
    assert "2 of 16 mechanism and domain pairs" in answers(tables)["ablation"].answer
    beaten = tables.effects.assign(verdict=tables.effects["verdict"].replace(CAUSAL, NOT_BEYOND))
    finding = answers(replace(tables, effects=beaten))["ablation"]
    assert finding.verdict == "not found"
    assert (
        finding.answer
        == "Not shown: of 16 mechanism and domain pairs none surely costs more than equally many matched heads."
    )
    assert "all 8 mechanisms on real and synthetic images together" in finding.family
    assert "% or more, and is told from its controls where it is 5.5 % or more (4.2 standard" in finding.sight


@pytest.mark.parametrize(
    ("verdict", "card", "words"),
    [(UNTOLD, "cannot be told", "It cannot be told of any"), (UNFAIR, "no fair control", "no other heads match them")],
)
def test_what_no_outcome_could_show_is_not_said_to_be_not_found(found, verdict, card, words):
    tables = found[2]
    unseen = tables.effects.assign(verdict=verdict, controls_fair=verdict != UNFAIR, n=4)
    finding = answers(replace(tables, effects=unseen))["ablation"]
    assert finding.verdict == card
    assert words in finding.answer
    if verdict == UNTOLD:
        assert finding.sight == "4 images allow no p-value below 0.12: level 0.05 takes 6 (ablation.samples)."
    else:
        assert any(
            "no fair control: the closest are 20 sets 0.93 to 1.1 times as large" in detail
            for detail in finding.details
        )


def test_an_effect_that_helps_denoising_is_no_mechanism_that_matters(found):
    tables = found[2]
    helpful = tables.effects.assign(verdict=HELPS, effect_percent=-tables.effects["effect_percent"])
    assert answers(replace(tables, effects=helpful))["ablation"].verdict == "not found"


def test_without_ablated_mechanisms_nothing_is_claimed(found):
    tables = found[2]
    heads = tables.effects[tables.effects["group"] == "heads"]
    assert answers(replace(tables, effects=heads))["ablation"].verdict == "caution"


@pytest.mark.parametrize(
    ("ratios", "start", "verdict"),
    [
        ((1.12, 1.10, 1.2), "Yes:", "found"),
        ((1.12, 1.0, 1.0), "In part:", "found"),
        ((0.8, 1.0, 1.0), "No: smaller by effective heads", "not found"),
        ((1.0, 1.0, 1.0), "No: none of 3 measures", "not found"),
    ],
)
def test_complexity_is_answered_measure_by_measure(found, ratios, start, verdict):
    tables = found[2]
    table = tables.complexity.assign(ratio=ratios)
    table = table.assign(low=table["ratio"] - 0.02, high=table["ratio"] + 0.02)
    table = table.assign(p=[0.001 if abs(ratio - 1) > 0.02 else 0.5 for ratio in ratios])
    table = table.assign(p_untrained=[np.nan, 0.05, 0.05])
    finding = answers(replace(tables, complexity=table))["complexity"]
    assert finding.answer.startswith(start)
    assert finding.verdict == verdict
    assert "1.084 ± 0.008" in finding.details[-1]


def test_of_a_ratio_that_is_not_shown_to_exceed_untrained_copies_no_cause_is_claimed(found):
    tables = found[2]
    table = tables.complexity.assign(ratio=[1.0, 1.00021, 1.0], low=[0.9, 1.00012, 0.9], high=[1.1, 1.0003, 1.1])
    table = table.assign(p=[0.5, 0.0005, 0.5], p_untrained=[np.nan, 0.1, 0.6])
    finding = answers(replace(tables, complexity=table))["complexity"]
    assert finding.verdict == "not found"
    assert finding.answer == "Not shown: no measure of complexity differs surely by more than in untrained copies."
    assert finding.details[0].endswith("; untrained copies were not ablated.")
    assert "1.0002 (1.0001 to 1.0003), p < 0.001; untrained copies, on 16 images per domain: 0.9800 to 1.010." in (
        finding.details[1].replace("\u00a0", " ")
    )
    assert finding.details[3].startswith("By effective keys the domains differ more than shuffled labels do, but not")
    assert not any("lies in the images" in detail or "differ as much" in detail for detail in finding.details)


def test_the_residual_difference_of_the_images_is_always_told(found, null):
    for study in (found, null):
        finding = answers(study[2])["domains"]
        assert finding.verdict == "caution"
        assert "Power spectra differ by" in finding.details[0]
    assert (
        "real +25 % (+10 to +40; 8 unseen and 8 seen images); synthetic +25 %"
        in answers(found[2])["domains"].details[-1]
    )
    assert "random and were trained on no image" in answers(null[2])["domains"].details[-1]


def test_an_untrained_study_finds_nothing(null):
    tables = null[2]
    assert is_untrained(tables)
    assert nothing_found(findings(tables, study_config()))


def test_published_figures_stand_beside_what_was_measured(found, null):
    measured = measured_counterparts(found[2], "mean")
    assert measured["entropy_divergence"] == "0.0200 to 0.0900 nats"
    assert "most possible 5.545" in measured["entropy_edge"]
    assert measured["ablation_degradation"].endswith("(mean ablation of mechanisms)")
    assert measured_counterparts(null[2], "mean")["entropy_texture"] == "no head earned the label texture"


def test_with_too_few_untrained_copies_nothing_is_put_down_to_the_images(found):
    tables = found[2]
    assert out_of_reach(19, 0.05) is None
    assert out_of_reach(99, 0.01) is None
    few = study_config().model_copy(update={"untrained": UntrainedConfig(seeds=3)})
    lost = replace(
        tables,
        divergence=tables.divergence.assign(significant=False),
        mechanisms=tables.mechanisms.assign(label="unassigned"),
        complexity=tables.complexity.assign(p=[0.5, 0.001, 0.001], low=1.1, p_untrained=[np.nan, 0.25, 0.25]),
    )
    told = findings(lost, few)
    reason = "It cannot be told: 3 untrained copies allow no p below 0.25, and level 0.05 takes 19 (untrained.seeds)."
    for finding in (told[0], told[1], told[3]):
        assert (finding.verdict, finding.answer) == ("caution", reason)
        assert not any("in the images" in detail for detail in finding.details)
    assert not nothing_found(told)


def test_what_untrained_copies_cannot_tell_does_not_hide_what_has_no_such_null(found):
    table = found[2].complexity.assign(p=0.001, low=1.1, ratio=1.2, p_untrained=[np.nan, 0.25, np.nan])
    few = study_config().model_copy(update={"untrained": UntrainedConfig(seeds=3)})
    finding = findings(replace(found[2], complexity=table), few)[3]
    assert finding.verdict == "found"
    assert finding.answer == (
        "In part: larger by effective heads and activation participation, not shown to differ otherwise."
    )
    assert finding.details[2].endswith("; untrained copies saw too few images to compare.")
    assert finding.details[3].startswith(
        "By effective keys the domains differ more than shuffled labels do. It cannot be told: 3 untrained copies"
    )


def test_preferences_that_rolled_maps_have_too_need_no_more_untrained_copies(found):
    tables = found[2]
    few = study_config().model_copy(update={"untrained": UntrainedConfig(seeds=3)})
    lost = replace(tables, mechanisms=tables.mechanisms.assign(label="unassigned", p_holm=0.5))
    assert findings(lost, few)[1].verdict == "not found"
