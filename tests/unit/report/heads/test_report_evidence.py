"""What the page hands on to a front page: its findings in their order, each with its number and its chart."""

import pytest
from small_study import changed, study_config

from diffmech.findings import Finding, StudyCard, read_findings
from diffmech.report.front_page import write_front_page
from diffmech.report.heads.evidence import with_evidence

SECTIONS = ["divergence", "telling", "mechanisms", "ablation", "circuit", "complexity", "domains"]


def test_findings_stand_in_the_order_of_the_page_with_numbers_inside_their_intervals(found):
    findings = read_findings(found[0] / "findings.json")
    assert [finding.section for finding in findings] == SECTIONS
    by_section = {finding.section: finding for finding in findings}
    for name in ("divergence", "telling", "ablation", "circuit", "complexity"):
        estimate = by_section[name].estimate
        assert estimate.low <= estimate.value <= estimate.high, name
    for name in ("divergence", "ablation", "circuit", "complexity"):
        assert (found[0] / by_section[name].picture).is_file(), name
    assert by_section["domains"].estimate is None
    assert by_section["mechanisms"].picture is None


def test_the_number_is_the_one_that_the_answer_is_about(found):
    by_section = {finding.section: finding for finding in read_findings(found[0] / "findings.json")}
    peak = found[2].divergence["divergence"].max()
    assert by_section["divergence"].estimate.value == pytest.approx(peak)
    assert "self-attention at t = 820" in by_section["divergence"].estimate.what
    complexity = found[2].complexity.set_index("variant")
    (shown,) = complexity.index[complexity["significant"]]  # the largest ratio is not significant
    assert by_section["complexity"].estimate.value == pytest.approx(complexity["ratio"][shown])
    assert complexity["ratio"][shown] < complexity["ratio"].max()


def test_a_number_without_an_interval_is_no_estimate(found):
    peaks = found[2].divergence.assign(low=float("nan"))
    finding = Finding("Do they differ?", "found", "Yes.", (), "divergence")
    assert with_evidence(finding, found[2], study_config()).estimate
    alone = with_evidence(finding, changed(found[2], divergence=peaks), study_config())
    assert alone.estimate is alone.picture is None


def test_random_weights_have_no_circuit_to_show(null):
    by_section = {finding.section: finding for finding in read_findings(null[0] / "findings.json")}
    assert by_section["circuit"].picture is None


def test_the_front_page_takes_what_the_page_wrote(found, tmp_path):
    card = StudyCard("heads", "Attention heads", found[0] / "report.html", found[0] / "findings.json", "")
    write_front_page([card], tmp_path / "index.html", title="All studies")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("data:image/svg+xml") == 2
    assert all(f"report.html#{section}" in text for section in SECTIONS)
    assert len(text) < 8e6
