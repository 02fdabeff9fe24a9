"""The chapter on whole images names its tests, and says what so many images can show."""

import json

import numpy as np
import pandas as pd
from small_study import changed, study_config

from diffmech.report.drawing import specification
from diffmech.report.heads.charts_resampling import resampling_measures
from diffmech.report.heads.context import Context
from diffmech.report.heads.findings import mechanism_names
from diffmech.report.heads.sections_resampling import finding_sentence, resampling, sight_sentences


def test_a_change_is_told_as_the_median_of_images(found):
    sentence = finding_sentence(found[2].resampling, mechanism_names(found[2]), 0.05)
    assert "less sure of glasses as asked for, in the median of 16 synthetic images" in sentence


def section_of(study, frame: pd.DataFrame, **settings) -> str:
    config = study_config()
    config = config.model_copy(update={"resampling": config.resampling.model_copy(update=settings)})
    charts = {name: {} for name in ("resampling_attributes", "resampling_measures")}
    page = str(resampling(Context(study[1], changed(study[2], resampling=frame), config, charts)))
    return page.replace("\u00a0", " ")


def test_without_controls_nothing_is_said_of_controls(found):
    ends = dict.fromkeys(("control_mean", "control_low", "control_high", "p_control", "p_control_adjusted"), np.nan)
    others = found[2].mechanisms, found[2].domains, study_config().ablation
    alone = found[2].resampling.assign(**ends, controls=np.nan, controls_fair=False)
    page = section_of(found, alone, controls=0)
    assert "No other heads were removed beside them." in page
    assert "No controls were run (resampling.controls), so it cannot be told whether" in page
    for never in ("no matched random sets", "matched controls", "diamond", "they show what as many"):
        assert never not in page, never
    assert "diamond" not in json.dumps(specification(resampling_measures(alone, *others)))
    beside = section_of(found, found[2].resampling)
    assert "diamond" in json.dumps(specification(resampling_measures(found[2].resampling, *others)))
    assert "20 matched random sets of as many heads, its own among them as chance has it" in beside
    assert "a diamond one that is also more than its matched controls" in beside
    assert "Grey: up to 6 random sets of as many heads that match the mechanism" in beside


def test_at_how_many_steps_of_the_sampler_each_mechanism_was_removed_is_said(found):
    frame = found[2].resampling
    assert "Each was removed at every step." in section_of(found, frame)
    some = frame.assign(steps=2, steps_removed=np.where(frame["target"] == "self-1", 1, 2))
    said = section_of(found, some)
    assert "at which its heads belong to it and their attention runs: edge (self-1) at 1 of 2 steps; the others" in said
    none = section_of(found, frame.assign(steps=2, steps_removed=0))
    assert "semantic (cross-1) and edge (self-1) at none of 2 steps." in none
    for page in (said, none):
        assert "throughout" not in page


def test_a_distance_that_was_not_measured_has_no_caption_and_sampled_images_have_a_domain(found):
    frame = found[2].resampling
    assert "Fréchet" in section_of(found, frame)
    without = section_of(found, frame[~frame["measure"].isin(["fd", "kid"])])
    assert "Fréchet" not in without
    assert "The same 16 seeds of synthetic images were sampled again" in without


def test_the_lowest_likeness_is_an_estimate_and_what_it_was_tested_against_is_told(found):
    frame = found[2].resampling
    sentence = finding_sentence(frame[~frame["measure"].str.contains(":")], mechanism_names(found[2]), 0.05)
    assert sentence.startswith("The lowest estimate of likeness to the images with nothing removed is 0.600 (0.550 to")
    assert "change most" not in sentence
    assert "whether by more than their controls stands in the chart" in sentence
    alone = frame[~frame["measure"].str.contains(":")].assign(p_control_adjusted=np.nan)
    assert "no comparison was tested" in finding_sentence(alone, mechanism_names(found[2]), 0.05)


def test_changes_in_one_direction_that_flip_no_verdict_are_counted(found):
    sentence = finding_sentence(found[2].resampling.assign(flipped=0.0), mechanism_names(found[2]), 0.05)
    assert "1 of 4 changes differs from zero" in sentence
    assert sentence.endswith("In 1 of these no verdict flips.")


def test_what_so_many_images_can_show_is_said(found):
    (told,) = sight_sentences(found[2].resampling, 0.05)
    # 2 mechanisms x 2 attributes x 2 ways of counting, with 16 images: 2 P(Bin(16, 1/2) <= 2) < 0.05 / 8, 3 is too many
    assert "corrected over 8 of a domain" in told
    assert "found four times in five if it holds for 90.3 % of images" in told
    (untold,) = sight_sentences(found[2].resampling.assign(n=8), 0.05)
    assert "It cannot be told" in untold
    assert "8 images allow no corrected p below 0.062; level 0.05 takes 9 (resampling.images)" in untold
    assert sight_sentences(pd.DataFrame({"measure": ["ssim"], "n": [16], "domain": ["real"]}), 0.05) == []
