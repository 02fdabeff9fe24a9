"""How the charts are put together: data as compact text, alternative text, and what makes them fit any width.

A chart carries its table as inlined CSV (four to eight times smaller than JSON records), names styles instead of
colours, and says in `usermeta` how many columns its panels may take, which the page follows on narrow screens.
"""

import json
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from diffmech.report.theme import LIGHT

DIGITS = "%.5g"


def table(frame: pd.DataFrame) -> alt.InlineData:
    """Return `frame` as inlined CSV with the types of its columns."""
    kinds: dict[str, Any] = {}
    for column in frame.columns:
        if pd.api.types.is_bool_dtype(frame[column]):
            kinds[str(column)] = "boolean"
        elif pd.api.types.is_numeric_dtype(frame[column]):
            kinds[str(column)] = "number"
        else:
            kinds[str(column)] = "string"
    # Vega reads "False" as true: only its own spelling will do.
    spelled = frame.copy()
    for column, kind in kinds.items():
        if kind == "boolean":
            spelled[column] = spelled[column].map({True: "true", False: "false"})
    text = spelled.to_csv(index=False, float_format=DIGITS, lineterminator="\n")
    return alt.InlineData(values=text, format=alt.CsvDataFormat(type="csv", parse=kinds))


def finish(chart: Any, description: str, *, height: float | None = None, panels: int | None = None) -> Any:
    """Give a chart its alternative text, its height and the number of panel columns it takes where there is room."""
    meta: dict[str, Any] = {"panels": panels or 1}
    if panels is None:
        chart = chart.properties(width=640, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        if height is not None:
            chart = chart.properties(height=height)
    return chart.properties(description=" ".join(description.split()), usermeta=meta)


def value_scale(values: "pd.Series[float]") -> alt.Scale:
    """Return a logarithmic scale for values that span more than a factor of five, a linear one otherwise."""
    if values.min() > 0 and values.max() / values.min() > 5:
        return alt.Scale(type="log", nice=False, padding=6)
    return alt.Scale(zero=False)


def absent(reason: str) -> Any:
    """Return a chart that says why there is nothing to draw."""
    frame = pd.DataFrame({"message": [reason]})
    chart = alt.Chart(table(frame)).mark_text(style="note", align="center").encode(text="message:N")
    return finish(chart, reason, height=60)


def specification(chart: Any) -> dict[str, Any]:
    """Return the Vega-Lite specification of `chart`, with the light theme, so that it stands alone."""
    spec: dict[str, Any] = chart.to_dict()
    spec["config"] = LIGHT
    return spec


def write_text(spec: dict[str, Any]) -> str:
    """Return a specification as text, byte-stable for equal charts."""
    return json.dumps(spec, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"


def domain_colour(domains: tuple[str, ...], title: str | None = None) -> alt.Color:
    """Colour by domain, the same colours in every chart."""
    return alt.Color("domain:N", title=title, sort=list(domains), scale=alt.Scale(domain=list(domains)))


def beats_both_nulls() -> alt.Shape:
    """Mark by a diamond what is significant: beyond chance and beyond the untrained copies, after correction."""
    return alt.Shape(
        "significant:N",
        title="beats both nulls after correction",
        scale=alt.Scale(domain=[True, False], range=["diamond", "circle"]),
        legend=alt.Legend(labelExpr="datum.value ? 'yes' : 'no'"),
    )


def from_to(format_: str = ".3g") -> list[alt.Tooltip]:
    """Return the lines of a tooltip that give the interval of a value, columns `low` and `high`."""
    return [alt.Tooltip("low:Q", title="from", format=format_), alt.Tooltip("high:Q", title="to", format=format_)]


def with_intervals(
    x: alt.X,
    y: alt.Y,
    *,
    colour: Any,
    tooltip: list[Any],
    size: float,
    width: float = 2,
    offset: Any = alt.Undefined,
    shape: Any = alt.Undefined,
) -> list[alt.Chart]:
    """Return two layers, a rule from `low` to `high` and a point at `x`; `offset` sets those of one row apart."""
    bars = alt.Chart().mark_rule(strokeWidth=width)
    points = alt.Chart().mark_point(filled=True, size=size, opacity=1)
    return [
        bars.encode(y=y, yOffset=offset, x="low:Q", x2="high:Q", color=colour),
        points.encode(x=x, y=y, yOffset=offset, color=colour, shape=shape, tooltip=tooltip),
    ]


def control_band(
    frame: pd.DataFrame, y: alt.Y, title: str | None, height: float, offset: Any = alt.Undefined
) -> list[alt.Chart]:
    """Return the layer of grey bars from `control_low` to `control_high`, none where `frame` has no controls."""
    if not frame["control_low"].notna().any():
        return []
    bars = alt.Chart().mark_bar(style="null-band", height={"band": height})
    x = alt.X("control_low:Q", title=title)
    return [bars.encode(y=y, yOffset=offset, x=x, x2="control_high:Q").transform_filter("isValid(datum.control_low)")]


def signed_cells(
    x: alt.X,
    y: alt.Y,
    value: str,
    title: str,
    bound: float,
    tooltip: list[Any],
    clamp: Any = alt.Undefined,
    legend: Any = alt.Undefined,
) -> alt.Chart:
    """Return the cells of a heat map of signed values, whose colours end at `bound` either side of zero."""
    scale = alt.Scale(domain=[-bound, bound], domainMid=0, clamp=clamp, interpolate="rgb")
    colour = alt.Color(f"{value}:Q", title=title, scale=scale, legend=legend)
    return alt.Chart().mark_rect().encode(x=x, y=y, color=colour, tooltip=tooltip)


def dots(x: alt.X, y: alt.Y, column: str) -> alt.Chart:
    """Return the dots that mark the cells of a heat map in which `column` is true."""
    return (
        alt.Chart()
        .mark_point(style="mark-on-heat", filled=True, size=14, opacity=1, strokeWidth=0.5)
        .encode(x=x, y=y)
        .transform_filter(f"datum.{column}")
    )


def in_panels(chart: Any, column: str, frame: pd.DataFrame, order: Sequence[str] | None, columns: int = 2) -> Any:
    """Return one panel of `chart` for each value of `column`, in `order`."""
    facet = alt.Facet(f"{column}:N", title=None, sort=alt.Undefined if order is None else list(order))
    return chart.facet(facet=facet, columns=columns, data=table(frame))


def timestep_axis(title: str = "timestep (0 = clean image, noise grows to the right)") -> alt.X:
    """The timestep as a continuous axis."""
    return alt.X("timestep:Q", title=title, axis=alt.Axis(grid=False), scale=alt.Scale(nice=False, padding=8))


def timestep_lines(frame: pd.DataFrame, value: str, domains: tuple[str, ...]) -> alt.Chart:
    """Return one line per domain over timesteps: the mean of `value` over the rows of each timestep."""
    means = frame.groupby(["domain", "timestep"])[[value]].mean().reset_index()
    y = alt.Y(f"{value}:Q", scale=value_scale(means[value]))
    return alt.Chart(table(means)).mark_line(point=True).encode(timestep_axis(), y, domain_colour(domains))


def head_axis(heads: tuple[str, ...]) -> alt.Y:
    """One row per head; the site is written at its first head only."""
    label = "split(datum.label, '.h')[1] === '00' ? datum.label : 'h' + split(datum.label, '.h')[1]"
    return alt.Y(
        "head:N",
        sort=list(heads),
        title=None,
        scale=alt.Scale(domain=list(heads), paddingInner=0.06, paddingOuter=0),
        axis=alt.Axis(labelExpr=label, ticks=False, domain=False, labelFontSize=9.5, labelLimit=180),
    )


def row_height(rows: int) -> float:
    """Return pixels per row so that any number of heads stays on a few screens."""
    return 14.0 if rows <= 64 else max(4.0, 900.0 / rows)
