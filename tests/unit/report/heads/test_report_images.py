"""What the page says of the images: how many the denoiser was trained on, what was cut off, what was shifted."""

import html
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_study
from PIL import Image
from small_study import changed
from test_report_truth import pictures

from diffmech.config.images import ImageFolder, ImagesConfig
from diffmech.config.root import Config
from diffmech.report.heads.artifacts import Tables, read_tables
from diffmech.report.heads.context import Context
from diffmech.report.heads.denoising import gap_sentence
from diffmech.report.heads.findings import confounder_finding
from diffmech.report.heads.images import (
    cropped_words,
    foreign_match_sentence,
    observed_words,
    seen_counts,
    seen_divergence_sentences,
    seen_sentence,
)
from diffmech.report.heads.sections import domains, what_was_run

COUNTS = {"real": 24, "synthetic": 24}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_study.build_study(tmp_path_factory.mktemp("small"))


@pytest.fixture
def tables(inputs) -> Tables:
    return read_tables(inputs)


def with_seen(tables: Tables, **seen: tuple[int, int]) -> Tables:
    """Return the tables with so many images seen of so many studied, by domain."""
    rows = [(domain, i, i < some) for domain, (some, studied) in seen.items() for i in range(studied)]
    return changed(tables, seen=pd.DataFrame(rows, columns=["domain", "sample", "seen"]))


def test_the_page_says_how_many_of_the_studied_images_were_trained_on(inputs, tables) -> None:
    config = small_study.study_config()
    assert seen_counts(tables) == {"real": (7, 8), "synthetic": (0, 8)}
    run = str(what_was_run(Context(inputs, tables, config, {})))
    assert "8 real (7 of them trained on) and 8 synthetic (none of them trained on) observed, 32" in run
    said = " ".join(confounder_finding(tables, config).details)
    assert "The denoiser was trained on 7 of 8 real and 0 of 8 synthetic images of those studied." in said
    assert "capture.images: unseen studies new ones alone" in said


def test_equal_shares_do_not_tell_the_domains_apart(tables) -> None:
    config = small_study.study_config()
    alike = seen_sentence(with_seen(tables, real=(80, 100), synthetic=(80, 100)), config)
    assert alike == (
        "The denoiser was trained on 80 of 100 real and 80 of 100 synthetic images of those studied, so that this does"
        " not tell the domains apart."
    )
    none = seen_sentence(with_seen(tables, real=(0, 20), synthetic=(0, 20)), config)
    assert none == (
        "None of the real and synthetic images studied was among those that the denoiser was trained on, so that this"
        " does not tell the domains apart."
    )


def test_where_it_is_not_on_record_nothing_is_said_of_seen(tables) -> None:
    config = small_study.study_config()
    assert seen_sentence(with_seen(tables), config) == ""
    assert observed_words(with_seen(tables), COUNTS) == "24 real and 24 synthetic"
    one = with_seen(tables, synthetic=(3, 24))
    assert observed_words(one, COUNTS) == "24 real and 24 synthetic (3 of them trained on)"
    assert "of real images that is not on record" in seen_sentence(one, config)


def test_images_of_the_training_that_were_made_again_for_the_loss_are_said_to_be(tables) -> None:
    said = gap_sentence(tables)
    assert "8 unseen and 8 seen images)" in said.split("; synthetic")[0]
    assert "which were made again, since none of them is studied" in said.split("; synthetic")[1]
    assert "made again" not in gap_sentence(with_seen(tables, real=(20, 24), synthetic=(20, 24)))


def foreign(config: Config) -> Config:
    model = config.model.model_copy(update={"source": "custom", "implementation": "mine.py:Mine"})
    return config.model_copy(update={"models": {config.study.model: model}})


def test_matched_images_of_a_denoiser_from_elsewhere_are_called_out(inputs, tables) -> None:
    config = small_study.study_config()
    assert foreign_match_sentence(tables, config) == ""
    said = foreign_match_sentence(tables, foreign(config))
    before = tables.comparison["domains"]["real"]["before"]["mean"]
    assert f"(mean pixel of real from {before:.2g}".replace("-", "−") in said
    assert "to −0.1" in said
    assert "images.match: null would be right" in said
    assert said in confounder_finding(tables, foreign(config)).details
    unmatched = foreign(config).model_copy(update={"images": ImagesConfig(match=None)})
    assert foreign_match_sentence(tables, unmatched) == ""


def test_what_the_crop_cut_off_is_on_the_page(tmp_path) -> None:
    square = pictures(tmp_path / "square", 0)
    wide = ImageFolder(kind="image_folder", path=str(tmp_path / "wide"))
    (tmp_path / "wide").mkdir()
    for file in Path(square.path).glob("*.png"):
        image = Image.open(file)
        image.resize((48 if int(file.stem) < 6 else 32, 32)).save(tmp_path / "wide" / file.name)
    inputs = small_study.build_study(tmp_path / "study", optional=False, sources=[square, wide])
    tables = read_tables(inputs)
    charts: dict = {"power_spectrum": {}}
    settings = {"lfw": square, "drawn": wide}
    config = small_study.study_config().model_copy(update={"datasets": settings})
    page = html.unescape(str(domains(Context(inputs, tables, config, charts)))).replace("\u00a0", " ")
    assert "no image: all were square" in page
    assert "6 of 24 images, to the central square, which cuts off 33 % of their area on average" in page
    assert "by a hash of the seed 0 and each image's own name" in page


def test_one_cropped_image_is_one_image() -> None:
    assert cropped_words({"cropped": 1, "measured": 1200, "cut_area": 0.25}) == (
        "1 of 1,200 images, to the central square, which cuts off 25 % of its area"
    )


def test_how_far_seen_and_unseen_images_lie_apart_is_told_beside_the_domains(tables) -> None:
    (said,) = seen_divergence_sentences(tables, 0.05)
    said = said.replace("\u00a0", " ")
    assert said.startswith(
        "Between 80 real images that were trained on and 20 that were not, each told what it is, entropies differ by"
        " 0.030 nats (0.0020 to 0.050) at most (self-attention, t = 820; 0.0090 by chance), nowhere more than chance"
        " (smallest corrected p = 0.90). The domains, told the same, differ there by 0.090 nats ("
    )
    assert said in " ".join(confounder_finding(tables, small_study.study_config()).details).replace("\u00a0", " ")
    table = tables.seen_divergence
    some = changed(tables, seen_divergence=table.assign(p_holm=np.where(table["timestep"] > 600, 0.01, 0.9)))
    assert "more than chance in 4 of 10 combinations of timestep and kind" in seen_divergence_sentences(some, 0.05)[0]
    few = changed(tables, seen_divergence=table.assign(p_least=0.06))
    assert (
        "whether that is more than chance cannot be told with so few images"
        in (seen_divergence_sentences(few, 0.05)[0])
    )
    assert seen_divergence_sentences(changed(tables, seen_divergence=table.head(0)), 0.05) == []
    # where the domains are compared at fewer timesteps than images are observed at, as in the default study
    at_others = tables.divergence[tables.divergence["timestep"] != 820]
    (alone,) = seen_divergence_sentences(changed(tables, divergence=at_others), 0.05)
    assert "t = 820" in alone.replace("\u00a0", " ")
    assert "The domains" not in alone
