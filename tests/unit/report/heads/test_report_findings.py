"""Sentences claim what both nulls allow, with the tables' numbers, and say 'no' otherwise."""

import numpy as np
import pandas as pd
import pytest
from small_study import changed, study_config

from diffmech.config.analysis import EntropyConfig
from diffmech.config.study import UntrainedConfig
from diffmech.interventions.decisions import CAUSAL, DIFFERS, HELPS, NOT_BEYOND, NOTHING, UNFAIR, UNTOLD
from diffmech.report.heads.denoising import is_untrained
from diffmech.report.heads.findings import findings, head_labels, mechanism_names, nothing_found, out_of_reach
from diffmech.report.heads.naming import reasons
from diffmech.report.heads.published import measured_counterparts
from diffmech.report.wording import number


def answers(tables):
    return {finding.section: finding for finding in findings(tables, study_config())}


def test_a_divergence_that_beats_both_nulls_is_reported_by_kind_of_attention(found):
    finding = answers(found[2])["divergence"]
    assert finding.verdict == "found"
    assert finding.answer == (
        "Yes, at 4 of 5 timesteps of self-attention and at 4 of 5 timesteps of cross-attention the difference beats"
        " both nulls."
    )
    # never of all heads together: their bounds are ln 256 and ln 5
    assert "Self-attention: " in finding.details[1]
    assert "t = 820: 0.0900 nats (0.0765 to 0.103)" in finding.details[1]
    assert "t = 820: 0.0450 nats (0.038" in finding.details[2]
    assert "Corrected over 10 tests (timesteps x kinds of attention)" in finding.family
    assert "0.0250 nats in self-attention" in finding.sight


def test_a_divergence_that_untrained_copies_reach_too_is_put_down_to_nothing(found):
    """Not being told from untrained copies is no evidence that a difference lies in the images."""
    tables = found[2]
    reached = tables.divergence.assign(significant=False, p_untrained=0.8)
    finding = answers(changed(tables, divergence=reached))["divergence"]
    assert finding.verdict == "not found"
    told = " ".join(finding.details)
    assert "which cannot be told apart from what untrained copies show" in told
    assert "At 4 timesteps of self-attention and at 4 timesteps of cross-attention the domains differ more" in told
    assert "images, not" not in told + finding.answer


def test_too_few_images_cannot_tell_whether_domains_differ(found):
    tables = found[2]
    few = tables.divergence.assign(significant=False, p=0.1, p_holm=1.0, p_least=0.5, n_first=3, n_second=3)
    finding = answers(changed(tables, divergence=few))["divergence"]
    assert finding.verdict == "cannot be told"
    assert "3 images per domain" in finding.answer
    assert "level 0.05 takes 6 images per domain (capture.samples)" in finding.answer
    config = study_config().model_copy(update={"entropy": EntropyConfig(permutations=99)})
    hasty = tables.divergence.assign(significant=False, p_least=0.1)
    finding = findings(changed(tables, divergence=hasty), config)[0]
    assert finding.answer.endswith("level 0.05 takes 200 permutations.")


def test_labels_are_counted_in_heads_that_confirm_them_and_what_has_none_is_told_why(found):
    table = found[2].mechanisms
    finding = answers(found[2])["mechanisms"]
    assert finding.answer == (
        "Yes: 6 of 8 clusters of heads carry a name that holds on real and on synthetic images, 1 more in one of them"
        " alone."
    )
    # 12 of cross-attention and 3 of self-attention; of texture, the last head of each site does not do what it should
    assert "semantic 15" in finding.details[0]
    assert "texture 3" in finding.details[0]
    assert table.loc[table["label"] == "texture", "head"].nunique() == 6
    assert finding.details[1] == "In one domain alone: semantic on synthetic 9."
    assert finding.details[2] == (
        "2 clusters of 8 carry no name that holds in both domains: the two domains share no name (1);"
        " not shown to exceed untrained copies (1)."
    )


def test_true_reasons_are_counted_not_the_nulls_that_were_passed(found):
    """All p-values pass, but bright places are strongest: the page said that no preference beat both nulls."""
    tables = found[2]
    table = tables.mechanisms.assign(label="unassigned", confirmed=False, confirmed_first=False, confirmed_second=False)
    reason = "intensity is strongest and names no mechanism"
    table = table.assign(label_first="unassigned", label_second="unassigned", reason=reason, p_rolled_holm=0.001)
    finding = answers(changed(tables, mechanisms=table))["mechanisms"]
    assert finding.verdict == "not found"
    assert finding.details[0] == f"8 clusters of 8 carry no name that holds in both domains: {reason} (8)."
    assert not any("beat" in detail for detail in finding.details)


def test_names_of_all_clusters_are_counted_as_english_does(found):
    table = found[2].mechanisms[found[2].mechanisms["confirmed"]]
    names = list(table["mechanism"].unique())
    told = [reasons(table[table["mechanism"].isin(names[:many])]) for many in (1, 2, 3)]
    assert [said.split(" a name")[0] for said in told] == [
        "The only cluster carries",
        "Both clusters carry",
        "All 3 clusters carry",
    ]


def test_a_name_that_no_head_confirms_is_none(found):
    tables = found[2]
    off = dict.fromkeys(("confirmed", "confirmed_first", "confirmed_second"), False)
    finding = answers(changed(tables, mechanisms=tables.mechanisms.assign(**off)))["mechanisms"]
    assert finding.verdict == "not found"
    assert "named, but none of its heads confirms the name (6)" in finding.details[0]
    assert head_labels(changed(tables, mechanisms=tables.mechanisms.assign(**off))) == {}
    names = mechanism_names(changed(tables, mechanisms=tables.mechanisms.assign(**off)))
    assert (names["self-1"], names["self-6"]) == ("edge, unconfirmed (self-1)", "unassigned (self-6)")


def test_a_mechanism_named_in_one_domain_carries_the_domain_with_its_name(found):
    names = mechanism_names(found[2])
    assert names["self-1"] == "edge (self-1)"
    assert names["cross-2"] == "semantic (eyes) on synthetic (cross-2)"
    assert names["self-6"] == "unassigned (self-6)"


def test_names_say_over_what_they_are_corrected_and_what_would_have_been_found(found, null):
    finding = answers(null[2])["mechanisms"]
    assert finding.verdict == "not found"
    assert "largest excess of 19 untrained copies over heads, timesteps, probes and both domains" in finding.family
    assert "Holm over 8 clusters, all maps and both domains" in finding.family
    assert finding.sight == (
        "Beside 19 untrained copies, an excess of 2.0 % of attention (edges) is found four times in five."
    )
    assert (
        "2.0 % of attention (edges) to 14 % (eyes), by probe, of those that hold most"
        in answers(found[2])["mechanisms"].sight
    )


def test_a_mechanism_matters_only_beyond_its_matched_controls(found):
    tables = found[2]
    assert "2 of 16 mechanism and domain pairs" in answers(tables)["ablation"].answer
    beaten = tables.effects.assign(verdict=tables.effects["verdict"].replace(CAUSAL, NOT_BEYOND))
    finding = answers(changed(tables, effects=beaten))["ablation"]
    assert finding.verdict == "not found"
    assert (
        finding.answer
        == "Not shown: of 16 mechanism and domain pairs none was shown to cost more than equally many matched heads."
    )
    assert "over 8 mechanisms on real and synthetic images together" in finding.family
    assert "exceeds its controls, beside those of all other mechanisms, where it is 5.5 % or more." in finding.sight


@pytest.mark.parametrize(
    ("verdict", "card", "words"),
    [
        (UNTOLD, "cannot be told", "It cannot be told of any"),
        (UNFAIR, "no fair control", "all 16 mechanism and domain pairs change the loss"),
    ],
)
def test_what_no_outcome_could_show_is_not_said_to_be_not_found(found, verdict, card, words):
    tables = found[2]
    unseen = tables.effects.assign(verdict=verdict, controls_fair=verdict != UNFAIR, n=4)
    finding = answers(changed(tables, effects=unseen))["ablation"]
    assert finding.verdict == card
    assert words in finding.answer
    if verdict == UNTOLD:
        assert finding.sight == "4 images allow no p-value below 0.12: level 0.05 takes 6 (ablation.samples)."
    else:
        assert any(
            "no fair control: the closest are 20 sets 0.93 to 1.1 times as large" in detail
            for detail in finding.details
        )


def of_heads(tables, verdicts, effects):
    """Return what is said of three single heads with such verdicts and effects."""
    rows = tables.effects[(tables.effects["method"] == "mean") & (tables.effects["timestep"] == "all")]
    heads = rows[(rows["group"] == "heads") & (rows["domain"] == "real")].head(3)
    heads = heads.assign(verdict=verdicts, effect_percent=effects, p_zero_max=0.01)
    heads = heads.assign(low=heads["effect_percent"] - 1, high=heads["effect_percent"] + 1)
    others = rows[rows["group"] == "mechanisms"]
    return answers(changed(tables, effects=pd.concat([others, heads])))["ablation"].details[1].replace("\u00a0", " ")


def test_of_single_heads_the_strongest_that_was_told_from_zero_is_named_not_the_largest_estimate(found):
    told = of_heads(found[2], [NOTHING, DIFFERS, NOTHING], [6.76, 5.25, 1.0])
    assert told == (
        "For 1 of 3 single heads a change of the denoising loss is shown: 5.25 % (4.25 to 6.25), for down1.0.self.h01"
        " on real images, p = 0.01 after correction over all heads and kinds of images. The largest estimate, 6.76 %"
        " (5.76 to 7.76), for down1.0.self.h00 on real images, is not told from zero."
    )
    # an effect below zero is one too
    told = of_heads(found[2], [DIFFERS, DIFFERS, NOTHING], [2.0, -5.25, 1.0])
    assert told.startswith("For 2 of 3 single heads a change of the denoising loss is shown, the strongest: −5.25 %")
    assert "not told" not in told
    told = of_heads(found[2], NOTHING, [6.76, 5.25, 1.0])
    assert told.startswith("Of 3 single heads for none a change of the denoising loss is shown, after correction")
    assert "the largest estimate is 6.76 % (5.76 to 7.76)" in told
    assert "Four times in five an effect is found where it is" in told


def test_pairs_without_fair_controls_are_not_counted_among_those_that_were_tested(found):
    tables = found[2]
    lone = tables.effects["target"].isin(["self-2", "self-3"])
    assert (tables.effects[lone & (tables.effects["group"] == "mechanisms")]["verdict"] != CAUSAL).all()
    effects = tables.effects.assign(controls_fair=tables.effects["controls_fair"] & ~lone)
    assert answers(changed(tables, effects=effects))["ablation"].answer == (
        "Yes: 2 of 12 mechanism and domain pairs with fair controls cost more than matched random heads; 4 have no fair"
        " control."
    )
    beaten = effects.assign(verdict=effects["verdict"].replace(CAUSAL, NOT_BEYOND))
    assert answers(changed(tables, effects=beaten))["ablation"].answer == (
        "Not shown: of 12 mechanism and domain pairs with fair controls none was shown to cost more than equally many"
        " matched heads; 4 have no fair control."
    )


def test_an_effect_that_helps_denoising_is_no_mechanism_that_matters(found):
    tables = found[2]
    helpful = tables.effects.assign(verdict=HELPS, effect_percent=-tables.effects["effect_percent"])
    assert answers(changed(tables, effects=helpful))["ablation"].verdict == "not found"


def test_without_ablated_mechanisms_nothing_is_claimed(found):
    tables = found[2]
    heads = tables.effects[tables.effects["group"] == "heads"]
    assert answers(changed(tables, effects=heads))["ablation"].verdict == "caution"


def with_ratios(tables, ratios, p_holm, p_untrained_max):
    table = tables.complexity.assign(ratio=ratios, p_holm=p_holm, p_untrained_max=p_untrained_max)
    table = table.assign(low=table["ratio"] - 0.02, high=table["ratio"] + 0.02)
    apart = (table["low"] > 1) | (table["high"] < 1)
    significant = apart & (table["p_holm"] <= 0.05) & (table["p_untrained_max"] <= 0.05)
    return changed(tables, complexity=table.assign(significant=significant))


@pytest.mark.parametrize(
    ("ratios", "start", "verdict"),
    [
        (
            (1.12, 1.10, 1.2),
            "Yes: those of real images are larger by effective share of keys of self-attention and activation"
            " participation; of effective heads of self-attention it cannot be told whether training made the"
            " difference.",
            "found",
        ),
        (
            (1.0, 1.10, 1.0),
            "In part: those of real images are larger by effective share of keys of self-attention; not shown to differ"
            " by effective heads of self-attention and activation participation.",
            "found",
        ),
        # a smaller circuit is a difference that was found
        (
            (1.0, 0.8, 1.0),
            "In part: those of real images are smaller by effective share of keys of self-attention",
            "found",
        ),
        (
            (1.0, 0.8, 1.2),
            "In part: those of real images are larger by activation participation and smaller by effective share of",
            "found",
        ),
        ((1.0, 1.0, 1.0), "Not shown: none of 3 measures", "not found"),
        # twins are not ablated: what they would show of effective heads is not known
        (
            (1.12, 1.0, 1.0),
            "It cannot be told: the domains differ by effective heads of self-attention, of which",
            "cannot be told",
        ),
    ],
)
def test_complexity_is_answered_measure_by_measure(found, ratios, start, verdict):
    p_holm = [0.003 if abs(ratio - 1) > 0.02 else 0.5 for ratio in ratios]
    finding = answers(with_ratios(found[2], ratios, p_holm, [np.nan, 0.05, 0.05]))["complexity"]
    assert finding.answer.startswith(start)
    assert finding.verdict == verdict
    assert "1.084 ± 0.008" in finding.details[-1]
    assert finding.family.startswith("Corrected over 3 measures: Holm against shuffled labels")
    assert finding.sight == (
        "Ratios of 1.02 in effective share of keys of self-attention and 1.04 in activation participation would be"
        " found four times in five."
    )


def test_one_of_three_raw_p_values_is_no_finding(found):
    """Any of three at 0.05 was called found: 12.5 % false alarms over the family."""
    table = found[2].complexity.assign(p=[0.5, 0.03, 0.5], p_holm=[1.0, 0.09, 1.0], significant=False)
    finding = answers(changed(found[2], complexity=table))["complexity"]
    assert finding.verdict == "not found"
    assert not any("differ more than shuffled labels" in detail for detail in finding.details)


def test_a_ratio_of_untrained_copies_too_is_put_down_to_nothing(found):
    """Not being told from untrained copies is no evidence that a difference lies in the images."""
    tables = found[2]
    table = tables.complexity.assign(ratio=[1.0, 1.00021, 1.0], low=[0.9, 1.00012, 0.9], high=[1.1, 1.0003, 1.1])
    table = table.assign(p_holm=[0.5, 0.0005, 0.5], p_untrained_max=[np.nan, 0.1, 0.6], significant=False)
    finding = answers(changed(tables, complexity=table))["complexity"]
    assert finding.verdict == "not found"
    assert finding.answer.endswith("differs by more than shuffled labels and untrained copies do.")
    assert finding.details[1].endswith("; untrained copies were not ablated.")
    assert (
        "1.0002 (1.0001 to 1.0003), p < 0.001 after correction; untrained copies, on 16 images per domain: 0.9800 to"
        " 1.010." in finding.details[2].replace("\u00a0", " ")
    )
    assert finding.details[4] == (
        "By effective share of keys of self-attention the domains differ more than shuffled labels do, which cannot be"
        " told apart from what untrained copies show."
    )
    assert "images, not" not in " ".join(finding.details)


def test_the_residual_difference_of_the_images_is_always_told(found, null):
    for study in (found, null):
        finding = answers(study[2])["domains"]
        assert finding.verdict == "caution"
        assert "Power spectra differ by" in finding.details[1]
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
    assert measured["entropy_divergence"] == (
        "self-attention 0.0200 to 0.0900 nats; cross-attention 0.0100 to 0.0450 nats"
    )
    assert "most possible 5.545" in measured["entropy_edge"]
    # two numbers, since the bounds of self- and cross-attention differ: their mean would be a number of neither
    parts = measured["entropy_semantic"].split("; cross-attention ")
    assert parts[0].startswith("self-attention ")
    assert float(parts[1].split()[0]) < np.log(5) < float(parts[0].split()[1])
    assert measured["ablation_degradation"].endswith("(mean ablation of mechanisms)")
    assert measured_counterparts(null[2], "mean")["entropy_texture"] == "no head earned the label texture"


def test_a_label_that_heads_earn_in_one_domain_is_not_said_to_be_earned_by_none(found):
    """The card said semantic on synthetic images, and the table beside the published figure that no head was."""
    tables = found[2]
    semantic = tables.mechanisms["label"] == "semantic"
    table = tables.mechanisms[~semantic]
    told = measured_counterparts(changed(tables, mechanisms=table), "mean")["entropy_semantic"]
    assert told.startswith("no head earned the label semantic in both domains; on synthetic images alone cross-attent")
    assert "mean over 9 heads" in told
    cells = table[table["label_second"] == "semantic"]
    entropy = tables.entropy[tables.entropy["domain"] == "synthetic"].merge(cells[cells["confirmed_second"]], on="head")
    inside = entropy["timestep"].between(entropy["phase_first"], entropy["phase_last"])
    assert f"alone cross-attention {number(entropy.loc[inside, 'entropy'].mean())} nats" in told


def test_with_too_few_untrained_copies_nothing_is_put_down_to_the_images(found):
    tables = found[2]
    assert out_of_reach(19, 0.05) is None
    assert out_of_reach(99, 0.01) is None
    few = study_config().model_copy(update={"untrained": UntrainedConfig(seeds=3)})
    lost = changed(
        tables,
        divergence=tables.divergence.assign(significant=False),
        mechanisms=tables.mechanisms.assign(label="unassigned"),
        complexity=tables.complexity.assign(
            p_holm=[0.5, 0.003, 0.003], low=1.1, p_untrained_max=[np.nan, 0.25, 0.25], significant=False
        ),
    )
    told = findings(lost, few)
    reason = "It cannot be told: 3 untrained copies allow no p below 0.25, and level 0.05 takes 19 (untrained.seeds)."
    for finding in (told[0], told[1], told[3]):
        assert finding.verdict in ("cannot be told", "caution")
        assert finding.answer == reason
        assert not any("in the images" in detail for detail in finding.details)
    assert not nothing_found(told)


def test_copies_that_saw_too_few_images_are_told(found):
    table = found[2].complexity.assign(p_holm=0.003, low=1.1, ratio=1.2, p_untrained_max=[np.nan, 0.05, np.nan])
    finding = answers(changed(found[2], complexity=table.assign(significant=[False, True, False])))["complexity"]
    assert finding.verdict == "found"
    assert finding.answer == (
        "Yes: those of real images are larger by effective share of keys of self-attention; of effective heads of"
        " self-attention and activation participation it cannot be told whether training made the difference."
    )
    assert finding.details[3].endswith("; untrained copies saw too few images to compare.")
    assert finding.details[4] == (
        "By effective heads of self-attention and activation participation the domains differ more than shuffled labels"
        " do; whether training made that difference cannot be told."
    )


def test_with_too_few_copies_no_name_can_be_told_whatever_rolled_maps_say(found):
    """Places and tokens have no map to roll, so that more copies could have named any cluster."""
    tables = found[2]
    few = study_config().model_copy(update={"untrained": UntrainedConfig(seeds=3)})
    lost = changed(tables, mechanisms=tables.mechanisms.assign(label="unassigned", p_rolled_holm=0.5, confirmed=False))
    assert findings(lost, few)[1].verdict == "cannot be told"
