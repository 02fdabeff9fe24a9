"""Jobs of one group make each other's results ahead, and nobody else takes them."""

import os
from pathlib import Path

import pytest

from diffmech.artifacts import atomic_path
from diffmech.heads.ahead import shards_ahead
from diffmech.heads.files import ATTENTION, LATENTS
from diffmech.workflow.together import TOGETHER, made_ahead, take_ahead, tell_group

OWN = {"model": "m", "dataset": "d", "block": "t0000-0999", "shard": "s0"}


def member(rule: str, **others: str) -> str:
    """Return a job as Snakemake names it on the command line of its group."""
    return f"{rule}:" + ",".join(f"{name}={value}" for name, value in {**OWN, **others}.items())


def told(*members: str) -> list[str]:
    return ["snakemake", "--snakefile", "Snakefile", "--target-jobs", *members, "--cores", "2"]


@pytest.fixture
def group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TOGETHER, "")
    rule = "capture_attention"
    others = [member(rule, shard="s1"), member(rule, shard="s2"), member(rule, shard="s1", block="t1000-1999")]
    tell_group(told(member(rule), *others, member("make_latents", shard="s3")))
    for shard in ("s0", "s1", "s3"):
        path = Path(LATENTS.format(**{**OWN, "shard": shard}))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_capture_works_ahead_for_shards_of_its_block_whose_latents_are_there(group) -> None:
    other = {**OWN, "shard": "s1"}
    assert list(shards_ahead(OWN)) == [Path(LATENTS.format(**other))]
    assert take_ahead(ATTENTION.format(**other)) is False
    (place,) = shards_ahead(OWN).values()
    with atomic_path(place) as temporary:
        temporary.write_text("made ahead")
    assert shards_ahead(OWN) == {}
    assert take_ahead(ATTENTION.format(**other))
    assert Path(ATTENTION.format(**other)).read_text() == "made ahead"
    assert list(Path(ATTENTION.format(**other)).parent.glob(".*")) == []


def test_another_group_does_not_take_it_and_a_job_of_the_next_day_clears_it_away(group, monkeypatch) -> None:
    output = Path(ATTENTION.format(**{**OWN, "shard": "s1"}))
    (place,) = shards_ahead(OWN).values()
    with atomic_path(place) as temporary:
        temporary.write_text("of a group that died")
    monkeypatch.setenv(TOGETHER, "")
    assert made_ahead(output) is None
    assert take_ahead(output) is False
    tell_group(told(member("capture_attention"), member("capture_attention", shard="s1")))
    assert take_ahead(output) is False
    for each in (place, place.parent):
        os.utime(each, (0, 0))
    with atomic_path(output) as temporary:
        temporary.write_text("made in its turn")
    assert output.read_text() == "made in its turn"
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_a_job_by_itself_works_for_nobody(group, monkeypatch) -> None:
    monkeypatch.setenv(TOGETHER, "")
    tell_group(told(member("capture_attention")))
    tell_group(["snakemake", "--cores", "2"])
    assert shards_ahead(OWN) == {}
