"""What the page says of windows and patching is what the tables hold, and that there is nothing where there is none."""

import csv
import io
import re

import numpy as np
import pytest
from small_study import changed, study_config

from diffmech.report.drawing import specification
from diffmech.report.heads import charts_patching
from diffmech.report.heads.artifacts import in_order
from diffmech.report.heads.context import Context
from diffmech.report.heads.sections_patching import dose_sentence, patching_sentences, window_sentences


def context_of(study) -> Context:
    return Context(study[1], study[2], study_config(), {})


def test_what_was_found_is_said_with_its_number_and_timesteps_and_claims_no_rank_of_what_was_picked(found):
    windows = window_sentences(context_of(found))
    assert "down1.0.self.h00 at t = 620 and 820, a change of the denoising loss of 12.0 % (11.0 to 13.0)" in windows[0]
    assert windows[-1].startswith("Mechanisms that cost more than their matched controls in a window: ")
    assert "(self-1) on real images at t = 620 and 820 (12.0 % (11.0 to 13.0); controls 3.00 %)" in windows[-1]
    patching = patching_sentences(context_of(found))
    assert patching[0].startswith(
        "Real, said to be synthetic (7 images; the predictions differ by 10 % of their size): 1 of"
    )
    # it was picked as the largest: that it is more than all others would be no news
    largest = "the largest estimate of these is down1.0.cross.h00, 40.0 % (38.0 to 42.0) at t = 20, 220 and 420."
    assert largest in patching[0]
    assert "more than all other heads" not in " ".join(patching)
    assert (
        "1 of 8 heads departs from a straight line, 1 by more than 1 % of the difference; farthest is"
        " down1.0.cross.h00 (brought, real images): part of its output moves more than its part, by 5.0 % (4.0 to 6.0)"
        in dose_sentence(context_of(found))
    )
    assert "(level 0.05 for each of 4)" in dose_sentence(context_of(found))


def with_pushing_heads(study) -> Context:
    """Two heads move the prediction the other way, one of them farther than the best head brings it."""
    table = study[2].patching.copy()
    for target, value in (("up1.0.self.h01", -0.6), ("up1.0.self.h02", -0.2)):
        rows = table["target"] == target
        ends = {"effect": value, "low": value - 0.02, "high": value + 0.02, "p_zero_max": 0.01, "significant": True}
        table.loc[rows, list(ends)] = list(ends.values())
    return Context(study[1], changed(study[2], patching=table), study_config(), {})


def test_heads_that_push_the_prediction_away_bring_no_share(found, null):
    said = patching_sentences(with_pushing_heads(found))[0]
    assert "1 of 48 heads brings a share of the difference that can be told from zero; the largest estimate of" in said
    away = "2 move the prediction the other way, farthest up1.0.self.h01, −60.0 % (−62.0 to −58.0) at t = "
    assert f"40.0 % (38.0 to 42.0) at t = 20, 220 and 420; {away}" in said
    alone = patching_sentences(with_pushing_heads(null))[0]
    assert "no head brings a share of the difference that can be told from zero; 2 of 48 move the prediction" in alone
    tables = with_pushing_heads(found).tables
    chart = charts_patching.patching_map(tables.patching, "denoising", tables.heads, tables.domains)
    assert "Farthest from zero is -60 % for up1.0.self.h01" in specification(chart)["description"]


@pytest.mark.parametrize(("slope", "departure", "way"), [(-0.4, 0.05, "less"), (-0.4, -0.05, "more")])
def test_part_of_a_head_that_pushes_away_moves_more_where_it_departs_downwards(found, slope, departure, way):
    doses = found[2].doses.copy()
    bent = doses["target"] == "down1.0.cross.h00"
    ends = {"departure_low": departure - 0.01, "departure_high": departure + 0.01}
    for name, value in {"slope": slope, "departure": departure, **ends}.items():
        doses.loc[bent, name] = value
    said = dose_sentence(Context(found[1], changed(found[2], doses=doses), study_config(), {}))
    assert f"moves {way} than its part, by 5.0 % (4.0 to 6.0) of the difference" in said


def test_every_corrected_departure_is_counted_however_small(found):
    doses = found[2].doses.copy()
    doses.loc[doses["target"] == "down1.0.cross.h01", ["departure", "p_linear_max"]] = [0.002, 0.01]
    said = dose_sentence(Context(found[1], changed(found[2], doses=doses), study_config(), {}))
    assert "2 of 8 heads depart from a straight line, 1 by more than 1 % of the difference" in said


def test_domains_stand_in_the_order_of_the_study(found):
    backwards = found[2].patching.iloc[::-1]
    assert list(in_order(backwards, ("synthetic", "real"))["domain"].unique()) == ["synthetic", "real"]
    assert list(in_order(backwards, ("real", "synthetic"))["domain"].unique()) == ["real", "synthetic"]


def test_where_nothing_is_found_the_page_says_so(null):
    windows = window_sentences(context_of(null))
    assert windows[0].startswith("On real images no head has an effect in any window that can be told from zero")
    assert windows[-1].startswith(
        "No mechanism was shown to cost more than its matched controls in any window (8 tested)."
    )
    for sentence in patching_sentences(context_of(null)):
        assert "no head brings a share of the difference that can be told from zero" in sentence
        assert ". No head takes away a share" in sentence
        assert "of the median head a share of 5.0 % would be found four times in five" in sentence
    # a departure that was not shown is not shown to be none
    assert "moves another than its part of the share was not shown, for any of the 8 heads" in dose_sentence(
        context_of(null)
    )


def test_what_few_images_cannot_tell_is_not_said_to_be_nothing(null):
    tables = null[2]
    few = changed(tables, patching=tables.patching.assign(n=5), doses=tables.doses.assign(n=5))
    context = Context(null[1], few, study_config(), {})
    for sentence in [*patching_sentences(context), dose_sentence(context)]:
        assert "cannot be told: 5 images allow no p below 0.063, and level 0.05 takes 6 (patching.samples)" in sentence
        assert "told from zero" not in sentence


def test_the_size_of_the_difference_is_that_over_all_timesteps(found):
    """Not the mean over windows, of which one may hold a single timestep."""
    tables = found[2]
    whole = tables.patching["window"] == "all"
    context = Context(
        found[1],
        changed(tables, patching=tables.patching.assign(difference=np.where(whole, 0.04, 0.3))),
        study_config(),
        {},
    )
    assert "the predictions differ by 20 % of their size" in patching_sentences(context)[0]


def test_passes_that_never_differ_have_nothing_to_carry(found):
    tables = found[2]
    same = tables.patching.assign(n=0)
    context = Context(found[1], changed(tables, patching=same), study_config(), {})
    assert (
        patching_sentences(context)[0]
        == "Real, said to be synthetic: the two predictions never differ, so there is nothing to carry."
    )
    chart = charts_patching.patching_map(same, "denoising", tables.heads, tables.domains)
    assert "the two passes never differed" in specification(chart)["description"]


@pytest.mark.parametrize("source", ["sample", "domain", "attribute:hat"])
def test_every_source_is_told_in_words(source):
    words = charts_patching.between("real", source, ("real", "synthetic"))
    assert words in {"real, from another image", "real, said to be synthetic", "real, hat flipped"}


def test_the_maps_mark_exactly_the_significant_cells(found):
    tables = found[2]
    spec = specification(
        charts_patching.windows_map(tables.windows, tables.heads, tables.domains, study_config().ablation)
    )
    rows = list(csv.DictReader(io.StringIO(next(iter(spec["datasets"].values())))))
    marked = {(row["head"], row["when"]) for row in rows if row["significant"] == "true"}
    assert marked == {("down1.0.self.h00", "620 to 820")}
    assert re.search(r"2 of 192 cells differ from zero", spec["description"])


def test_curves_start_at_nothing_and_are_drawn_for_the_strongest_heads(found):
    tables = found[2]
    spec = specification(charts_patching.patching_doses(tables.patching, tables.domains))
    rows = list(csv.DictReader(io.StringIO(next(iter(spec["datasets"].values())))))
    assert len({row["target"] for row in rows}) == charts_patching.CURVES
    assert all(float(row["effect"]) == 0 for row in rows if float(row["dose"]) == 0)
    strongest = [row for row in rows if row["target"] == "down1.0.cross.h00" and float(row["dose"]) == 0.5]
    assert {round(float(row["effect"])) for row in strongest} == {20}
