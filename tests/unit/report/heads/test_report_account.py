"""The table of mechanisms says of each what its studies show."""

import pandas as pd
import pytest
from small_study import changed, study_config

from diffmech.interventions.decisions import NOT_BEYOND, UNFAIR, UNTOLD
from diffmech.report.heads.context import Context
from diffmech.report.heads.sections_account import account


def section_of(study, table=None) -> str:
    tables = study[2] if table is None else changed(study[2], account=table)
    return str(account(Context(study[1], tables, study_config(), {}))).replace("\u00a0", " ")


def test_a_causal_mechanism_is_named_with_its_window_and_attribute(found):
    page = section_of(found)
    assert "can be called causal on at least one kind of image" in page
    said = "Removing 1 of them changes at least one judged attribute of sampled synthetic images by more than as many"
    assert said in page
    changed = "glasses as asked for −0.40 (−0.45 to −0.35), p = 0.008, 30 % of verdicts flip; matched heads 0 to +0.02"
    assert f"{changed}, beyond matched heads" in page
    assert "t = 620 and 820: 12 % (11 to 13), causal" in page


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (NOT_BEYOND, "of none by more than matched heads do."),
        (UNTOLD, "whether by more than matched heads do cannot be told with 4 matched sets of heads"),
        (UNFAIR, "but no other heads match these mechanisms."),
    ],
)
def test_a_mechanism_changes_an_attribute_only_beyond_its_controls(found, verdict, words):
    changed = found[2].account["attribute_change"].notna()
    told = found[2].account.assign(attributes_beyond="", attribute_controls=4)
    told.loc[changed, "attribute_verdict"] = verdict
    page = section_of(found, told)
    assert "Removing 1" not in page
    said = "Without 1 mechanism the probability of at least one judged attribute of sampled synthetic images moves in"
    assert f"{said} one direction; without 1 of them a verdict on it flips; {words}" in page


def test_a_probability_that_moves_by_next_to_nothing_is_told_with_its_size(found):
    changed = found[2].account["attribute_change"].notna()
    told = found[2].account.assign(attributes_beyond="", attributes_flipped="", attribute_controls=20)
    sizes = {"attribute_change": -5.7e-8, "attribute_low": -9e-8, "attribute_high": -1e-8, "attribute_flipped": 0.0}
    for name, value in (sizes | {"attribute_verdict": NOT_BEYOND}).items():
        told.loc[changed, name] = value
    page = section_of(found, told)
    assert "glasses as asked for −5.7e−8 (−9.0e−8 to −1.0e−8), p = 0.008, no verdict flips" in page
    assert "moves in one direction; no verdict on it flips; of none by more than matched heads do." in page


def test_attributes_are_corrected_on_one_kind_of_images(found):
    page = section_of(found)
    assert "The p-values of effects are corrected over mechanisms and both kinds of images." in page
    assert "Those of attributes are corrected over all changes on one kind of images" in page
    assert "All p-values" not in page


def test_where_nothing_is_found_no_mechanism_is_called_causal(null):
    page = section_of(null)
    assert "can be called causal." in page
    assert "None of" in page
    assert "<td>causal</td>" not in page
    assert "Of none was removal shown to change a judged attribute of sampled synthetic images." in page
    assert "no single window" in page
    assert "rows in which nothing was found" in page


def test_what_was_not_measured_is_not_said_to_be_nothing(found):
    blind = found[2].account.assign(attributes="not measured", attribute_change=float("nan"))
    page = section_of(found, blind)
    assert "No classifier judged what sampled images show." in page
    assert "attributes" not in page.lower()
    empty = pd.DataFrame(columns=found[2].account.columns)
    assert "No mechanism was ablated (ablation.groups)" in section_of(found, empty)
