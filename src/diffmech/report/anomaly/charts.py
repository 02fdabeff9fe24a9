"""Charts of the study of anomalies: scores beside each other, and how sure the model is."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.report.anomaly.findings import LACKING, OF_THE_MODEL, words
from diffmech.report.drawing import absent, finish, from_to, in_panels, table, with_intervals

MATCHINGS = {"overall": "all slices", "matched": "within bins of position"}
ORDER = ("the score that is judged", "other scores of the model", "the model without a part", "competitors")
MOST_PANELS = 8
DOUBTS = {
    "distance": "distance to the threshold",
    "epistemic": "epistemic uncertainty",
    "uncertainty": "total uncertainty",
}


def slice_scores(measures: pd.DataFrame, model: str) -> Any:
    """Draw the ROC AUC of every score of slices with its interval, overall and matched for position."""
    frame = measures[(measures["measure"] == "roc_auc") & ~measures["adjusted"].astype(bool)].dropna(subset="value")
    if frame.empty:
        return absent("No two slices could be compared.")
    frame = frame.assign(panel=frame["matching"].map(MATCHINGS))
    return _scores(frame, list(MATCHINGS.values()), model, "ROC AUC", width=270, columns=2)


def slice_curves(curves: pd.DataFrame, model: str) -> Any:
    """Draw ROC and precision-recall curves with their bands: of the model's score, and beside each of the others."""
    frame = curves.dropna(subset="y")
    others = [score for score in dict.fromkeys(frame["score"]) if score != model]
    if frame.empty or not others:
        return absent("There are no slices of both kinds.")
    pairs = []
    for other in others:
        own = frame[frame["score"].isin([model, other])]
        pairs.append(own.assign(beside=words(other), name=own["score"].map(words)))
    drawn = pd.concat(pairs)
    names = [words(score) for score in (model, *others)]
    colour = alt.Color("name:N", title=None, sort=names, scale=alt.Scale(domain=names))
    tooltip: list[Any] = ["name:N", *(alt.Tooltip(f"{part}:Q", format=".3g") for part in ("x", "y")), *from_to()]
    parts = []
    for kind, x_title, y_title in (
        ("roc", "false alarms", "lesions found"),
        ("precision_recall", "lesions found", "precision"),
    ):
        x = alt.X("x:Q", title=f"{x_title}, share", axis=alt.Axis(format="%", tickCount=3))
        share = alt.Axis(format="%", tickCount=5)
        y = alt.Y("y:Q", title=f"{y_title}, share", axis=share, scale=alt.Scale(domain=[0, 1]))
        band = alt.Chart().mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
        line = alt.Chart().mark_line().encode(x=x, y=y, color=colour, tooltip=tooltip)
        floor = alt.Chart().mark_line(style="null-line").encode(x=x, y="floor:Q")
        panel = alt.layer(floor, band, line).properties(width=140, height=140)
        kept = drawn[drawn["curve"] == kind][["beside", "name", "x", "y", "low", "high", "floor"]]
        parts.append(in_panels(panel, "beside", kept, [words(score) for score in others], 4))
    said = f"ROC and precision-recall curves of {words(model)} beside {', '.join(words(other) for other in others)}"
    return finish(alt.vconcat(*parts), f"{said}, with bands over patients and what a random score has.", panels=4)


def pixel_scores(measures: pd.DataFrame, model: str) -> Any:
    """Draw the average precision over pixels of every map with its interval, in each group of lesions."""
    frame = measures[measures["measure"] == "pixel_average_precision"].dropna(subset="value")
    if frame.empty:
        return absent("No lesion of a test slice is marked.")
    groups = list(dict.fromkeys(frame["group"]))[:MOST_PANELS]
    panels = {group: "all lesions" if group == "all" else group for group in groups}
    frame = frame[frame["group"].isin(groups)].assign(panel=lambda own: own["group"].map(panels))
    return _scores(frame, list(panels.values()), model, "average precision", width=155, columns=3)


def _scores(frame: pd.DataFrame, panels: list[str], model: str, title: str, *, width: int, columns: int) -> Any:
    frame = frame.assign(
        name=frame["score"].map(words),
        what=[_kind(score, model) for score in frame["score"]],
        low=frame["low"].fillna(frame["value"]),
        high=frame["high"].fillna(frame["value"]),
    )
    first = frame[frame["panel"] == panels[0]]
    order = list(first.assign(place=first["what"].map(ORDER.index)).sort_values(["place", "value"])["name"])
    kinds = [kind for kind in ORDER if kind in set(frame["what"])]
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False, padding=6), axis=alt.Axis(tickCount=5))
    y = alt.Y("name:N", title=None, sort=order, axis=alt.Axis(labelLimit=230))
    colour = alt.Color("what:N", title=None, sort=kinds, scale=alt.Scale(domain=kinds))
    tooltip = ["name:N", alt.Tooltip("value:Q", title=title, format=".3g"), *from_to()]
    tooltip += [alt.Tooltip("floor:Q", title="a random score", format=".3g")]
    floor = alt.Chart().mark_rule(style="null-line").encode(x="mean(floor):Q")
    chart = alt.layer(floor, *with_intervals(x, y, colour=colour, tooltip=tooltip, size=46))
    chart = chart.properties(width=width, height=17 * len(order))
    kept = frame[["panel", "name", "what", "value", "low", "high", "floor"]]
    return finish(
        in_panels(chart, "panel", kept, panels, columns),
        f"{title} with intervals of {len(order)} scores in {len(panels)} panels ({', '.join(panels)}); a line marks "
        "what a random score has.",
        panels=columns,
    )


def _kind(score: str, model: str) -> str:
    judged, own, lacking, rivals = ORDER
    if score == model:
        return judged
    return own if score in OF_THE_MODEL else lacking if score in LACKING else rivals


def parts(ablations: pd.DataFrame) -> Any:
    """Draw what each part of the model adds, as differences with their intervals."""
    frame = ablations[(ablations["group"] == "all") | (ablations["matching"] == "matched")]
    frame = frame.dropna(subset=["difference", "difference_low"])
    if frame.empty:
        return absent("No part of the model was left out.")
    pixel = frame["measure"] == "pixel_average_precision"
    frame = frame[pixel | ((frame["measure"] == "roc_auc") & (frame["matching"] == "matched"))]
    told = {True: "average precision over pixels", False: "ROC AUC within bins of position"}
    frame = frame.assign(
        panel=(frame["measure"] == "pixel_average_precision").map(told),
        value=frame["difference"],
        low=frame["difference_low"],
        high=frame["difference_high"],
    )
    names = list(dict.fromkeys(frame["lacking"]))
    x = alt.X("value:Q", title="with it minus without it", scale=alt.Scale(padding=8), axis=alt.Axis(tickCount=5))
    y = alt.Y("lacking:N", title=None, sort=names)
    tooltip = ["lacking:N", alt.Tooltip("value:Q", format=".3g"), *from_to()]
    zero = alt.Chart().mark_rule(style="null-line").encode(x=alt.XDatum(0))
    layers = with_intervals(x, y, colour=alt.Undefined, tooltip=tooltip, size=60)
    chart = alt.layer(zero, *layers).properties(width=270, height=24 * len(names))
    panels = [words_ for words_ in told.values() if words_ in set(frame["panel"])]
    drawn = in_panels(chart, "panel", frame[["panel", "lacking", "value", "low", "high"]], panels)
    return finish(
        drawn.resolve_scale(x="independent"), f"What {', '.join(names)} add, with intervals, beside 0.", panels=2
    )


def reliability(deviations: pd.DataFrame) -> Any:
    """Draw the error that pixels of healthy slices have over the deviation that was predicted for them."""
    frame = deviations[deviations["model"] == "model"].dropna(subset=["predicted", "observed"])
    if frame.empty:
        return absent("No deviation was predicted.")
    ends = [float(frame[["predicted", "observed"]].min().min()), float(frame[["predicted", "observed"]].max().max())]
    x = alt.X("predicted:Q", title="predicted standard deviation", scale=alt.Scale(zero=False, padding=10))
    y = alt.Y("observed:Q", title="root mean square error", scale=alt.Scale(zero=False, padding=10))
    equal = alt.Chart(table(pd.DataFrame({"predicted": ends, "observed": ends}))).mark_line(style="null-line")
    band = alt.Chart().mark_rule().encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q")
    tooltip = [alt.Tooltip("predicted:Q", format=".3g"), alt.Tooltip("observed:Q", format=".3g"), *from_to()]
    points = alt.Chart().mark_point(filled=True, size=50, opacity=1).encode(x=x, y=y, tooltip=tooltip)
    data = table(frame[["predicted", "observed", "low", "high"]])
    drawn = alt.layer(equal.encode(x=x, y=y), alt.layer(band, points, data=data))
    return finish(
        drawn,
        f"Error over predicted deviation in {len(frame)} bins of pixels of healthy test slices, with intervals; the "
        "line is where both are equal.",
        height=260,
    )


def risk(curve: pd.DataFrame, areas: pd.DataFrame) -> Any:
    """Draw the share of wrong decisions among the surest slices, by what says how sure they are."""
    frame = curve.dropna(subset="risk")
    if frame.empty:
        return absent("No slice was decided.")
    frame = frame.assign(name=frame["doubt"].map(lambda doubt: DOUBTS.get(doubt, doubt.replace("_", " "))))
    names = list(dict.fromkeys(frame["name"]))
    x = alt.X("coverage:Q", title="share of slices that are decided, the surest first", axis=alt.Axis(format="%"))
    y = alt.Y("risk:Q", title="share of wrong decisions", axis=alt.Axis(format="%"))
    tooltip = [alt.Tooltip("coverage:Q", format=".0%"), alt.Tooltip("risk:Q", format=".1%"), *from_to(".1%")]
    band = alt.Chart().mark_area(opacity=0.18).encode(x=x, y=alt.Y("low:Q", title=None), y2="high:Q")
    line = alt.Chart().mark_line(point=True).encode(x=x, y=y, tooltip=tooltip)
    chance = float(areas["random"].iloc[0]) if len(areas) else float("nan")
    random = alt.Chart().mark_rule(style="null-line").encode(y=alt.YDatum(chance))
    chart = alt.layer(band, line, random).properties(width=185, height=170)
    kept = frame[["name", "coverage", "risk", "low", "high"]]
    return finish(
        in_panels(chart, "name", kept, names, 3),
        f"Share of wrong decisions over coverage, in the order of {', '.join(names)}; a line marks a random order, "
        f"{chance:.3g}.",
        panels=3,
    )
