"""Charts of the circuit: how many heads it takes, what its heads are to each other, and when each is needed."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from diffmech.report.drawing import absent, dots, finish, from_to, in_panels, signed_cells
from diffmech.report.heads.artifacts import Circuit, largest, records
from diffmech.report.heads.naming import confirmed_labels
from diffmech.report.heads.terms import LABELS

NONE = "No domain has a circuit to draw: heads are not shown to lower the loss by enough to be explained."
OUTPUT = "output"
SHARE = "share of what all heads contribute"
# Names of the curves, and of the points beside them.
RANKINGS = {"exact": "effect of each head alone", "attribution": "attribution (gradients)", "chance": "chance"}
POINTS = {"circuit": "the circuit", "random circuits": "random sets of its size"}
# Sites beside which those without a head of any circuit are still shown.
MOST_SITES = 16
# Paths that are not significant are drawn, faintly, where they are so before correction.
UNCORRECTED = 0.05
PATH_COLUMNS = [
    *["domain", "what", "head", "receiver", "site", "slot", "to_site", "to_slot", "size", "sign", "effect_percent"],
    *["low", "high", "p_holm", "significant"],
]
SIGNS = ("helps", "hurts", "cannot be told from zero")


def circuit_curve(circuits: Mapping[str, Circuit]) -> Any:
    """Faithfulness by the number of heads kept for each ranking and for chance, with the circuit and random ones."""
    frames = [each.curve.assign(domain=domain) for domain, each in circuits.items() if each.chosen]
    if not frames:
        return absent(NONE)
    found = {domain: each.summary for domain, each in circuits.items() if each.chosen}
    frame = pd.concat(frames).assign(target=lambda rows: [found[domain]["target"] for domain in rows["domain"]])
    points = frame["ranking"].isin(POINTS)
    # of two columns, so that curves and points have a legend each
    frame["kept"] = frame["ranking"].map(RANKINGS)
    frame["point"] = frame["ranking"].map(POINTS)
    names = [name for key, name in RANKINGS.items() if key in set(frame.loc[~points, "ranking"])]
    x = alt.X("size:Q", title="heads kept", scale=alt.Scale(type="sqrt", nice=False), axis=alt.Axis(grid=False))
    y = alt.Y("faithfulness:Q", title=SHARE, axis=alt.Axis(format="%"))
    low = alt.Y("low:Q", title=SHARE)
    legend = alt.Legend(symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=3)
    colour = alt.Color("kept:N", title="heads are kept by", sort=names, scale=alt.Scale(domain=names), legend=legend)
    dash = alt.StrokeDash(
        "kept:N",
        title="heads are kept by",
        sort=names,
        scale=alt.Scale(domain=names, range=[[5, 3] if name == RANKINGS["chance"] else [1, 0] for name in names]),
    )
    shape = alt.Shape(
        "point:N", title=None, scale=alt.Scale(domain=list(POINTS.values()), range=["diamond", "triangle-down"])
    )
    curves = "isValid(datum.kept)"
    tooltip = _curve_tooltip()
    band = alt.Chart().mark_area(opacity=0.15).encode(x=x, y=low, y2="high:Q", color=colour).transform_filter(curves)
    line = (
        alt.Chart()
        .mark_line(point=alt.OverlayMarkDef(size=26))
        .encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=tooltip)
        .transform_filter(curves)
    )
    wanted = alt.Chart().mark_rule(style="reference").encode(y=alt.Y("target:Q", title=SHARE))
    layers = [band, wanted, line]
    for name, aside in zip(POINTS.values(), (-5, 5), strict=True):  # of one size: side by side, in pixels
        point = alt.Chart().transform_filter(f"datum.point === '{name}'")
        layers += [
            point.mark_rule(style="zero", strokeWidth=2, xOffset=aside).encode(x=x, y=low, y2="high:Q"),
            point.mark_point(style="mark-on-heat", filled=True, size=130, opacity=1, xOffset=aside).encode(
                x=x, y=y, shape=shape, tooltip=tooltip
            ),
        ]
    chart = alt.layer(*layers).properties(width=290, height=260)
    chart = in_panels(chart, "domain", frame, list(circuits))
    told = "; ".join(
        f"{domain}: the circuit of {summary['size']} of {summary['heads']} heads reaches "
        f"{summary['faithfulness']['estimate']:.0%}"
        for domain, summary in found.items()
    )
    return finish(chart, f"Share of the contribution of all heads by the number of heads kept. {told}.", panels=2)


def _curve_tooltip() -> list[Any]:
    return [
        alt.Tooltip("ranking:N", title="heads kept by"),
        alt.Tooltip("size:Q", title="heads kept"),
        alt.Tooltip("faithfulness:Q", title="share", format=".1%"),
        *from_to(".1%"),
        alt.Tooltip("sets:Q", title="random draws"),
    ]


def circuit_graph(circuits: Mapping[str, Circuit], mechanisms: pd.DataFrame, sites: tuple[str, ...]) -> Any:
    """The circuit over the layers: heads by mechanism and worth, and the paths between them; one panel per domain."""
    labels = confirmed_labels(mechanisms)
    found = {domain: each for domain, each in circuits.items() if each.chosen}
    if not found:
        return absent(NONE)
    members = {head for each in found.values() for head in each.members}
    if len(sites) > MOST_SITES:
        sites = tuple(site for site in sites if any(head.startswith(f"{site}.h") for head in members))
    columns = [*sites, OUTPUT]
    nodes = pd.concat([_nodes(domain, each, sites, labels) for domain, each in found.items()])
    paths = pd.concat([_paths(domain, each) for domain, each in found.items()])
    slots = sorted(nodes["slot"].unique())
    x = alt.X(
        "site:N",
        title="layers, in the order in which they run",
        sort=columns,
        scale=alt.Scale(domain=columns),
        axis=alt.Axis(labelAngle=-35, labelLimit=120, ticks=False, grid=False),
    )
    y = alt.Y(
        "slot:N",
        title="head of its layer",
        sort=slots,
        scale=alt.Scale(domain=slots),
        axis=alt.Axis(ticks=False, grid=False),
    )
    largest_path = max([1e-9, *paths["size"]])
    present = set(nodes.loc[nodes["what"] == "circuit", "label"])
    names = [*LABELS, *sorted(present - set(LABELS))]
    others = (
        alt.Chart()
        .mark_point(size=22, filled=False, opacity=0.45, style="null-line", strokeDash=[1, 0])
        .encode(x=x, y=y, tooltip=["head:N"])
        .transform_filter("datum.what === 'other'")
    )
    lines = (
        alt.Chart()
        .mark_rule(style="zero")
        .encode(
            x=x,
            y=y,
            x2="to_site:N",
            y2="to_slot:N",
            strokeWidth=alt.StrokeWidth("size:Q", scale=alt.Scale(domain=[0, largest_path], range=[1, 7]), legend=None),
            strokeDash=alt.StrokeDash(
                "sign:N", scale=alt.Scale(domain=list(SIGNS), range=[[1, 0], [6, 3], [1, 3]]), title="path"
            ),
            opacity=alt.condition("datum.significant", alt.value(0.8), alt.value(0.45)),
            tooltip=[
                alt.Tooltip("head:N", title="from"),
                alt.Tooltip("receiver:N", title="to"),
                alt.Tooltip("effect_percent:Q", title="effect, % of the loss", format=".3g"),
                *from_to(),
                alt.Tooltip("p_holm:Q", title="p (Holm)", format=".3g"),
            ],
        )
        .transform_filter("datum.what === 'path'")
    )
    inside = (
        alt.Chart()
        .mark_point(filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            size=alt.Size("worth:Q", scale=alt.Scale(range=[40, 520]), legend=None),
            color=alt.Color(
                "label:N",
                title="mechanism",
                scale=alt.Scale(domain=names),
                legend=alt.Legend(values=[name for name in names if name in present]),
            ),
            tooltip=[
                "head:N",
                alt.Tooltip("label:N", title="mechanism"),
                alt.Tooltip("drop:Q", title="share lost without it", format=".1%"),
                *from_to(".1%"),
            ],
        )
        .transform_filter("datum.what === 'circuit'")
    )
    layers = [others, *([lines] if len(paths) else []), inside]
    chart = alt.layer(*layers).properties(width=290, height=max(120, 30 * len(slots)))
    frame = pd.concat([nodes, paths])
    chart = in_panels(chart, "domain", frame, list(circuits))
    sure = int(paths["significant"].astype(bool).sum())
    return finish(
        chart,
        f"Graph of {int((nodes['what'] == 'circuit').sum())} circuit heads over {len(sites)} layers; {sure} paths "
        "between heads, or from a head to the output, differ from zero after correction.",
        panels=2,
    )


def _nodes(domain: str, circuit: Circuit, sites: tuple[str, ...], labels: Mapping[str, str]) -> pd.DataFrame:
    heads = circuit.heads[(circuit.heads["timestep"] == "all") & circuit.heads["site"].isin(sites)]
    named = heads.assign(
        domain=domain,
        what=heads["in_circuit"].map({True: "circuit", False: "other"}),
        slot=[_slot(head) for head in heads["head"]],
        label=[labels.get(head, "unassigned") for head in heads["head"]],
        worth=heads["drop"].clip(lower=0),
    )
    return named[["domain", "what", "head", "site", "slot", "label", "worth", "drop", "low", "high"]]


def _paths(domain: str, circuit: Circuit) -> pd.DataFrame:
    """Return the significant paths, and those that were so before correction."""
    edges = circuit.edges[circuit.edges["path"].isin(["edge", "direct"])]
    edges = edges[edges["significant"] | (edges["p"] < UNCORRECTED)]
    rows = []
    for edge in records(edges):
        out = edge.receiver == OUTPUT
        sign = SIGNS[2] if not edge.significant else SIGNS[0] if edge.effect_percent > 0 else SIGNS[1]
        where = {"site": edge.sender.rpartition(".")[0], "slot": _slot(edge.sender)}
        there = (OUTPUT, _slot(edge.sender)) if out else (edge.receiver.rpartition(".")[0], _slot(edge.receiver))
        rows.append(
            {"domain": domain, "what": "path", "head": edge.sender, "receiver": edge.receiver}
            | where
            | {
                "to_site": there[0],
                "to_slot": there[1],
                "size": abs(edge.effect_percent) if edge.significant else 0,
                "sign": sign,
            }
            | {"effect_percent": edge.effect_percent, "low": edge.low, "high": edge.high, "p_holm": edge.p_holm}
            | {"significant": bool(edge.significant)}
        )
    return pd.DataFrame(rows, columns=PATH_COLUMNS)


def _slot(head: str) -> str:
    return head.rpartition(".")[2]


def circuit_timesteps(circuits: Mapping[str, Circuit]) -> Any:
    """By how much faithfulness at each timestep drops without each head of the circuit; one panel per domain."""
    found = {domain: each for domain, each in circuits.items() if each.chosen}
    frames = []
    for domain, each in found.items():
        rows = each.heads[each.heads["in_circuit"] & (each.heads["timestep"] != "all")]
        frames.append(rows.assign(domain=domain, timestep=rows["timestep"].astype(float)))
    frame = pd.concat(frames).dropna(subset=["drop"]) if frames else pd.DataFrame()
    if frame.empty:
        return absent(NONE)
    frame = frame[["domain", "head", "timestep", "drop", "low", "high", "needed"]]
    bound = max(float(frame["drop"].abs().max()), 1e-6)
    x = alt.X("timestep:O", title="timestep", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False))
    order = [head for each in found.values() for head in each.members]
    y = alt.Y(
        "head:N",
        sort=list(dict.fromkeys(order)),
        title=None,
        axis=alt.Axis(ticks=False, domain=False, labelLimit=170),
    )
    tooltip = ["head:N", "timestep:Q", alt.Tooltip("drop:Q", title="share lost", format=".1%"), *from_to(".1%")]
    legend = alt.Legend(format="%")
    cells = signed_cells(x, y, "drop", "share lost without the head", bound, tooltip, legend=legend)
    most = max(len(each.members) for each in found.values())
    chart = alt.layer(cells, dots(x, y, "needed")).properties(width=200, height=max(60, 15 * most))
    chart = in_panels(chart, "domain", frame, list(circuits)).resolve_scale(y="independent")
    top = largest(frame, "drop")
    return finish(
        chart,
        f"Share of the contribution lost without each circuit head at each timestep. The largest is {top['drop']:.0%}, "
        f"for {top['head']} at t = {top['timestep']:g} on {top['domain']} images.",
        panels=2,
    )
