"""Charts of attention: entropy per head, layer and timestep, and its divergence between the domains (methods: ours)."""

import altair as alt
import pandas as pd

from diffmech.report.drawing import (
    beats_both_nulls,
    domain_colour,
    finish,
    from_to,
    head_axis,
    in_panels,
    row_height,
    table,
    timestep_axis,
)

NULL_PANEL = "untrained copies"
KINDS = {
    "self": "self-attention",
    "cross": "cross-attention",
    "joint": "joint attention",
}
MEASURED, UNTRAINED = "measured, with interval", "largest untrained copy"


def entropy_map(entropy: pd.DataFrame, heads: tuple[str, ...], domains: tuple[str, ...]) -> alt.FacetChart:
    """Normalised entropy of every head at every timestep, one panel per domain and one for the untrained null."""
    frame = entropy.assign(panel=entropy["domain"])
    null = (
        entropy.groupby(["head", "timestep"], sort=False)[["untrained_entropy", "h_max"]].mean().reset_index()
    ).assign(panel=NULL_PANEL)
    null["normalised"] = null["untrained_entropy"] / null["h_max"]
    null["entropy"] = null["untrained_entropy"]
    columns = "panel head timestep normalised entropy low high h_max effective_keys untrained_low untrained_high n"
    frame = pd.concat([frame, null]).reindex(columns=columns.split())
    chart = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X("timestep:O", title="timestep", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False)),
            y=head_axis(heads),
            color=alt.Color(
                "normalised:Q",
                title="entropy / ln(keys); 1 = uniform attention",
                scale=alt.Scale(domain=[_floor(frame["normalised"].min()), 1]),
            ),
            tooltip=[
                alt.Tooltip("panel:N", title="images"),
                "head:N",
                "timestep:Q",
                alt.Tooltip("entropy:Q", title="entropy, nats", format=".4g"),
                *from_to(".4g"),
                alt.Tooltip("h_max:Q", title="most possible, ln(keys)", format=".4g"),
                alt.Tooltip("normalised:Q", title="share of the most possible", format=".3f"),
                alt.Tooltip("effective_keys:Q", title="effective keys", format=".4g"),
                alt.Tooltip("untrained_low:Q", title="untrained copies, from", format=".4g"),
                alt.Tooltip("untrained_high:Q", title="untrained copies, to", format=".4g"),
            ],
        )
        .properties(width=220, height=row_height(len(heads)) * len(heads))
    )
    panels = [*domains, NULL_PANEL]
    facets = in_panels(chart, "panel", frame, panels, columns=3)
    low, high = entropy["normalised"].min(), entropy["normalised"].max()
    return finish(
        facets,
        f"Heat map of attention entropy divided by its maximum for {len(heads)} heads and"
        f" {entropy['timestep'].nunique()} timesteps, in panels {', '.join(panels)}. Values run from {low:.3f} to"
        f" {high:.3f}.",
        panels=3,
    )


def entropy_layers(entropy: pd.DataFrame, sites: tuple[str, ...], domains: tuple[str, ...]) -> alt.FacetChart:
    """Mean normalised entropy of each layer over time, per domain, with the range of its untrained copies."""
    scaled = entropy.assign(
        untrained_low=entropy["untrained_low"] / entropy["h_max"],
        untrained_high=entropy["untrained_high"] / entropy["h_max"],
    )
    measures = ["normalised", "untrained_low", "untrained_high"]
    frame = scaled.groupby(["site", "timestep", "domain"], sort=False)[measures].mean().reset_index()
    # One band per layer: with one per domain, the area would jump between the two at every timestep.
    whole = frame.groupby(["site", "timestep"], sort=False)
    frame["untrained_low"] = whole["untrained_low"].transform("min")
    frame["untrained_high"] = whole["untrained_high"].transform("max")
    y = alt.Y("normalised:Q", title="entropy / ln(keys)", scale=alt.Scale(zero=False))
    band = (
        alt.Chart()
        .mark_area(style="null-band")
        .encode(
            x=timestep_axis("timestep"), y=alt.Y("untrained_low:Q", title="entropy / ln(keys)"), y2="untrained_high:Q"
        )
    )
    lines = (
        alt.Chart()
        .mark_line(point=alt.OverlayMarkDef(size=22))
        .encode(
            x=timestep_axis("timestep"),
            y=y,
            color=domain_colour(domains),
            tooltip=["site:N", "domain:N", "timestep:Q", alt.Tooltip("normalised:Q", format=".3f")],
        )
    )
    chart = alt.layer(band, lines).properties(width=220, height=130)
    facets = in_panels(chart, "site", frame, sites, columns=3)
    return finish(
        facets,
        f"Lines of mean normalised entropy over timesteps for the layers {', '.join(sites)}, one line per domain; "
        "the grey band is the range of the untrained copies.",
        panels=3,
    )


def entropy_divergence(divergence: pd.DataFrame) -> alt.FacetChart:
    """Mean absolute entropy difference between the domains per timestep, against both nulls."""
    frame = divergence.assign(zero=0.0, panel=divergence["kind"].map(KINDS))
    kinds = [name for kind, name in KINDS.items() if kind in set(frame["kind"])]
    y_title = "mean |difference of entropy|, nats"
    x = timestep_axis("timestep")
    band = alt.Chart().mark_area(style="null-band").encode(x=x, y=alt.Y("zero:Q", title=y_title), y2="floor_high:Q")
    floor = alt.Chart().mark_line(style="null-line").encode(x=x, y="floor:Q")
    untrained = (
        alt.Chart()
        .mark_line(strokeDash=[6, 3], strokeWidth=1.5)
        .encode(x=x, y="untrained_divergence_max:Q", color=alt.ColorDatum(UNTRAINED, title=None))
    )
    line = alt.Chart().mark_line().encode(x=x, y="divergence:Q", color=alt.ColorDatum(MEASURED, title=None))
    bars = alt.Chart().mark_rule().encode(x=x, y="low:Q", y2="high:Q", color=alt.ColorDatum(MEASURED, title=None))
    points = (
        alt.Chart()
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=x,
            y=alt.Y("divergence:Q", title=y_title),
            color=alt.ColorDatum(MEASURED, title=None),
            shape=beats_both_nulls(),
            tooltip=[
                alt.Tooltip("kind:N", title="attention"),
                "timestep:Q",
                alt.Tooltip("divergence:Q", format=".4g"),
                *from_to(".4g"),
                alt.Tooltip("floor:Q", title="mean of shuffled labels", format=".4g"),
                alt.Tooltip("floor_high:Q", title="95 % of shuffled labels", format=".4g"),
                alt.Tooltip("p_holm:Q", title="p (Holm)", format=".3g"),
                alt.Tooltip("untrained_divergence_max:Q", title=UNTRAINED, format=".4g"),
                alt.Tooltip("p_untrained:Q", title="p against untrained copies", format=".3g"),
            ],
        )
    )
    chart = alt.layer(band, floor, line, bars, untrained, points).properties(width=220, height=220)
    facets = in_panels(chart, "panel", frame, kinds, columns=3)
    told = [
        f"For {kind} it runs from {part['divergence'].min():.3g} to {part['divergence'].max():.3g} nats;"
        f" {int(part['significant'].sum())} of {len(part)} timesteps beat both nulls."
        for kind, part in frame.groupby("panel", sort=False)
    ]
    return finish(
        facets,
        f"Entropy divergence between the domains per timestep, in panels {', '.join(kinds)}. {' '.join(told)}",
        panels=3,
    )


def jensen_shannon(divergence: pd.DataFrame) -> alt.LayerChart:
    """Jensen-Shannon divergence of the per-image entropies of the domains, per timestep."""
    frame = divergence[["timestep", "kind", "jensen_shannon"]].assign(kind=divergence["kind"].map(KINDS))
    kinds = [name for name in KINDS.values() if name in set(frame["kind"])]
    line = (
        alt.Chart(table(frame))
        .mark_line(point=alt.OverlayMarkDef(size=40))
        .encode(
            x=timestep_axis(),
            y=alt.Y("jensen_shannon:Q", title="Jensen-Shannon divergence, nats"),
            color=alt.Color("kind:N", title=None, sort=kinds, scale=alt.Scale(domain=kinds)),
            strokeDash=alt.StrokeDash("kind:N", sort=kinds, legend=None),
            tooltip=["kind:N", "timestep:Q", alt.Tooltip("jensen_shannon:Q", format=".4g")],
        )
    )
    low, high = frame["jensen_shannon"].min(), frame["jensen_shannon"].max()
    text = (
        f"Jensen-Shannon divergence of the entropy distributions of the two domains per timestep, {low:.3g} to"
        f" {high:.3g}."
    )
    return finish(line, text, height=200)


def _floor(value: float) -> float:
    """Return the start of the colour scale, one decimal below the smallest value."""
    return max(0.0, float(int(value * 10)) / 10)
