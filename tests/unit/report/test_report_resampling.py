"""The chapter on whole images names its tests, and says what so many images can show."""

import pandas as pd

from diffmech.report.findings import mechanism_names
from diffmech.report.sections_resampling import finding_sentence, sight_sentences


def test_a_change_is_told_as_the_median_of_images(found):
    sentence = finding_sentence(found[2].resampling, mechanism_names(found[2]), 0.05)
    assert "less sure of glasses as asked for, in the median of 16 images" in sentence


def test_what_so_many_images_can_show_is_said(found):
    (told,) = sight_sentences(found[2].resampling, 0.05)
    # 2 mechanisms x 2 attributes x 2 ways of counting, with 16 images: 2 P(Bin(16, 1/2) <= 2) < 0.05 / 8, 3 is too many
    assert "corrected over all 8 of a domain" in told
    assert "found four times in five if it holds for 90.3 % of images" in told
    (untold,) = sight_sentences(found[2].resampling.assign(n=8), 0.05)
    assert "It cannot be told" in untold
    assert "8 images allow no corrected p below 0.063; level 0.05 takes 9 (resampling.images)" in untold
    assert sight_sentences(pd.DataFrame({"measure": ["ssim"], "n": [16], "domain": ["real"]}), 0.05) == []
