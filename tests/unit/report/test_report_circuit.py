"""The circuit in the report: what is claimed of it, what is drawn, and what is said where there is none."""

import csv
import io

from small_circuits import CIRCUIT
from small_study import study_config

from diffmech.report.charts_circuit import circuit_curve, circuit_graph, circuit_timesteps
from diffmech.report.drawing import specification
from diffmech.report.findings import head_labels
from diffmech.report.sections_circuit import circuit_finding


def rows(chart):
    return list(csv.DictReader(io.StringIO(next(iter(specification(chart)["datasets"].values())))))


def test_a_circuit_is_told_with_its_size_its_share_and_random_sets(found):
    finding = circuit_finding(found[2], study_config())
    assert finding.verdict == "found"
    assert (
        finding.answer
        == "6 of 48 heads on real and 6 of 48 heads on synthetic images. They carry more than random sets of their"
        " size."
    )
    assert (
        finding.details[0]
        == "On real images 6 of 48 heads carry 91.0 % (85.0 to 96.0) of what attention contributes; 100 random sets of"
        " that size 34.0 % (10.0 to 60.0) (p\u00a0=\u00a00.0099). All other heads together still bring"
        " 20.0 % (10.0 to 30.0)."
    )
    for each in found[2].circuits.values():
        each.summary["random"]["samples"] = 2
    part, *_ = circuit_finding(found[2], study_config()).details
    for each in found[2].circuits.values():
        each.summary["random"]["samples"] = 4
    assert "size 34.0 % (10.0 to 60.0) on 2 images, where the circuit carries 90.0 % (p" in part
    assert any(
        "6 heads of the real circuit are in the synthetic one too; 0.75 would be" in each for each in finding.details
    )


def test_where_heads_do_not_help_there_is_no_circuit_and_that_is_the_finding(null):
    finding = circuit_finding(null[2], study_config("untrained"))
    assert finding.verdict == "not found"
    assert finding.answer == "There is no circuit: heads do not help enough."
    assert finding.details[0].startswith(
        "On real images there is no circuit: without any head the loss rises by no more"
    )
    page = (null[0] / "report.html").read_text()
    assert "There is no circuit on synthetic images" in page


def test_random_sets_that_do_as_well_make_a_circuit_no_finding(found):
    tables = found[2]
    for each in tables.circuits.values():
        each.summary["random"]["p"], before = 0.04, each.summary["random"]["p"]
    try:
        finding = circuit_finding(tables, study_config())
    finally:
        for each in tables.circuits.values():
            each.summary["random"]["p"] = before
    # 0.04 twice does not survive the correction over two domains
    assert finding.verdict == "not found"
    assert "random sets of that size do as well" in finding.answer


def test_the_curve_marks_the_circuit_and_has_random_sets_beside_it(found):
    marked = [row for row in rows(circuit_curve(found[2].circuits)) if row["circuit"] == "true"]
    assert {(row["domain"], row["size"], row["random_mean"]) for row in marked} == {
        ("real", "6", "0.34"),
        ("synthetic", "6", "0.34"),
    }


def test_the_graph_draws_every_head_and_tells_paths_that_help_hurt_or_are_nothing(found):
    tables = found[2]
    drawn = [
        row
        for row in rows(circuit_graph(tables.circuits, tables.sites, head_labels(tables)))
        if row["domain"] == "real"
    ]
    assert sum(row["what"] == "other" for row in drawn) == 48 - len(CIRCUIT)
    assert {row["head"] for row in drawn if row["what"] == "circuit"} == set(CIRCUIT)
    between = {row["head"]: row["sign"] for row in drawn if row["what"] == "path" and row["receiver"] == CIRCUIT[1]}
    assert between == {CIRCUIT[2]: "hurts"}
    signs = [row["sign"] for row in drawn if row["what"] == "path"]
    assert sorted(signs) == ["cannot be told from zero", "helps", "helps", "helps", "helps", "hurts"]


def test_each_head_of_the_circuit_is_shown_at_each_timestep(found):
    shown = [row for row in rows(circuit_timesteps(found[2].circuits)) if row["domain"] == "real"]
    assert {(row["head"], row["timestep"]) for row in shown} == {(head, t) for head in CIRCUIT for t in ("20", "420")}
    assert {row["head"] for row in shown if row["needed"] == "false"} == {CIRCUIT[-1]}


def test_the_page_names_heads_that_are_not_needed_and_the_paths_between_heads(found):
    page = (found[0] / "report.html").read_text()
    assert f"Without any one of 1 head, {CIRCUIT[-1]}, the share does not surely drop." in page
    assert f"<td>{CIRCUIT[2]}</td>" in page.split('id="circuit"')[1]
