"""The section of the page on circuits: which heads carry what attention contributes, and how surely."""

import math
from typing import Any

import numpy as np
from scipy.stats import hypergeom

from diffmech.config.root import Config
from diffmech.report import markup
from diffmech.report.artifacts import Circuit, Tables, records
from diffmech.report.context import Context
from diffmech.report.findings import Finding, head_labels
from diffmech.report.wording import count, interval, listed, number, p_value
from diffmech.statistics.multiplicity import holm

WHY_NONE = {
    "heads do not help": "without any head the loss is no higher",
    "heads help too little": "without any head the loss rises by no more than heads of random weights might",
    "too few images": "there are too few images to choose a circuit on one half and test it on the other",
}


def circuit_finding(tables: Tables, config: Config) -> Finding:
    """How few heads carry what attention contributes?"""
    circuits, alpha = tables.circuits, config.discovery.alpha
    found = {domain: each for domain, each in circuits.items() if each.found}
    question = "How few heads carry it?"
    details = [_carried(domain, each) for domain, each in found.items()]
    details += [
        f"On {domain} images there is no circuit: {WHY_NONE[each.summary['reason']]}{_rise(each)}."
        for domain, each in circuits.items()
        if not each.found
    ]
    if not found:
        return Finding(
            question, "not found", "There is no circuit: heads do not help enough.", tuple(details), "circuit"
        )
    p = holm([each.summary["random"].get("p", np.nan) for each in found.values()])
    beaten = [domain for domain, value in zip(found, p, strict=True) if value < alpha]
    details += _shared(found)
    details.append(
        f"Circuits were chosen on one half of the images to reach {number(100 * config.discovery.faithfulness)} %, and"
        f" judged on the other half. Level {alpha:g}, Holm-corrected over domains."
    )
    sizes = listed(
        [f"{each.summary['size']} of {each.summary['heads']} heads on {domain}" for domain, each in found.items()]
    )
    if not beaten:
        answer = f"Not fewer than chance would do: {sizes} images, but random sets of that size do as well."
        return Finding(question, "not found", answer, tuple(details), "circuit")
    scope = "" if len(beaten) == len(circuits) else f", on {listed(beaten)} images"
    answer = f"{sizes} images. They carry more than random sets of their size{scope}."
    return Finding(question, "found", answer, tuple(details), "circuit")


def circuit(context: Context, finding: Finding) -> str:
    """Return curve, graph, timesteps and tables of the circuits."""
    config = context.config
    read = (
        f"A circuit is a set of heads that is kept while all others are replaced (here: {config.circuit_method}) in the"
        " same pass. Its share says how much of what all heads contribute it still brings: 0 % is as bad as no head at"
        " all, 100 % the full model. It was chosen on one half of the images; everything below is measured on the other"
        " half, so it can fall short of the target (dotted line)."
    )
    graph = (
        "Filled circles are heads of the circuit: the larger, the more of the share is lost without it. A line is a"
        " path that carries an effect directly from one head to another, or to the output, all other heads held still:"
        " solid where it lowers the loss, dashed where it raises it, dotted where it only seemed to differ from zero"
        f" before correction over all paths. Paths were measured between up to {config.discovery.graph_heads} heads."
    )
    parts: list[str] = []
    for domain, each in context.tables.circuits.items():
        parts += _domain(domain, each, context)
    return markup.section(
        "circuit",
        "The circuit",
        markup.paragraph(finding.answer),
        markup.paragraph(read),
        context.chart(
            "circuit_curve",
            "Share by number of heads kept, those worth most first, with intervals. Diamond: the circuit. Grey bars:"
            " random sets with as many heads of each kind of attention; their mean is the dark tick.",
        ),
        "<h3>Over the layers</h3>",
        markup.paragraph(graph),
        context.chart("circuit_graph", "The circuit of each domain, with the paths between its heads."),
        "<h3>When each head is needed</h3>",
        context.chart(
            "circuit_timesteps",
            "Share lost at each timestep when one head of the circuit is replaced too. Dots: surely more than nothing.",
        ),
        *parts,
    )


def _carried(domain: str, circuit: Circuit) -> str:
    summary = circuit.summary
    text = (
        f"On {domain} images {summary['size']} of {summary['heads']} heads carry {_share(summary['faithfulness'])} of"
        " what attention contributes"
    )
    random = summary["random"]
    if random["count"]:
        # Random sets may have run on a part of the images only.
        same = "" if random["samples"] == len(summary["test_samples"]) else f" on {count(random['samples'], 'image')}"
        share = number(100 * random["faithfulness_of_circuit"])
        text += (
            f"; {count(random['count'], 'random set')} of that size {_share({'estimate': random['mean'], **random})}"
            f"{same and f'{same}, where the circuit carries {share} %'} ({p_value(random['p'])})"
        )
    return f"{text}. All other heads together still bring {_share(summary['completeness'])}."


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


def _share(ends: dict[str, Any]) -> str:
    value, low, high = (100 * (math.nan if ends[name] is None else ends[name]) for name in ("estimate", "low", "high"))
    return interval(value, low, high, "%")


def _rise(circuit: Circuit) -> str:
    ends = circuit.summary["contribution_percent"]
    if any(ends[name] is None for name in ("estimate", "low", "high")):
        return ""
    return f" (it changes by {interval(ends['estimate'], ends['low'], ends['high'], '%')})"


def _domain(domain: str, circuit: Circuit, context: Context) -> list[str]:
    title = f"<h3>Heads of the circuit on {markup.escape(domain)} images</h3>"
    summary = circuit.summary
    if not circuit.found:
        why = f"There is no circuit on {domain} images: {WHY_NONE[summary['reason']]}{_rise(circuit)}."
        return [title, markup.paragraph(why)]
    idle = summary["not_needed"]
    needed = (
        f"Without any one of {count(len(idle), 'head')}, {listed(idle)}, the share does not surely drop."
        if idle
        else "Without any one of them the share surely drops."
    )
    rest = (
        f"All heads outside the circuit still bring {_share(summary['completeness'])}: near 0 % the circuit would be"
        " all there is; the rest is what other heads can do in its place."
    )
    trajectory = (
        [markup.paragraph("On a sampling trajectory nobody knows the noise: this is the share of the output shift.")]
        if summary["measure"] != "denoising loss"
        else []
    )
    columns = ["head", "mechanism", "rank alone", "share lost without it", "direct to output", "from heads", "to heads"]
    labels = head_labels(context.tables)
    rows = [_row(head, circuit, labels) for head in circuit.members]
    caption = f"{count(len(rows), 'head')} of {summary['heads']}; paths are named where they differ from zero"
    return [
        title,
        *trajectory,
        markup.paragraph(needed),
        markup.paragraph(rest),
        markup.table(columns, rows, caption, columns[2:5]),
        markup.folded("Total, direct, mediated and remaining effects", _partition(circuit)),
    ]


def _row(head: str, circuit: Circuit, labels: dict[str, str]) -> list[str]:
    table, edges = circuit.heads, circuit.edges
    (drop,) = records(table[(table["timestep"] == "all") & (table["head"] == head)])
    share = _share({"estimate": drop.drop, "low": drop.low, "high": drop.high})
    direct = edges[(edges["sender"] == head) & (edges["path"] == "direct")]
    paths = edges[(edges["path"] == "edge") & edges["significant"]]
    return [
        head,
        labels.get(head, "unassigned"),
        str(drop.rank),
        share,
        _effect(next(records(direct))) if len(direct) else "not measured",
        listed(list(paths.loc[paths["receiver"] == head, "sender"])) or "–",
        listed(list(paths.loc[paths["sender"] == head, "receiver"])) or "–",
    ]


def _partition(circuit: Circuit) -> str:
    columns = ["head", "total", "direct", "through the circuit's heads", "remaining"]
    rows = []
    for head, parts in circuit.edges.groupby("sender", sort=False):
        by_path = {row.path: row for row in records(parts[parts["path"] != "edge"])}
        names = ("total", "direct", "mediated", "residual")
        rows.append([str(head), *(_effect(by_path[name]) for name in names)])
    caption = "Change of the loss in percent when a head is replaced, and the paths it takes; the parts add up"
    return markup.table(columns, rows, caption, columns[1:])


def _effect(row: Any) -> str:
    return interval(row.effect_percent, row.low, row.high, "%")
