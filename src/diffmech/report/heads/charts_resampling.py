"""Charts of what removed heads do to whole images: attributes that go, and how far images move, beside controls."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.config.analysis import AblationConfig
from diffmech.interventions.decisions import ROUNDING
from diffmech.report.drawing import (
    absent,
    control_band,
    domain_colour,
    finish,
    from_to,
    in_panels,
    row_height,
    signed_cells,
    table,
    with_intervals,
)
from diffmech.report.heads.artifacts import farthest_from_zero, records
from diffmech.report.heads.naming import readable_names
from diffmech.report.wording import count

NOTHING = "No image was sampled with heads removed."
QUESTIONS = {"asked": "shown as asked for", "attribute": "shown at all"}
MEASURES = {"ssim": "likeness (SSIM)", "fd": "Fréchet distance, excess"}
NOT_BEATEN = "controls not beaten or not run"
CLAIMS = ("more than its controls", "not zero", "not distinguishable from zero")


def whole_mechanisms(resampling: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Return the rows of mechanisms that are not removed in a part of sampling only, with a readable name."""
    chosen = (resampling["group"] == "mechanisms") & (resampling["window"] == "all")
    frame = resampling[chosen].copy()
    frame["name"] = frame["target"].map(lambda target: names.get(target, target))
    parts = frame["measure"].str.split(":", n=1, expand=True).reindex(columns=[0, 1])
    return frame.assign(kind=parts[0], attribute=parts[1])


def question(frame: pd.DataFrame) -> str:
    """Return which change of attributes is shown: towards what was asked for, where anything was."""
    return "asked" if (frame["kind"] == "asked").any() else "attribute"


def claim(row: Any, alpha: float) -> str:
    """Return what may be said of one change after correction."""
    if row.p_zero_holm <= alpha + ROUNDING:
        return CLAIMS[0] if row.controls_fair and row.p_control_adjusted <= alpha + ROUNDING else CLAIMS[1]
    return CLAIMS[2]


def resampling_attributes(
    resampling: pd.DataFrame, mechanisms: pd.DataFrame, domains: tuple[str, ...], ablation: AblationConfig
) -> Any:
    """How much surer or less sure the judge is of each attribute when a mechanism is removed, median over images."""
    frame = whole_mechanisms(resampling, readable_names(mechanisms, domains))
    frame = frame[frame["kind"].isin(QUESTIONS)]
    if frame.empty:
        return absent(NOTHING if resampling.empty else "Nothing judged attributes of the sampled images.")
    shown = question(frame)
    frame = frame[frame["kind"] == shown].assign(points=lambda rows: 100 * rows["effect"])
    frame["claim"] = [claim(row, ablation.alpha) for row in records(frame)]
    frame["mark"] = frame["claim"].map({CLAIMS[0]: "◆", CLAIMS[1]: "●", CLAIMS[2]: ""})
    columns = [
        *["domain", "name", "attribute", "points", "low", "high", "p_zero_holm", "control_mean", "control_low"],
        *["control_high", "p_control_adjusted", "clean", "flipped", "n", "claim", "mark"],
    ]
    bound = max(float(frame["points"].abs().max()), 1.0)
    order = list(frame.groupby("name")["points"].apply(lambda v: v.abs().max()).sort_values(ascending=False).index)
    x = alt.X(
        "attribute:N", title=None, sort=None, axis=alt.Axis(labelAngle=0, ticks=False, domain=False, orient="top")
    )
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=170, ticks=False, domain=False))
    tooltip = [
        alt.Tooltip("name:N", title="removed"),
        "attribute:N",
        "domain:N",
        alt.Tooltip("points:Q", title="median change, points", format=".3g"),
        alt.Tooltip("low:Q", title="from (of 1)", format=".3g"),
        alt.Tooltip("high:Q", title="to (of 1)", format=".3g"),
        alt.Tooltip("clean:Q", title="nothing removed (of 1)", format=".3g"),
        alt.Tooltip("flipped:Q", title="share of verdicts that flipped", format=".2f"),
        alt.Tooltip("p_zero_holm:Q", title="p against no change (Holm)", format=".3g"),
        alt.Tooltip("control_mean:Q", title="matched controls (of 1)", format=".3g"),
        alt.Tooltip("p_control_adjusted:Q", title="p against controls (corrected)", format=".3g"),
        alt.Tooltip("n:Q", title="images"),
        "claim:N",
    ]
    cells = signed_cells(x, y, "points", "change, percentage points", bound, tooltip)
    marks = (
        alt.Chart()
        .mark_text(style="mark-on-heat", fontSize=12, stroke=None)
        .encode(x=x, y=y, text="mark:N")
        .transform_filter("datum.mark")
    )
    layers = alt.layer(cells, marks)
    top = farthest_from_zero(frame, "points")
    description = (
        f"Heat map of {count(frame['name'].nunique(), 'mechanism')} by"
        f" {count(frame['attribute'].nunique(), 'attribute')}: how removing a mechanism changes how surely an"
        f" attribute is {QUESTIONS[shown]}. The change farthest from none is {top['points']:.3g} percentage"
        f" points, {top['attribute']} without {top['name']};"
        f" {int((frame['claim'] != CLAIMS[2]).sum())} of {len(frame)} changes differ from zero after correction."
    )
    height = max(60.0, 1.6 * row_height(len(order)) * len(order))
    if frame["domain"].nunique() == 1:
        return finish(layers.properties(data=table(frame[columns])), description, height=height)
    panel = layers.properties(width=300, height=height)
    return finish(in_panels(panel, "domain", frame[columns], None), description, panels=2)


def resampling_measures(
    resampling: pd.DataFrame, mechanisms: pd.DataFrame, domains: tuple[str, ...], ablation: AblationConfig
) -> Any:
    """How far images move from the clean ones when a mechanism is removed, beside its matched controls."""
    frame = whole_mechanisms(resampling, readable_names(mechanisms, domains))
    frame = frame[frame["kind"].isin(MEASURES)]
    if frame.empty:
        return absent(NOTHING)
    frame["panel"] = frame["kind"].map(MEASURES)
    if frame["domain"].nunique() > 1:
        frame["panel"] = frame["domain"] + ": " + frame["panel"]
    beaten = frame["controls_fair"] & (frame["p_control_adjusted"] <= ablation.alpha)
    frame["beaten"] = beaten.map({True: CLAIMS[0], False: NOT_BEATEN})
    shapes = {CLAIMS[0]: "diamond", NOT_BEATEN: "circle"}
    if not frame["controls"].fillna(0).max() > 0:
        del shapes[CLAIMS[0]]
    order = list(frame[frame["kind"] == "ssim"].groupby("name")["effect"].mean().sort_values().index)
    columns = [
        *["panel", "domain", "name", "measure", "effect", "low", "high", "clean", "control_mean", "control_low"],
        *["control_high", "p_control_adjusted", "n", "beaten"],
    ]
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=170))
    x = alt.X("effect:Q", title=None, scale=alt.Scale(zero=False))
    sampled = tuple(dict.fromkeys(frame["domain"]))
    band = control_band(frame, y, None, 0.8)
    intervals = with_intervals(
        x,
        y,
        colour=domain_colour(sampled),
        size=65,
        shape=alt.Shape(
            "beaten:N",
            title=None,
            scale=alt.Scale(domain=list(shapes), range=list(shapes.values())),
            legend=alt.Legend(columns=1),
        ),
        tooltip=[
            alt.Tooltip("name:N", title="removed"),
            alt.Tooltip("panel:N", title="measure"),
            alt.Tooltip("effect:Q", format=".3g"),
            *from_to(),
            alt.Tooltip("clean:Q", title="nothing removed", format=".3g"),
            alt.Tooltip("control_mean:Q", title="matched controls", format=".3g"),
            alt.Tooltip("control_low:Q", title="controls from", format=".3g"),
            alt.Tooltip("control_high:Q", title="controls to", format=".3g"),
            alt.Tooltip("p_control_adjusted:Q", title="p against controls (corrected)", format=".3g"),
            alt.Tooltip("n:Q", title="images"),
        ],
    )
    # Distances have no interval: there it is as short as a point, since a panel without any would have no extent.
    ends = {end: f"isValid(datum.{end}) ? datum.{end} : datum.effect" for end in ("low", "high")}
    intervals[0] = intervals[0].transform_calculate(**ends)
    chart = alt.layer(*band, *intervals).properties(width=300, height=max(70, 22 * len(order)))
    panels = in_panels(chart, "panel", frame[columns], list(dict.fromkeys(frame["panel"])))
    panels = panels.resolve_scale(x="independent")
    alike = frame[frame["kind"] == "ssim"]
    beside = (
        "Beside it the excess Fréchet distance to such images of other seeds."
        if (frame["kind"] == "fd").any()
        else "No distance between sets of images was measured."
    )
    lowest = alike.sort_values("effect").iloc[0]
    return finish(
        panels,
        "Likeness to the image with nothing removed, 1 where nothing changed, for"
        f" {count(alike['name'].nunique(), 'removed mechanism')}: lowest is {lowest['effect']:.3g}"
        f" ({lowest['low']:.3g} to {lowest['high']:.3g}) for {lowest['name']}. {beside}",
        panels=2,
    )
