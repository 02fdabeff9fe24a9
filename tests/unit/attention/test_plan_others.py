"""The plan counts what runs the denoiser beside captures, as those jobs then run it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from diffmech.attention.plan_others import Facts, plan_others
from diffmech.config.load import merge, read_config, validate
from diffmech.config.root import Config

ROOT = Path(__file__).parents[3]
RAW = [yaml.safe_load((ROOT / name).read_text()) for name in ("config.yaml", "resources/studies/tiny.yaml")]
FACTS = Facts(images=[16, 16], heads=12, sites=6, tellings=3, conditional=True, rows=4, on_cpu=True)

# Rows of passes of the tiny study, counted in its jobs by the network itself; a survey of the sites takes some more.
RAN = {"denoising loss": 64, "gallery": 32, "told images": 208, "patching, at most": 854}
AT_MOST = {"sampling again, at most": 86, "circuits, about": 162}  # it has fewer mechanisms than clusters, no circuit


def tiny(**edit: Any) -> Config:
    return validate(merge(merge(*RAW), edit))


def rows(config: Config, facts: Facts = FACTS) -> dict[str, int]:
    return {work.what: work.passes for work in plan_others(config, facts)}


@pytest.mark.parametrize("what", RAN)
def test_passes_are_those_that_the_tiny_study_ran_up_to_its_surveys(what: str) -> None:
    assert rows(tiny())[what] == pytest.approx(RAN[what], rel=0.08)


@pytest.mark.parametrize("what", AT_MOST)
def test_what_the_study_decides_is_counted_as_the_most_it_can_be(what: str) -> None:
    assert rows(tiny())[what] >= AT_MOST[what]


def test_every_rule_that_runs_the_denoiser_is_a_row() -> None:
    assert list(rows(tiny())) == [
        "training",
        "denoising loss",
        "gallery",
        "told images",
        "patching, at most",
        "sampling again, at most",
        "circuits, about",
    ]
    planted = read_config(ROOT / "config.yaml", ROOT / "resources/studies/planted.yaml")
    assert "planted heads" in rows(planted)
    assert "sampling again, at most" not in rows(planted)
    pipeline = read_config(ROOT / "config.yaml", ROOT / "resources/studies/stable-diffusion.yaml")
    assert "generated images" in rows(pipeline)
    assert not {"denoising loss", "training"} & set(rows(pipeline))


@pytest.mark.parametrize(
    ("edit", "what", "times"),
    [
        ({"models": {"tiny": {"training": {"steps": 12}}}}, "training", 2),
        ({"sampling": {"guidance": 1.0}}, "gallery", 0.5),
        ({"sampling": {"steps": 6}}, "gallery", 3),
        ({"capture": {"timesteps": [10, 30, 50, 60]}}, "denoising loss", 2),
        ({"told": {"timesteps": 1}}, "told images", 0.5),
        ({"resampling": {"steps": 8}}, "sampling again, at most", 4),
        ({"resampling": {"domains": ["real", "synthetic"]}}, "sampling again, at most", 2),
        ({"discovery": {"timesteps": 1}}, "circuits, about", 0.5),
        ({"patching": {"sources": ["domain", "attribute:glasses"]}}, "patching, at most", 2),
        ({"patching": {"timesteps": [10]}}, "patching, at most", 0.5),
    ],
)
def test_a_setting_multiplies_the_passes_it_asks_for_and_no_other(edit: Any, what: str, times: float) -> None:
    before, after = rows(tiny()), rows(tiny(**edit))
    assert after[what] == times * before[what]


def test_what_the_study_leaves_out_is_no_row() -> None:
    assert "told images" not in rows(tiny(latents={"condition": None}))
    bundled = read_config(ROOT / "config.yaml")
    assert "training" not in rows(bundled)


def test_seconds_are_those_of_the_passes_of_each_kind_beside_the_start_of_jobs() -> None:
    (told,) = (work for work in plan_others(tiny(), FACTS) if work.what == "told images")
    without = told.estimate(0, 0, 0).seconds
    assert told.estimate(0, 1, 0).seconds - without == told.observed
    assert told.estimate(0, 0, 1).seconds - without == told.networks
    (training,) = (work for work in plan_others(tiny(), FACTS) if work.what == "training")
    assert training.estimate(1, 0, 0).seconds - training.estimate(0, 0, 0).seconds == 3 * 6 * 8
