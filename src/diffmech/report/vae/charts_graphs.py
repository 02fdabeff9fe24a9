"""Charts of graphs: what moves which unit, latent and output, how often motifs recur, which factor causes which."""

import re
from typing import Any

import altair as alt
import pandas as pd

from diffmech.config.studies.vae import VaeStudy
from diffmech.report.drawing import absent, finish, in_panels, table
from diffmech.report.vae.charts_latents import CELL
from diffmech.report.vae.words import of_first_seed, ordered, vae_words

LEVELS = ("factor-unit", "unit-latent", "latent-output")
MOST_UNITS = 12  # that are drawn, of the strongest paths
THIN = 0.25  # of the strongest link of a level, below which links are not drawn
SIGNS = {True: "raises", False: "lowers"}
OUTCOMES = ("true and found", "true, not found", "found, not true", "neither")
GENERATOR = "set on the mechanism itself"


def shown_links(links: pd.DataFrame, vae: VaeStudy) -> pd.DataFrame:
    """Return the links that are drawn: of the first VAE whose last layer links a factor with a latent, those of the
    units with the strongest paths; first seeds come first. None where no VAE has a path."""
    for seed in [vae.seeds[0], *sorted(set(links["vae_seed"]) - {vae.seeds[0]})]:
        for _, own in links[links["vae_seed"] == seed].groupby("family", sort=False):
            if len(shown := _strongest(own[own["layer"] == own["layer"].iloc[-1]])):
                return shown
    return links.head(0)


def _strongest(own: pd.DataFrame) -> pd.DataFrame:
    size = own["weight"].abs()
    inward = size[own["level"] == LEVELS[0]].groupby(own["target"]).max()
    outward = size[own["level"] == LEVELS[1]].groupby(own["source"]).max()
    strength = (inward * outward).dropna().sort_values(ascending=False)
    units = set(strength.index[:MOST_UNITS])
    thick = size >= THIN * size.groupby(own["level"]).transform("max")
    first, second, third = (own["level"] == level for level in LEVELS)
    kept = own[thick & ((first & own["target"].isin(units)) | (second & own["source"].isin(units)))]
    latents = set(kept[kept["level"] == LEVELS[1]]["target"])
    return pd.concat([kept, own[thick & third & own["source"].isin(latents)]])


def places(links: pd.DataFrame) -> dict[tuple[int, str], float]:
    """Return the height of each node, by its column and name: each column in the order of what moves its nodes."""
    found: dict[tuple[int, str], float] = {}
    for column in range(len(LEVELS) + 1):
        inward = links[links["level"] == LEVELS[column - 1]] if column else links.head(0)
        outward = links[links["level"] == LEVELS[column]] if column < len(LEVELS) else links.head(0)
        nodes = ordered(pd.concat([inward["target"], outward["source"]]))
        middle = {}
        for place, node in enumerate(nodes):
            rows = inward[inward["target"] == node]
            heights = [found[column - 1, str(source)] for source in rows["source"]]
            weights = rows["weight"].abs()
            weighed = sum(h * w for h, w in zip(heights, weights, strict=True))
            middle[node] = weighed / weights.sum() if len(rows) else float(place)
        nodes.sort(key=lambda node: middle[node])
        for place, node in enumerate(nodes):
            found[column, node] = (place + 0.5) / len(nodes)
    return found


def links_graph(links: pd.DataFrame, vae: VaeStudy) -> Any:
    """Draw one VAE as a graph of four columns: factors, units of a layer, latents, features of the image."""
    shown = shown_links(links, vae)
    if shown.empty:
        return absent("No VAE has significant links from a factor over a unit to a latent.")
    at = places(shown)
    family, layer = str(shown["family"].iloc[0]), str(shown["layer"].iloc[0])
    rows = [
        {
            "what": "link",
            "name": f"{row['source']} → {row['target']}",
            "x": LEVELS.index(row["level"]),
            "x2": LEVELS.index(row["level"]) + 1,
            "y": at[LEVELS.index(row["level"]), str(row["source"])],
            "y2": at[LEVELS.index(row["level"]) + 1, str(row["target"])],
            "sign": SIGNS[row["weight"] > 0],
            "weight": row["weight"],
            "p_corrected": row["p_corrected"],
            "size": abs(row["weight"]) / shown[shown["level"] == row["level"]]["weight"].abs().max(),
        }
        for row in shown.to_dict("records")
    ]
    rows += [
        {"what": "named" if column in (0, 3) else "node", "name": _short(name, column), "x": column, "y": y}
        for (column, name), y in at.items()
    ]
    heads = ("factors", f"units of {layer}", "latents", "image")
    rows += [{"what": "head", "name": name, "x": column, "y": -0.07} for column, name in enumerate(heads)]
    frame = pd.DataFrame(rows)
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.8, 3.8], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.1, 1], reverse=True, nice=False))
    signs = list(SIGNS.values())
    lines = (
        alt.Chart()
        .mark_rule()
        .encode(
            x=x,
            y=y,
            x2="x2:Q",
            y2="y2:Q",
            color=alt.Color("sign:N", title=None, sort=signs, scale=alt.Scale(domain=signs)),
            strokeWidth=alt.StrokeWidth("size:Q", scale=alt.Scale(domain=[0, 1], range=[0.4, 5]), legend=None),
            opacity=alt.Opacity("size:Q", scale=alt.Scale(domain=[0, 1], range=[0.25, 0.9]), legend=None),
            tooltip=["name:N", alt.Tooltip("weight:Q", format="+.3g"), alt.Tooltip("p_corrected:Q", format=".3g")],
        )
    )
    base = alt.Chart().encode(x=x, y=y)
    dots = base.mark_point(style="mark-on-heat", filled=True, size=420, opacity=1, strokeWidth=1)
    numbers = base.mark_text(style="cell-text", fontSize=11).encode(text="name:N")
    ends = base.mark_text(style="note", dx=-8, align="right").encode(text="name:N")
    heights = max(len([key for key in at if key[0] == column]) for column in range(4))
    drawn = alt.layer(
        lines.transform_filter("datum.what === 'link'"),
        dots.transform_filter("datum.what === 'node'"),
        numbers.transform_filter("datum.what === 'node'"),
        ends.transform_filter("datum.what === 'named' && datum.x === 0"),
        base.mark_text(style="note", dx=8, align="left")
        .encode(text="name:N")
        .transform_filter("datum.what === 'named' && datum.x === 3"),
        base.mark_text(style="note", fontWeight="bold").encode(text="name:N").transform_filter("datum.what === 'head'"),
        data=table(frame),
    )
    strongest = shown.iloc[int(shown["weight"].abs().to_numpy().argmax())]
    return finish(
        drawn,
        f"Graph of {vae_words(family, int(shown['vae_seed'].iloc[0]))}: {len(shown)} links between factors, units of "
        f"{layer}, latents and features of the image. The strongest goes from {strongest['source']} to "
        f"{strongest['target']}.",
        height=max(260, 34 * heights),
    )


def _short(name: str, column: int) -> str:
    """Return the number of a unit or latent, which its column names, and other names with spaces."""
    ending = re.search(r"(\d+)$", name)
    return ending[1] if ending and column in (1, 2) else name.replace("_", " ")


def motif_counts(motifs: pd.DataFrame, alpha: float) -> Any:
    """Draw how often each motif occurs, in multiples of what random graphs of the same degrees have."""
    frame = motifs[(motifs["expected"] > 0) & motifs["p_corrected"].notna()]
    if frame.empty:
        return absent("No motif that could be tested is expected.")
    frame = frame.assign(
        ratio=frame["found"] / frame["expected"],
        control_low=frame["low"] / frame["expected"],
        control_high=frame["high"] / frame["expected"],
        name=frame["family"] + ", " + frame["vae_seed"].astype(str),
        significant=frame["p_corrected"] <= alpha,
    )
    columns = ["motif", "name", "layer", "found", "expected", "low", "high", "ratio", "control_low", "control_high"]
    x = alt.X("ratio:Q", title="times as often as expected", scale=alt.Scale(zero=False, padding=10))
    y = alt.Y("name:N", title=None, sort=ordered(frame["name"]))
    shape = alt.Shape(
        "significant:N",
        title="other than by chance, corrected",
        scale=alt.Scale(domain=[True, False], range=["diamond", "circle"]),
        legend=alt.Legend(labelExpr="datum.value ? 'yes' : 'no'"),
    )
    tooltip = ["name:N", "layer:N", "found:Q", alt.Tooltip("expected:Q", format=".3g"), "low:Q", "high:Q"]
    tooltip.append(alt.Tooltip("p_corrected:Q", format=".3g"))
    band = alt.Chart().mark_bar(style="null-band", height={"band": 0.7})
    band = band.encode(x=alt.X("control_low:Q", title=x["title"]), x2="control_high:Q", y=y)
    points = alt.Chart().mark_point(filled=True, size=50, opacity=1)
    chart = alt.layer(band, points.encode(x=x, y=y, shape=shape, tooltip=tooltip))
    chart = chart.properties(width=240, height=20 * frame["name"].nunique())
    most = frame.sort_values("ratio").iloc[-1]
    drawn = in_panels(
        chart, "motif", frame[[*columns, "p_corrected", "significant"]], ordered(frame["motif"])
    ).resolve_scale(x="independent")
    return finish(
        drawn,
        f"Counts of motifs beside random graphs; {int(frame['significant'].sum())} of {len(frame)} differ. The largest "
        f"is {most['motif']} in {most['name']}: {int(most['found'])} where {most['expected']:.3g} are expected.",
        panels=2,
    )


def causal_map(edges: pd.DataFrame, vae: VaeStudy) -> Any:
    """Draw which factor is called a cause of which, beside what is true, of the first seed of each family."""
    own = of_first_seed(edges, vae)
    if own.empty:
        return absent("No factor of these images can be set alone.")
    mechanism = own[own["level"] == "generator"].drop_duplicates(["cause", "effect"]).assign(panel=GENERATOR)
    read = own[own["level"] == "inputs"]
    read = read.assign(panel="read from " + read["family"])
    frame = pd.concat([mechanism, read])
    outcome = {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}
    frame = frame.assign(
        outcome=[OUTCOMES[outcome[bool(t), bool(e)]] for t, e in zip(frame["true"], frame["edge"], strict=True)]
    )
    columns = ["panel", "cause", "effect", "outcome", "change", "floor", "p_corrected", "true", "edge"]
    names = ordered(pd.concat([frame["cause"], frame["effect"]]))
    x = alt.X("effect:N", title="effect", sort=names, axis=alt.Axis(labelAngle=-30))
    y = alt.Y("cause:N", title="cause", sort=names)
    scale, legend = alt.Scale(domain=list(OUTCOMES)), alt.Legend(values=list(OUTCOMES[:3]))
    colour = alt.Color("outcome:N", title=None, sort=list(OUTCOMES), scale=scale, legend=legend)
    shade = alt.condition(f"datum.outcome === '{OUTCOMES[3]}'", alt.value(0.12), alt.value(0.9))
    tooltip: list[Any] = ["cause:N", "effect:N", "outcome:N"]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".3g") for name in ("change", "floor", "p_corrected")]
    cells = alt.Chart().mark_rect().encode(x=x, y=y, color=colour, opacity=shade, tooltip=tooltip)
    base = alt.Chart().encode(x=x, y=y, text=alt.Text("change:Q", format=".2f"))
    words = [
        base.mark_text(style=style, fontSize=10.5).transform_filter(f"datum.outcome {sign} '{OUTCOMES[3]}'")
        for style, sign in (("note", "==="), ("cell-text", "!=="))
    ]
    chart = alt.layer(cells, *words).properties(width=240, height=CELL * frame["cause"].nunique())
    counts = frame.groupby("panel", sort=False)["outcome"].value_counts().unstack(fill_value=0)
    said = "; ".join(
        f"{panel}: {int(row.get(OUTCOMES[0], 0))} true edges found, {int(row.get(OUTCOMES[1], 0))} missed, "
        f"{int(row.get(OUTCOMES[2], 0))} false"
        for panel, row in counts.iterrows()
    )
    return finish(
        in_panels(chart, "panel", frame[columns], ordered(frame["panel"])),
        f"Cause by effect among factors, seed {vae.seeds[0]} of each family. {said}.",
        panels=2,
    )
