"""The section of the page on circuits: which heads carry what attention contributes, and how surely."""

import math
from typing import Any

from markupsafe import Markup
from scipy.special import ndtri
from scipy.stats import hypergeom

from diffmech.circuits.verdict import CircuitVerdict, circuit_verdicts
from diffmech.config.root import Config
from diffmech.findings import Finding, Verdict
from diffmech.report import markup
from diffmech.report.heads.artifacts import Circuit, Tables
from diffmech.report.heads.charts_circuit import RANKINGS
from diffmech.report.heads.circuit_tables import (
    areas_table,
    head_row,
    needed_sentence,
    partition_table,
    paths_sight,
    shown,
    subsets_sentence,
)
from diffmech.report.heads.context import Context
from diffmech.report.heads.findings import head_labels
from diffmech.report.wording import count, interval, listed, number, p_value
from diffmech.statistics.reach import smallest_effect

WHY_NONE = {
    "heads do not help": "without any head the loss is not shown to rise",
    "heads help too little": "without any head the loss rises by no more than {least} % (discovery.contribution)",
    "contribution cannot be told": (
        "it cannot be told whether the loss rises without any head by more than {least} % (discovery.contribution)"
    ),
    "too few images": "there are too few images to choose a circuit on one half and test it on the other",
}
UNTOLD = ("contribution cannot be told", "too few images")
SHORT = {
    "target": "bring less than the {target} % aimed at (their interval lies below it)",
    "complement": "are not shown to carry more than all other heads together",
    "random": "are not shown to carry more than random sets of their size",
}


def circuit_finding(tables: Tables, config: Config) -> Finding:
    """How few heads carry what attention contributes?"""
    circuits, alpha = tables.circuits, config.discovery.alpha
    judged = judged_circuits(tables, alpha)
    verdicts = {domain: each.verdict for domain, each in judged.items()} | {
        domain: "cannot be told" if each.summary["reason"] in UNTOLD else "not found"
        for domain, each in circuits.items()
        if not each.chosen
    }
    found, missing, untold = (
        [domain for domain in circuits if verdicts[domain] == name] for name in ("found", "not found", "cannot be told")
    )
    details = [_outcome(domain, circuits[domain], judged[domain]) for domain in judged]
    details += [
        f"On {domain} images there is no circuit: {_why_none(each)}."
        for domain, each in circuits.items()
        if not each.chosen
    ]
    details += [_carried(domain, circuits[domain], config.discovery.confidence) for domain in judged]
    details += _shared({domain: circuits[domain] for domain in found})
    if judged:
        details.append(
            f"Heads were chosen on one half of the images to reach {number(100 * config.discovery.faithfulness)} %, and"
            " judged on the other half: the target is missed where the interval lies below it."
        )
    verdict: Verdict = "found" if found else "cannot be told" if untold else "not found"
    if found:
        sizes = [f"{circuits[d].summary['size']} of {circuits[d].summary['heads']} heads on {d} images" for d in found]
        answer = f"{listed(sizes)}: they carry more than all other heads together, and than random sets of their size."
    else:
        answer = ""
    if missing:
        answer += f" No circuit is found on {listed(missing)} images."
    if untold:
        answer += f" On {listed(untold)} images it cannot be told."
    return Finding(
        "How few heads carry it?",
        verdict,
        answer.strip(),
        tuple(details),
        "circuit",
        family=_family(judged, alpha),
        sight=_sight(tables, judged, alpha, config.discovery.confidence),
    )


def judged_circuits(tables: Tables, alpha: float) -> dict[str, CircuitVerdict]:
    """Return the verdict on the circuit of every domain that has one; they are one family."""
    found = {domain: each.summary for domain, each in tables.circuits.items() if each.chosen}
    return dict(zip(found, circuit_verdicts(list(found.values()), alpha), strict=True))


def _family(judged: dict[str, CircuitVerdict], alpha: float) -> str:
    if not judged:
        return ""
    corrected = f", Holm-corrected over {len(judged)} domains" if len(judged) > 1 else ""
    return (
        "One p-value per domain, the larger of two: random signs of images against all other heads, and the rank among"
        f" random sets{corrected}; level {alpha:g}. The target must not be missed besides."
    )


def _sight(tables: Tables, judged: dict[str, CircuitVerdict], alpha: float, confidence: float) -> str:
    """Return what could have been seen on the domains on which no circuit was found."""
    parts = []
    for domain, each in judged.items():
        summary = tables.circuits[domain].summary
        if each.verdict == "not found":
            drawn = count(summary["random"]["count"], "random set")
            found = [
                _advantage(each.seen_complement, "over all other heads", count(summary["samples"], "test image")),
                _advantage(each.seen_random, "over the mean of random sets", drawn),
            ]
            parts.append(
                f"On {domain} images {'; and '.join(found)}. A circuit takes both, and a target that is not missed."
            )
        elif each.verdict == "cannot be told":
            parts.append(_takes(domain, each, summary))
    for domain, circuit in tables.circuits.items():
        ends = circuit.summary["contribution_percent"]
        if circuit.chosen or circuit.summary["reason"] == "too few images" or ends["low"] is None:
            continue
        n = len(circuit.summary["discovery_samples"]) + len(circuit.summary["test_samples"])
        error = (ends["high"] - ends["low"]) / (2 * ndtri((1 + confidence) / 2))
        seen = circuit.summary["least_contribution_percent"] + float(smallest_effect(error, n - 1, alpha=alpha))
        parts.append(f"On {domain} images a rise of the loss by {number(seen, 2)} % is seen four times in five.")
    return " ".join(parts)


def _advantage(least: float, over: str, beside: str) -> str:
    """Return the smallest advantage that is told from nothing four times in five, or that there is none."""
    if math.isfinite(least):
        return f"an advantage of {number(100 * least, 2)} points {over} is told from nothing four times in five"
    return f"with {beside} no advantage {over} is told from nothing four times in five"


def _takes(domain: str, judged: CircuitVerdict, summary: dict[str, Any]) -> str:
    """Return what it would take for a verdict."""
    tested, drawn = summary["samples"], summary["random"]["count"]
    reason = judged.reasons[0]
    if reason == "images":
        return (
            f"On {domain} images p cannot fall to the level with {count(tested, 'test image')}:"
            f" {judged.images} are needed, {2 * judged.images} images in all (discovery.samples)."
        )
    if reason == "circuits":
        return (
            f"On {domain} images p cannot fall to the level beside {count(drawn, 'random set')}: {judged.circuits} are"
            " needed (discovery.random_circuits), as far as so many other sets of that size exist."
        )
    return f"On {domain} images it takes more test images than {tested} to tell what all heads contribute from nothing."


def _outcome(domain: str, circuit: Circuit, judged: CircuitVerdict) -> str:
    """Return in one sentence what the verdict on a domain is, and why."""
    summary = circuit.summary
    target = number(100 * summary["target"])
    if judged.verdict == "cannot be told":
        why = {
            "contribution": "what all heads contribute to the test images cannot be told from nothing",
            "images": "there are too few test images for any p-value to reach the level",
            "circuits": "there are too few random sets for any p-value to reach the level",
        }[judged.reasons[0]]
        heads = count(summary["size"], "head")
        return f"Whether the {heads} chosen on {domain} images are a circuit cannot be told: {why}."
    if judged.verdict == "not found":
        short = listed([SHORT[reason].format(target=target) for reason in judged.reasons])
        return f"The {count(summary['size'], 'head')} chosen on {domain} images {short}."
    reached = {
        "reached": f"reach the {target} % aimed at (no part of their interval lies below it)",
        "cannot be told": f"may or may not reach the {target} % aimed at, which lies within the interval",
    }[summary["target_is"]]
    return f"The {count(summary['size'], 'head')} found on {domain} images {reached}."


def circuit(context: Context, finding: Finding) -> markup.Section:
    """Return curve, graph, timesteps and tables of the circuits."""
    config = context.config
    read = (
        f"A circuit is a set of heads that is kept while all others are replaced (here: {config.circuit_method}) in the"
        " same pass. Its share says how much of what all heads contribute it still brings: 0 % is as bad as no head at"
        " all, 100 % the full model. Its heads were chosen on one half of the images, and their shares are measured on"
        " the other half, so they can fall short of the target (dotted line). Where the verdict is not that one was"
        " found, the circuit below is the heads that were chosen."
    )
    graph = (
        "Filled circles are heads of the circuit: the larger, the more of the share is lost without it. A line is a"
        " path that carries an effect directly from one head to another, or to the output, all other heads held still:"
        " solid where it lowers the loss, dashed where it raises it, dotted where it only seemed to differ from zero"
        f" before correction over all paths. Paths were measured between up to {config.discovery.graph_heads} heads,"
        " and are tested against zero only: paths have no matched controls."
    )
    judged = judged_circuits(context.tables, config.discovery.alpha)
    parts: list[Markup] = []
    for domain, each in context.tables.circuits.items():
        parts += _domain(domain, each, judged.get(domain), context)
    return markup.section(
        "circuit",
        "The circuit",
        markup.paragraph(finding.answer),
        markup.paragraph(read),
        context.chart("circuit_curve", more=_rankings(context.tables)),
        markup.heading("Over the layers"),
        markup.paragraph(graph),
        context.chart("circuit_graph"),
        markup.heading("When each head is needed"),
        context.chart("circuit_timesteps"),
        *parts,
    )


def _rankings(tables: Tables) -> str:
    """Return by what the heads of the curves are ordered, as far as there are curves."""
    areas = [each.summary["areas"] for each in tables.circuits.values() if each.chosen]
    names = [RANKINGS[name] for name in RANKINGS if name != "chance" and any(name in each for each in areas)]
    text = (
        f"Those are kept first that rank first by {listed(names)} on the other half of the images, with intervals over"
        " images"
    )
    drawn = [each["chance"]["orders"] for each in areas if "chance" in each]
    chance = f"; and by chance, with the range of {count(max(drawn), 'random order')}" if drawn else ""
    return f"{text}{chance}." if names else ""


def _carried(domain: str, circuit: Circuit, confidence: float) -> str:
    summary, random = circuit.summary, circuit.summary["random"]
    text = (
        f"On {domain} images {summary['size']} of {summary['heads']} heads carry {shown(summary['faithfulness'])} of"
        f" what attention contributes; all other heads together {shown(summary['completeness'])}, a difference of"
        f" {shown(summary['beyond_complement'], 'points')} ({p_value(summary['p_complement'])})"
    )
    if not random["count"]:
        return f"{text}; there is no other set of that size."
    between = {"estimate": random["mean"], **random}
    return (
        f"{text}; {count(random['count'], 'random set')} of that size, which hold"
        f" {number(100 * random['shared'], 2)} % of its heads on average, {shown(between)} ({p_value(random['p'])})."
        f" All on the same {count(summary['samples'], 'image')}; p-values before correction;"
        f" in brackets intervals over images, for random sets the middle {number(100 * confidence)} % of them."
    )


def _shared(found: dict[str, Circuit]) -> list[str]:
    """Return how many heads the circuits of two domains share, beside what chance would give."""
    if len(found) < 2:
        return []
    (first, one), (second, other) = list(found.items())[:2]
    total, sizes = one.summary["heads"], (len(one.members), len(other.members))
    both = set(one.members) & set(other.members)
    expected = sizes[0] * sizes[1] / total
    p = float(hypergeom.sf(len(both) - 1, total, *sizes))
    return [
        f"{count(len(both), 'head').capitalize()} of the {first} circuit {'is' if len(both) == 1 else 'are'} in the"
        f" {second} one too; {number(expected, 2)} would be by chance ({p_value(p)})."
    ]


def _why_none(circuit: Circuit) -> str:
    """Return why no heads were chosen, with the rise of the loss without any, which is over both halves."""
    summary, ends = circuit.summary, circuit.summary["contribution_percent"]
    why = WHY_NONE[summary["reason"]].format(least=number(summary["least_contribution_percent"], 2))
    if any(ends[name] is None for name in ("estimate", "low", "high")):
        return why
    images = count(len(summary["discovery_samples"]) + len(summary["test_samples"]), "image")
    return f"{why} (on {images} it changes by {interval(ends['estimate'], ends['low'], ends['high'], '%')})"


def _measured_on(summary: dict[str, Any]) -> str:
    """Return on which images and timesteps the heads of one domain were chosen and tested."""
    steps = listed([f"{timestep:g}" for timestep in summary["timesteps"]])
    return (
        f"Chosen on {count(len(summary['discovery_samples']), 'image')}, tested on"
        f" {len(summary['test_samples'])} others, at t = {steps}."
    )


def _domain(domain: str, circuit: Circuit, judged: CircuitVerdict | None, context: Context) -> list[Markup]:
    summary, images = circuit.summary, f"on {domain} images"
    if judged is None:
        why = f"There is no circuit on {domain} images: {_why_none(circuit)}."
        return [markup.heading(f"No heads were chosen {images}"), markup.paragraph(why)]
    what = "Heads of the circuit" if judged.verdict == "found" else "Heads chosen"
    title = markup.heading(f"{what} {images}")
    rest = (
        f"All heads outside the circuit still bring {shown(summary['completeness'])}: near 0 % the circuit would be"
        " all there is; the rest is what other heads can do in its place."
    )
    trajectory = (
        [markup.paragraph("On a sampling trajectory nobody knows the noise: this is the share of the output shift.")]
        if summary["measure"] != "denoising loss"
        else []
    )
    columns = [
        *["head", "mechanism", "rank alone", "share lost without it", "most it is worth", "direct to output"],
        *["from heads", "to heads"],
    ]
    labels = head_labels(context.tables)
    rows = [head_row(head, circuit, labels) for head in circuit.members]
    caption = (
        f"{count(len(rows), 'head')} of {summary['heads']}; most it is worth: of the subsets of other heads taken out"
        " before it, the one that made it dearest on the other half; paths are named where they differ from zero"
    )
    return [
        title,
        markup.paragraph(_measured_on(summary), "quiet"),
        *trajectory,
        markup.paragraph(_outcome(domain, circuit, judged)),
        markup.paragraph(needed_sentence(summary, context.config.discovery.alpha)),
        markup.paragraph(rest),
        markup.paragraph(subsets_sentence(summary)),
        markup.table(columns, rows, caption, columns[2:6]),
        areas_table(summary["areas"]),
        markup.paragraph(paths_sight(circuit, context.config)),
        markup.folded("Total, direct, mediated and remaining effects", partition_table(circuit)),
    ]
