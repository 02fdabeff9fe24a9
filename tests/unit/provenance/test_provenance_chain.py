"""What is said of where an artifact comes from was recorded when it was made, and what changed since is said."""

import json
from pathlib import Path

import pytest

from diffmech.errors import StoreError
from diffmech.provenance.chain import chain, changes, described, records_behind, sha256

PAGE = "results/report.html"


def test_the_records_behind_an_artifact_are_all_that_it_was_made_from(study):
    other = {**study, "results/other.csv": study["results/table.csv"]}
    assert set(records_behind(PAGE, other.get)) == {*study} - {"results/report/findings.json"}
    assert records_behind("given/photos.csv", other.get) == {}


def test_each_job_stands_before_those_it_needed_with_all_its_files(study):
    jobs = chain(PAGE, study)
    assert [job.rule for job in jobs] == ["page", "tabulate", "features"]
    assert jobs[0].outputs == (PAGE, "results/report/findings.json")
    assert jobs[0].params == {"code": "0" * 16, "seed": 3}
    assert jobs[0].versions["torch"] == "2.13.0"
    assert jobs[1].recorded == ("{'alpha': 0.05}",)
    assert "zarr" in jobs[2].versions  # as the store says itself


def test_a_job_that_several_needed_comes_behind_all_of_them(study):
    study["results/report.html"]["input"].append("results/features.zarr.zip")
    assert [job.rule for job in chain(PAGE, study)][-1] == "features"


def test_what_is_beside_a_log_counts_only_for_the_job_with_its_parameters(study):
    study[PAGE]["params"] = study["results/report/findings.json"]["params"] = ["'of another run'"]
    job = chain(PAGE, study)[0]
    assert (job.params, job.recorded) == ({}, ("'of another run'",))


def test_the_chain_says_rules_settings_seeds_versions_and_digests(study):
    text = described(PAGE, study, Path())
    assert text.splitlines()[0].startswith(f"{PAGE}: 3 jobs stand behind it; 3 of them tell of a change since")
    assert f"  made  {PAGE}  sha256 {sha256(PAGE)[:16]}" in text
    assert "  from  given/photos.csv  sha256" in text
    assert "  seed: 3" in text
    assert "  parameter: {'alpha': 0.05}" in text
    assert "versions: diffmech 0.1.0, torch 2.13.0" in text
    assert "page  1970-01-01T00:05:00Z, 2 s" in text


def test_a_job_of_other_code_or_of_a_rule_that_is_gone_is_told(study):
    page, tabulate, _ = chain(PAGE, study)
    (other,) = changes(page, Path(), {})
    assert other.startswith("made by another version: its code was 0000000000000000 and is ")
    assert changes(tabulate, Path(), {}) == ["made by another version: this one has no script of a rule tabulate"]
    now = other.split()[-2]
    told = Path("results/logs/page/all.json")
    content = json.loads(told.read_text())
    content["params"]["code"] = now + "of the loader"
    told.write_text(json.dumps(content))
    assert changes(chain(PAGE, study)[0], Path(), {}) == []


def test_an_input_that_was_replaced_behind_the_back_of_the_workflow_is_told(study):
    Path("results/table.csv").write_text("head,p\nh00,0.5\n")
    assert "! results/table.csv is another file now than the one it read" in described(PAGE, study, Path())


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("", "target: no artifact was named; name one"),
        ("results/none.csv", r"none\.csv: there is no such artifact"),
        ("given/photos.csv", r"photos\.csv: was not made by this workflow"),
    ],
)
def test_what_has_no_chain_is_named(study, target, expected):
    with pytest.raises(StoreError, match=expected):
        chain(target, study)


def test_an_artifact_that_is_gone_or_unfinished_is_named(study):
    study[PAGE]["incomplete"] = True
    with pytest.raises(StoreError, match=r"report\.html: its job did not finish"):
        chain(PAGE, study)
    Path(PAGE).unlink()
    with pytest.raises(StoreError, match=r"report\.html: was made once and is gone"):
        chain(PAGE, study)
