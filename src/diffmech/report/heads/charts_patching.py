"""Charts of when heads matter and what they carry: head x window maps of ablation and patching, dose-response."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from diffmech.config.analysis import AblationConfig
from diffmech.config.patching import attribute_of
from diffmech.interventions.measures import FULL_DOSE
from diffmech.report.drawing import (
    absent,
    dots,
    finish,
    from_to,
    head_axis,
    in_panels,
    row_height,
    signed_cells,
)
from diffmech.report.heads.artifacts import effect_title, farthest_from_zero, records
from diffmech.report.wording import count, listed

MOST_TIMESTEPS = 6  # that are named one by one
CURVES = 5  # heads whose dose-response is drawn
DIRECTIONS = {"denoising": "brought", "noising": "taken away"}


def windows_map(
    windows: pd.DataFrame, heads: tuple[str, ...], domains: tuple[str, ...], ablation: AblationConfig
) -> Any:
    """Effect of removing each single head in each window of timesteps, one panel per domain."""
    frame = windows[(windows["group"] == "heads") & (windows["method"] == ablation.methods[0])]
    if frame.empty:
        return absent("No effects of single heads per window were computed.")
    frame = frame.rename(columns={"target": "head", "effect_percent": "value"}).assign(
        panel=lambda rows: rows["domain"]
    )
    top = farthest_from_zero(frame, "value")
    return _map(
        frame,
        heads,
        list(domains),
        title=effect_title(windows),
        tooltip=[
            alt.Tooltip("control_percentile:Q", title="larger than so many % of other heads", format=".3g"),
            alt.Tooltip("timesteps:Q", title="ablated timesteps in the window"),
        ],
        description=(
            f"Heat map of the effect of removing each of {frame['head'].nunique()} heads in each of"
            f" {count(frame['window'].nunique(), 'window')} of timesteps, per domain. Farthest from zero is"
            f" {top['value']:.3g} % for {top['head']} in the window {top['window']} on {top['domain']} images;"
            f" {int(frame['significant'].sum())} of {len(frame)} cells differ from zero after correction."
        ),
    )


def patching_sufficient(patching: pd.DataFrame, heads: tuple[str, ...], domains: tuple[str, ...]) -> Any:
    """Share of the difference that each head brings into the first pass."""
    return patching_map(patching, "denoising", heads, domains)


def patching_necessary(patching: pd.DataFrame, heads: tuple[str, ...], domains: tuple[str, ...]) -> Any:
    """Share of the difference that is gone from the second pass without each head."""
    return patching_map(patching, "noising", heads, domains)


def patching_map(patching: pd.DataFrame, direction: str, heads: tuple[str, ...], domains: tuple[str, ...]) -> Any:
    """Share of the difference that each head moves alone in each window, one panel per domain and source."""
    cells = (patching["group"] == "heads") & (patching["direction"] == direction) & (patching["window"] != "all")
    frame = patching[cells & (patching["dose"] == FULL_DOSE) & (patching["n"] > 0)]
    if frame.empty:
        return absent(f"No head was patched in the direction {direction}, or the two passes never differed.")
    frame = frame.rename(columns={"target": "head"}).assign(value=100 * frame["effect"], panel=panels(frame, domains))
    frame["low"], frame["high"] = 100 * frame["low"], 100 * frame["high"]
    top = farthest_from_zero(frame, "value")
    what = DIRECTIONS[direction]
    return _map(
        frame,
        heads,
        list(dict.fromkeys(frame["panel"])),
        title=f"share of the difference {what}, %",
        tooltip=[
            alt.Tooltip("control_percentile:Q", title="larger than so many % of other heads", format=".3g"),
            alt.Tooltip("off:Q", title="moved elsewhere, over the difference", format=".3g"),
        ],
        description=(
            f"Heat map of the share of the difference between two inputs that each of {frame['head'].nunique()} heads"
            f" has {what} when it alone is patched, by window of timesteps. Farthest from zero is"
            f" {top['value']:.3g} % for {top['head']} in the window {top['window']} ({top['panel']});"
            f" {int(frame['significant'].sum())} of {len(frame)} cells differ from zero after correction."
        ),
    )


def patching_doses(patching: pd.DataFrame, domains: tuple[str, ...]) -> Any:
    """Share of the difference moved by part of a head's output, for the heads that move most, beside straight lines."""
    frame = patching[(patching["window"] == "all") & (patching["n"] > 0)]
    curves = frame[frame["dose"] != FULL_DOSE]["target"].unique()
    frame = frame[frame["target"].isin(curves)]
    if frame.empty:
        return absent("No dose but the whole was run, so there is no dose-response.")
    full = frame[frame["dose"] == FULL_DOSE]
    strongest = full.groupby("target")["effect"].apply(lambda values: values.abs().max()).nlargest(CURVES).index
    frame = frame[frame["target"].isin(strongest)]
    # A target may have been among the strongest of one panel only: there its curve would be the whole dose alone.
    keys = ["domain", "source", "direction", "target"]
    frame = frame[frame.groupby(keys)["dose"].transform("nunique") > 1]
    zero = frame.drop_duplicates(keys).assign(dose=0.0, effect=0.0, low=0.0, high=0.0)
    frame = pd.concat([zero, frame[frame["dose"] != 0]])
    frame["panel"] = panels(frame, domains) + ": " + frame["direction"].map(DIRECTIONS)
    for column in ("effect", "low", "high"):
        frame[column] *= 100
    frame["straight"] = frame["dose"].isin([0.0, FULL_DOSE])
    order = [head for head in strongest if head in set(frame["target"])]
    colour = alt.Color("target:N", title="head", scale=alt.Scale(domain=order))
    x = alt.X("dose:Q", title="share of the head's output that is replaced", axis=alt.Axis(format="%", grid=False))
    y = alt.Y("effect:Q", title="share of the difference moved, %")
    lines = alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, color=colour)
    straight = (
        alt.Chart()
        .mark_line(strokeWidth=1, strokeDash=[2, 3])
        .encode(x=x, y=y, color=colour)
        .transform_filter("datum.straight")
    )
    bars = alt.Chart().mark_rule(strokeWidth=1.5).encode(x=x, y="low:Q", y2="high:Q", color=colour)
    points = (
        alt.Chart()
        .mark_point(filled=True, size=45, opacity=1)
        .encode(
            x=x,
            y=y,
            color=colour,
            tooltip=[
                alt.Tooltip("target:N", title="head"),
                alt.Tooltip("panel:N", title="pass"),
                alt.Tooltip("dose:Q", title="dose"),
                alt.Tooltip("effect:Q", title="share moved, %", format=".3g"),
                *from_to(),
            ],
        )
    )
    columns = ["target", "panel", "dose", "effect", "low", "high", "straight"]
    chart = alt.layer(straight, lines, bars, points).properties(width=300, height=220)
    facets = in_panels(chart, "panel", frame[columns], list(dict.fromkeys(frame["panel"])))
    top = farthest_from_zero(frame, "effect")
    return finish(
        facets,
        f"Dose-response curves of {len(order)} heads: the share of the difference that is moved when part of the"
        f" head's output is replaced, farthest from zero {top['effect']:.3g} % for {top['target']}. Dashed: straight"
        " lines.",
        panels=2,
    )


def panels(frame: pd.DataFrame, domains: tuple[str, ...]) -> "pd.Series[str]":
    """Return, for each row, which two passes it lies between, in words."""
    return pd.Series([between(row.domain, row.source, domains) for row in records(frame)], index=frame.index)


def between(domain: str, source: str, domains: tuple[str, ...]) -> str:
    """Return the two passes of one domain and source in words: `photographs, said to be drawings`."""
    if source == "sample":
        return f"{domain}, from another image"
    attribute = attribute_of(source)
    if attribute is not None:
        return f"{domain}, {attribute} flipped"
    return f"{domain}, said to be {next(other for other in domains if other != domain)}"


def _map(
    frame: pd.DataFrame, heads: tuple[str, ...], order: list[str], *, title: str, tooltip: list[Any], description: str
) -> Any:
    """Return the heat map of `value` by head and window, one panel each; dots where `significant`."""
    # A few heads can be far stronger than all others: the scale ends at the 99th percentile and clamps what is beyond.
    bound = max(float(frame["value"].abs().quantile(0.99)), 1e-6)
    spans = frame.drop_duplicates("window").sort_values("window_first")
    labels = [span(row.window_first, row.window_last) for row in records(spans)]
    shown = tuple(head for head in heads if head in set(frame["head"]))
    frame = frame.assign(when=[span(row.window_first, row.window_last) for row in records(frame)])
    x = alt.X(
        "when:N",
        sort=labels,
        title="window of timesteps, first to last (0 = clean image)",
        axis=alt.Axis(labelAngle=0, ticks=False),
    )
    y = head_axis(shown)
    shown_in_tooltip = [
        "head:N",
        alt.Tooltip("panel:N", title="images"),
        alt.Tooltip("when:N", title="window of timesteps"),
        alt.Tooltip("value:Q", title="effect, %", format=".3g"),
        *from_to(),
        alt.Tooltip("p_zero_max:Q", title="p against no effect (corrected)", format=".3g"),
        *tooltip,
        alt.Tooltip("n:Q", title="images"),
    ]
    cells = signed_cells(x, y, "value", title, bound, shown_in_tooltip, clamp=True)
    columns = ["head", "panel", "when", "value", "low", "high", "p_zero_max", "significant", "n"]
    columns += [str(each.shorthand).partition(":")[0] for each in tooltip]
    chart = alt.layer(cells, dots(x, y, "significant"))
    chart = chart.properties(width=300, height=row_height(len(shown)) * len(shown))
    facets = in_panels(chart, "panel", frame[list(dict.fromkeys(columns))], order)
    return finish(facets, description, panels=2)


def timesteps_within(first: float, last: float, ran: Sequence[float]) -> str:
    """Return the timesteps within a window at which something was replaced: `t = 120 and 320`.

    Where it is not known which ones ran, the window itself.
    """
    inside = [f"{timestep:g}" for timestep in ran if first <= timestep <= last]
    if not inside:
        return f"t within {span(first, last)}"
    if len(inside) > MOST_TIMESTEPS:
        return f"t = {', '.join(inside[:2])}, …, {inside[-1]} ({len(inside)} timesteps)"
    return f"t = {listed(inside)}"


def span(first: float, last: float) -> str:
    """Return a window as an axis writes it."""
    return f"{first:g} to {last:g}"
