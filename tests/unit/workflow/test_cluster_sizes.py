"""What is asked of a cluster: sizes that were measured, batches of shards, and more memory for a second attempt."""

import re
from pathlib import Path

import pytest
import yaml

from diffmech.errors import StoreError
from diffmech.workflow.shards import batches, shards
from diffmech.workflow.sizes import measured, requests
from diffmech.workflow.startup import grow

ROOT = Path(__file__).parents[3]
HEADER = "s\th:m:s\tmax_rss\tmax_vms\n"


def test_the_largest_job_of_a_rule_is_what_is_asked_for(tmp_path) -> None:
    (tmp_path / "capture" / "a").mkdir(parents=True)
    (tmp_path / "capture" / "a" / "s0.tsv").write_text(HEADER + "10.0\t0:00:10\t500.0\t9\n")
    (tmp_path / "capture" / "a" / "s1.tsv").write_text(HEADER + "600.0\t0:10:00\t400.0\t9\n")
    (tmp_path / "report.tsv").write_text(HEADER + "1.0\t0:00:01\t-\t-\n")
    sizes = measured(tmp_path)
    assert sizes == {"capture": (500.0, 600.0), "report": (0.0, 1.0)}
    asked = requests(sizes)
    # 1.3 x 500 + 400 = 1050 MB, and three times ten minutes; a retry asks for twice as much
    assert asked["capture"] == {"mem_mb": "1100 * attempt", "runtime": "30 * attempt"}
    assert asked["report"] == {"mem_mb": "400 * attempt", "runtime": "5 * attempt"}
    assert yaml.safe_load(yaml.safe_dump(asked)) == asked


def test_what_is_no_benchmark_is_named(tmp_path) -> None:
    with pytest.raises(StoreError, match="holds no benchmark files"):
        measured(tmp_path)
    (tmp_path / "capture.tsv").write_text("half a line\n1\n")
    with pytest.raises(StoreError, match=r"capture\.tsv: is no benchmark file"):
        measured(tmp_path)


def test_shards_keep_their_batch_when_a_study_grows() -> None:
    before, after = batches(shards(40, 8), 3), batches(shards(100, 8), 3)
    assert {shard: after[shard] for shard in before} == before
    assert [list(after.values()).count(name) for name in dict.fromkeys(after.values())] == [3, 3, 3, 3, 1]
    assert len(set(batches(shards(40, 8), 1).values())) == 5


def test_a_second_attempt_asks_for_twice_the_memory() -> None:
    from snakemake.resources import Resources

    resources = Resources.from_mapping({"mem_mb": 4000, "gpu": 1})
    grow(resources)
    assert [resources["mem_mb"].evaluate(None, attempt=attempt).value for attempt in (1, 2)] == [4000, 8000]
    assert resources["gpu"].value == 1
    nothing = Resources.from_mapping({"gpu": 1})
    grow(nothing)
    assert list(nothing) == ["gpu"]


def test_what_the_profile_groups_are_rules_and_all_of_a_group_share_a_job() -> None:
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    texts = [path.read_text() for path in (ROOT / "rules").glob("*.smk")]
    rules = {name for text in texts for name in re.findall(r"^(?:rule|checkpoint) (\w+):", text, re.MULTILINE)}
    assert set(profile["groups"]) <= rules
    # `shards` are those of the rules themselves (rules/common.smk)
    assert {*profile["groups"].values(), "shards"} == set(profile["group-components"])
    assert len(set(profile["group-components"].values())) == 1
