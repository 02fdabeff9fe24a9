"""What the page says of windows and patching is what the tables hold, and that there is nothing where there is none."""

import csv
import io
import re

import pytest
from small_study import study_config

from diffmech.report import charts_patching
from diffmech.report.context import Context
from diffmech.report.drawing import specification
from diffmech.report.sections_patching import dose_sentence, patching_sentences, window_sentences


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
    assert (
        "the largest share is that of down1.0.cross.h00, 40.0 % (38.0 to 42.0) at t = 20, 220 and 420." in patching[0]
    )
    assert "1 of 8 heads departs from a straight line" in dose_sentence(context_of(found))


def test_where_nothing_is_found_the_page_says_so(null):
    windows = window_sentences(context_of(null))
    assert windows[0].startswith("On real images no head has an effect in any window that can be told from zero")
    assert windows[-1].startswith(
        "No mechanism was shown to cost more than its matched controls in any window (8 tested)."
    )
    for sentence in patching_sentences(context_of(null)):
        assert "no head brings a share of the difference that can be told from zero" in sentence
        assert ". No head takes away a share" in sentence
    straight = dose_sentence(context_of(null))
    assert "none was shown to depart from a straight line by more than 1 % of the difference" in straight
    assert "the largest departure is 0 % (−1.0 to 1.0)" in straight


def test_passes_that_never_differ_have_nothing_to_carry(found):
    tables = found[2]
    same = tables.patching.assign(n=0)
    context = Context(found[1], type(tables)(**{**vars(tables), "patching": same}), study_config(), {})
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
    spec = specification(charts_patching.windows_map(tables.windows, "mean", tables.heads, tables.domains))
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
