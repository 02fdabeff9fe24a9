"""The circuit in the report: what is claimed of it, what is drawn, and what is said where there is none."""

import copy
import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from small_circuits import CIRCUIT
from small_study import study_config

from diffmech.report.drawing import specification
from diffmech.report.heads.charts_circuit import RANKINGS, circuit_curve, circuit_graph, circuit_timesteps
from diffmech.report.heads.context import Context
from diffmech.report.heads.sections_circuit import circuit, circuit_finding


def rows(chart):
    return list(csv.DictReader(io.StringIO(next(iter(specification(chart)["datasets"].values())))))


def section_of(study) -> str:
    charts = {name: {} for name in ("circuit_curve", "circuit_graph", "circuit_timesteps")}
    context = Context(study[1], study[2], study_config(), charts)
    page = str(circuit(context, circuit_finding(study[2], context.config)))
    return page.replace("\u00a0", " ")


@contextmanager
def changed(tables, **changes) -> Iterator[None]:
    """Change the summaries of all circuits for a while; what is a dictionary is changed in part."""
    before = {domain: each.summary for domain, each in tables.circuits.items()}
    for each in tables.circuits.values():
        summary = copy.deepcopy(each.summary)
        for name, value in changes.items():
            summary[name] = summary[name] | value if isinstance(value, dict) else value
        object.__setattr__(each, "summary", summary)
    try:
        yield
    finally:
        for domain, each in tables.circuits.items():
            object.__setattr__(each, "summary", before[domain])


def test_a_circuit_is_told_with_its_size_its_share_all_other_heads_and_random_sets(found):
    finding = circuit_finding(found[2], study_config())
    assert finding.verdict == "found"
    assert (
        finding.answer
        == "6 of 48 heads on real images and 6 of 48 heads on synthetic images: they carry more than all other heads"
        " together, and than random sets of their size."
    )
    assert (
        finding.details[0]
        == "The 6 heads found on real images may or may not reach the 90.0 % aimed at, which lies within the interval."
    )
    assert (
        finding.details[2]
        == "On real images 6 of 48 heads carry 91.0 % (86.0 to 96.0) of what attention contributes; all other heads"
        " together 20.0 % (10.0 to 30.0), a difference of 71.0 points (61.0 to 81.0) (p\u00a0=\u00a00.0078); 100 random"
        " sets of that size, which hold 12 % of its heads on average, 34.0 % (10.0 to 60.0) (p\u00a0=\u00a00.0099)."
        " All on the same 8 images; p-values before correction; in brackets intervals over images, for random sets"
        " the middle 95.0 % of them."
    )
    assert any(
        "6 heads of the real circuit are in the synthetic one too; 0.75 would be" in each for each in finding.details
    )
    assert "the larger of two" in finding.family
    assert "Holm-corrected over 2 domains" in finding.family
    assert finding.sight == ""


def test_heads_that_miss_the_target_and_do_no_better_than_all_others_are_no_circuit(found):
    # what a study measured: 79.4 % (64.7 to 88.2), all other heads 78.5 %
    measured = {
        "faithfulness": {"estimate": 0.794, "low": 0.647, "high": 0.882},
        "completeness": {"estimate": 0.785, "low": 0.712, "high": 0.845},
        "beyond_complement": {"estimate": 0.009, "low": -0.121, "high": 0.079},
    }
    with changed(found[2], target_is="missed", p_complement=0.85, **measured):
        finding = circuit_finding(found[2], study_config())
    assert finding.verdict == "not found"
    assert finding.answer == "No circuit is found on real and synthetic images."
    assert (
        finding.details[0]
        == "The 6 heads chosen on real images bring less than the 90.0 % aimed at (their interval lies below it) and"
        " are not shown to carry more than all other heads together."
    )
    seen = re.compile(
        r"On real images an advantage of \S+ points over all other heads is told from nothing four times in five; and"
        r" an advantage of \S+ points over the mean of random sets is told from nothing four times in five. A circuit"
        r" takes both, and a target that is not missed."
    )
    assert seen.match(finding.sight)
    assert not any("by chance" in each for each in finding.details)


def test_an_advantage_that_so_few_random_sets_never_show_is_not_said_to_be_found(found):
    few = {"count": 27, "p": 1 / 28, "smallest_p": 1 / 28}
    with changed(found[2], target_is="missed", random=few):
        finding = circuit_finding(found[2], study_config())
    assert finding.verdict == "not found"
    assert (
        "points over all other heads is told from nothing four times in five; and with 27 random sets" in finding.sight
    )
    assert "with 27 random sets no advantage over the mean of random sets is told from nothing" in finding.sight
    assert "a target that is not missed" in finding.sight


def test_the_section_says_on_which_images_and_timesteps_heads_were_chosen_and_tested(found, null):
    page = section_of(found)
    assert "Heads of the circuit on real images" in page
    assert "Chosen on 8 images, tested on 8 others, at t = 20 and 420." in page
    assert "everything below is measured on the other half" not in page
    with changed(found[2], target_is="missed"):
        missed = section_of(found)
    assert "No circuit is found on real and synthetic images." in missed
    assert "Heads chosen on real images" in missed
    assert "Heads of the circuit on" not in missed
    none = section_of(null)
    assert "No heads were chosen on real images" in none
    assert "without any head the loss rises by no more than 5.0 % (discovery.contribution) (on 16 images it" in none


def test_a_direct_path_that_is_not_told_from_zero_is_called_so(found):
    assert "not told from zero" not in section_of(found)
    edges = {domain: each.edges for domain, each in found[2].circuits.items()}
    try:
        for each in found[2].circuits.values():
            object.__setattr__(each, "edges", each.edges.assign(significant=False))
        page = section_of(found)
    finally:
        for domain, each in found[2].circuits.items():
            object.__setattr__(each, "edges", edges[domain])
    assert "7.00 % (6.00 to 8.00), not told from zero" in page


def test_with_too_few_random_sets_or_images_it_cannot_be_told_and_what_it_takes_is_said(found):
    with changed(found[2], random={"count": 20, "p": 1 / 21, "smallest_p": 1 / 21}):
        finding = circuit_finding(found[2], study_config())
    assert finding.verdict == "cannot be told"
    assert finding.answer == "On real and synthetic images it cannot be told."
    assert "beside 20 random sets: 39 are needed (discovery.random_circuits)" in finding.sight
    with changed(found[2], samples=5, p_complement=2 / 32, smallest_p_complement=2 / 32):
        finding = circuit_finding(found[2], study_config())
    assert finding.verdict == "cannot be told"
    assert "with 5 test images: 7 are needed, 14 images in all (discovery.samples)" in finding.sight


def test_a_share_that_no_interval_bounds_is_called_so(found):
    unknown = {"estimate": 0.925, "low": None, "high": None}
    with changed(found[2], bounded=False, faithfulness=unknown, completeness=unknown, beyond_complement=unknown):
        finding = circuit_finding(found[2], study_config())
    assert finding.verdict == "cannot be told"
    assert "what all heads contribute to the test images cannot be told from nothing" in finding.details[0]
    assert "about 92.5 %, which no interval bounds," in finding.details[2]


def test_where_heads_do_not_help_there_is_no_circuit_and_that_is_the_finding(null):
    finding = circuit_finding(null[2], study_config("untrained"))
    assert finding.verdict == "not found"
    assert finding.answer == "No circuit is found on real and synthetic images."
    assert "a rise of the loss by 5." in finding.sight
    assert (
        finding.details[0]
        == "On real images there is no circuit: without any head the loss rises by no more than 5.0 %"
        " (discovery.contribution) (on 16 images it changes by 0.200 % (0.100 to 0.300))."
    )
    page = (null[0] / "report.html").read_text()
    assert "There is no circuit on synthetic images" in page


def test_where_the_rise_of_the_loss_may_be_anything_it_cannot_be_told(null):
    wide = {"estimate": 63.0, "low": -5.0, "high": 180.0}
    with changed(null[2], reason="contribution cannot be told", contribution_percent=wide):
        finding = circuit_finding(null[2], study_config("untrained"))
    assert finding.verdict == "cannot be told"
    assert "a rise of the loss by" in finding.sight


def test_random_sets_that_do_as_well_make_a_circuit_no_finding(found):
    with changed(found[2], random={"p": 0.04}):
        finding = circuit_finding(found[2], study_config())
    # 0.04 twice does not survive the correction over two domains
    assert finding.verdict == "not found"
    assert "are not shown to carry more than random sets of their size" in finding.details[0]


def test_curves_of_every_ranking_have_the_circuit_and_random_sets_beside_them(found):
    drawn = rows(circuit_curve(found[2].circuits))
    marked = {(row["domain"], row["size"], row["point"], row["faithfulness"]) for row in drawn if row["point"]}
    assert marked == {
        (domain, "6", point, share)
        for domain in ("real", "synthetic")
        for point, share in (("the circuit", "0.91"), ("random sets of its size", "0.34"))
    }
    assert {row["kept"] for row in drawn if row["kept"]} == set(RANKINGS.values())


def test_the_graph_draws_every_head_and_tells_paths_that_help_hurt_or_are_nothing(found):
    tables = found[2]
    drawn = [
        row for row in rows(circuit_graph(tables.circuits, tables.mechanisms, tables.sites)) if row["domain"] == "real"
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
    assert f"Of 1 head, {CIRCUIT[-1]}, it is not shown that the share drops without that head alone" in page
    assert f"{CIRCUIT[-1]} is not shown to be worth anything in any of 4 settings tried for each head." in page
    assert f"is without {CIRCUIT[0]} and {CIRCUIT[1]}: 30.0 points (20.0 to 40.0)" in page
    assert "chance, mean of 5 orders" in page
    assert "A path is found four times in five where it changes the loss by" in page
    assert f"<td>{CIRCUIT[2]}</td>" in page.split('id="circuit"')[1]
