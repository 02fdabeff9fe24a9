"""How the charts are put together: data as compact text, alternative text, and what makes them fit any width.

A chart carries its table as inlined CSV (four to eight times smaller than JSON records), names styles instead of
colours, and says in `usermeta` how many columns its panels may take, which the page follows on narrow screens.
"""

import json
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


def timestep_axis(title: str = "timestep (0 = clean image, noise grows to the right)") -> alt.X:
    """The timestep as a continuous axis."""
    return alt.X("timestep:Q", title=title, axis=alt.Axis(grid=False), scale=alt.Scale(nice=False, padding=8))


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
