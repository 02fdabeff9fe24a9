"""Tables and sentences on the heads of a circuit: what each is worth, which paths it takes, what stands in for it."""

import math
from typing import Any

from markupsafe import Markup
from scipy.special import ndtri

from diffmech.config.root import Config
from diffmech.report import markup
from diffmech.report.heads.artifacts import Circuit, records
from diffmech.report.heads.charts_circuit import RANKINGS
from diffmech.report.wording import count, interval, limits, listed, number
from diffmech.statistics.reach import smallest_effect, smallest_sign_flip_p, units_needed


def shown(ends: dict[str, Any], unit: str = "%") -> str:
    """Return a share of 1 in percent with its interval, as far as it is bounded."""
    value, low, high = (100 * (math.nan if ends[name] is None else ends[name]) for name in ("estimate", "low", "high"))
    if not math.isfinite(value):
        return "an unknown share"
    if not math.isfinite(low) or not math.isfinite(high):
        return f"about {number(value)} {unit}, which no interval bounds,"
    return interval(value, low, high, unit)


def head_row(head: str, circuit: Circuit, labels: dict[str, str]) -> list[str]:
    """Return the row of a head in the table of a circuit; `labels` are by head."""
    table, edges = circuit.heads, circuit.edges
    (drop,) = records(table[(table["timestep"] == "all") & (table["head"] == head)])
    share = shown({"estimate": drop.drop, "low": drop.low, "high": drop.high})
    direct = edges[(edges["sender"] == head) & (edges["path"] == "direct")]
    paths = edges[(edges["path"] == "edge") & edges["significant"]]
    return [
        head,
        labels.get(head, "unassigned"),
        str(drop.rank),
        share,
        shown({"estimate": drop.minimality, "low": drop.minimality_low, "high": drop.minimality_high}),
        _tested(next(records(direct))) if len(direct) else "not measured",
        listed(list(paths.loc[paths["receiver"] == head, "sender"])) or "–",
        listed(list(paths.loc[paths["sender"] == head, "receiver"])) or "–",
    ]


def needed_sentence(summary: dict[str, Any], alpha: float) -> str:
    """Return which heads of the circuit it is not shown to need, alone."""
    idle, tested = summary["not_needed"], "(random signs, corrected over the heads of the circuit)"
    if summary["smallest_p_complement"] > alpha:
        few = count(summary["samples"], "test image")
        return f"With {few} it cannot be told which heads the share needs: it takes {units_needed(alpha)} or more."
    if not idle:
        return f"Without any one of them the share surely drops {tested}."
    return (
        f"Of {count(len(idle), 'head')}, {listed(idle)}, it is not shown that the share drops without that head alone"
        f" {tested}."
    )


def paths_sight(circuit: Circuit, config: Config) -> str:
    """Return which paths could have been told from zero."""
    tested = circuit.edges[circuit.edges["path"].isin(["edge", "direct"])]
    if tested.empty:
        return ""
    images, paths, alpha = int(tested["n"].iloc[0]), len(tested), config.discovery.alpha
    if paths * smallest_sign_flip_p(images, config.discovery.permutations) > alpha:
        return (
            f"No path can be told from zero with {count(images, 'image')} after correction over {count(paths, 'path')}:"
            f" it takes {units_needed(alpha, paths)} images or more and {math.ceil(2 * paths / alpha)} random signs"
            " (discovery.permutations), or fewer heads (discovery.graph_heads)."
        )
    error = (tested["high"] - tested["low"]) / (2 * ndtri((1 + config.discovery.confidence) / 2))
    least = smallest_effect(error.to_numpy(), images - 1, alpha=alpha, tests=paths)
    return (
        f"A path is found four times in five where it changes the loss by {limits(least.min(), least.max(), 2)} %,"
        f" depending on how much it differs between images ({count(paths, 'path')}, Holm-corrected)."
    )


def subsets_sentence(summary: dict[str, Any]) -> str:
    """Return completeness and minimality over subsets in sentences."""
    found = summary["subsets"]
    worst, idle = found["worst"], found["not_minimal"]
    which = "the whole circuit" if worst["how"] == "whole" else listed(worst["removed"])
    text = (
        "Complete would be a circuit that does as all heads do whatever is taken out of both (0 %). The largest"
        f" difference, by the other half of the images, is without {which}: {shown(worst, 'points')}"
    )
    if found["mean"] is not None:
        text += f"; over {count(found['random'], 'random subset')} it is {shown(found['mean'], 'points')} on average"
    settings = f"in any of {count(1 + found['orders'], 'setting')} tried for each head"
    return f"{text}. " + (
        f"{listed(idle)} {'is' if len(idle) == 1 else 'are'} not shown to be worth anything {settings}."
        if idle
        else "In its best setting the interval of every head lies above 0 (not corrected over heads)."
    )


def areas_table(areas: dict[str, dict[str, Any]]) -> Markup:
    """Return the table of the areas of the curves."""
    columns = ["heads kept by", "area under the curve", "distance from 100 %", "area beyond chance"]
    rows = []
    for name in filter(areas.__contains__, RANKINGS):
        each = areas[name]
        title = f"{RANKINGS[name]}, mean of {count(each['orders'], 'order')}" if "orders" in each else RANKINGS[name]
        beyond = shown(each["beyond_chance"], "points") if "beyond_chance" in each else "–"
        rows.append([title, shown(each["cpr"]), shown(each["cmd"]), beyond])
    caption = (
        "The whole curve in one number: its area (CPR, 100 % = all is there from the first head on) and the area"
        " between it and 100 % (CMD, 0 % is best), heads counted as a share of all"
    )
    return markup.table(columns, rows, caption, columns[1:])


def partition_table(circuit: Circuit) -> Markup:
    """Return the table of total, direct, mediated and remaining effects of the heads of a circuit."""
    columns = ["head", "total", "direct", "through the circuit's heads", "remaining"]
    rows = []
    for head, parts in circuit.edges.groupby("sender", sort=False):
        by_path = {row.path: row for row in records(parts[parts["path"] != "edge"])}
        names = ("total", "direct", "mediated", "residual")
        rows.append([str(head), *((_tested if name == "direct" else _effect)(by_path[name]) for name in names)])
    caption = (
        "Change of the loss in percent when a head is replaced, and the paths it takes; the parts add up; only the"
        " direct path is tested"
    )
    return markup.table(columns, rows, caption, columns[1:])


def _effect(row: Any) -> str:
    return interval(row.effect_percent, row.low, row.high, "%")


def _tested(row: Any) -> str:
    """Return the effect of a path, and whether it was told from zero after correction over all paths."""
    return f"{_effect(row)}{'' if row.significant else ', not told from zero'}"
