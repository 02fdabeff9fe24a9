"""Findings travel as they are, and a file that holds something else is named."""

import json
import subprocess
import sys

import pytest

from diffmech.errors import StoreError
from diffmech.findings import Estimate, Finding, read_findings, write_findings

FOUND = Finding(
    "Does it?",
    "found",
    "Yes, it does.",
    ("One reason.", "Another."),
    "why",
    family="Corrected over 3 tests.",
    estimate=Estimate("Effect", 1.5, 1.0, 2.0, "%"),
    picture="charts/effect.svg",
)
NOT_FOUND = Finding("And that?", "not found", "Not shown.", (), "that")


def test_findings_are_read_as_they_were_written(tmp_path):
    write_findings([FOUND, NOT_FOUND], tmp_path / "findings.json")
    assert read_findings(tmp_path / "findings.json") == [FOUND, NOT_FOUND]


def test_a_file_that_holds_something_else_is_named(tmp_path):
    path = tmp_path / "findings.json"
    write_findings([FOUND], path)
    whole = json.loads(path.read_text())
    lacking = {name: value for name, value in whole["findings"][0].items() if name != "answer"}
    for content in ("no JSON", "{}", json.dumps({"findings": [lacking]})):
        path.write_text(content)
        with pytest.raises(StoreError, match=r"findings\.json: holds no findings"):
            read_findings(path)
    path.write_text(json.dumps({"findings": [{**whole["findings"][0], "verdict": "perhaps"}]}))
    with pytest.raises(StoreError, match="unknown verdict 'perhaps'"):
        read_findings(path)
    with pytest.raises(StoreError, match=r"none\.json: holds no findings"):
        read_findings(tmp_path / "none.json")


@pytest.mark.parametrize("number", [None, "much", float("nan"), float("inf"), True])
def test_an_estimate_is_a_number_with_an_interval(number, tmp_path):
    with pytest.raises(ValueError, match=r"low of the estimate of 'Effect' is .*, expected a finite number"):
        Estimate("Effect", 1.5, number, 2.0)
    path = tmp_path / "findings.json"
    write_findings([FOUND], path)
    whole = json.loads(path.read_text())
    whole["findings"][0]["estimate"]["low"] = number
    path.write_text(json.dumps(whole))
    with pytest.raises(StoreError, match=r"findings\.json: holds no findings \(low of the estimate of 'Effect' is"):
        read_findings(path)


def test_what_is_said_is_words(tmp_path):
    path = tmp_path / "findings.json"
    write_findings([FOUND], path)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({"findings": [{**whole["findings"][0], "answer": None}]}))
    with pytest.raises(StoreError, match=r"findings\.json: holds no findings \(answer is None, expected words\)"):
        read_findings(path)


def test_the_form_of_a_finding_is_read_without_anything_heavy():
    code = "import sys, diffmech.findings; print([m for m in ('numpy', 'pandas', 'jinja2') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"
