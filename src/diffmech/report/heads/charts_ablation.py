"""Charts of ablation effects and circuit complexity, each beside its matched controls or its published counterpart."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.config.analysis import AblationConfig
from diffmech.report.drawing import (
    absent,
    control_band,
    domain_colour,
    dots,
    finish,
    from_to,
    head_axis,
    in_panels,
    row_height,
    signed_cells,
    table,
    with_intervals,
)
from diffmech.report.heads.artifacts import effect_title, largest, records
from diffmech.report.heads.controls import MARKS
from diffmech.report.heads.naming import readable_names
from diffmech.report.heads.published import published
from diffmech.report.heads.terms import VARIANTS

TOP_HEADS = 12


def ablation_mechanisms(
    effects: pd.DataFrame, mechanisms: pd.DataFrame, domains: tuple[str, ...], ablation: AblationConfig
) -> Any:
    """Effect of removing each mechanism, beside its matched controls."""
    return ablation_forest(effects, "mechanisms", ablation.methods[0], domains, readable_names(mechanisms, domains))


def ablation_layers(effects: pd.DataFrame, domains: tuple[str, ...], ablation: AblationConfig) -> Any:
    """Effect of removing all heads of each layer, beside the other layers of its kind."""
    return ablation_forest(effects, "layers", ablation.methods[0], domains, {})


def ablation_heads(effects: pd.DataFrame, domains: tuple[str, ...], ablation: AblationConfig) -> Any:
    """Effect of removing each of the heads that matter most, beside all others of their kind."""
    return ablation_forest(effects, "heads", ablation.methods[0], domains, {})


def ablation_forest(
    effects: pd.DataFrame, group: str, method: str, domains: tuple[str, ...], names: dict[str, str]
) -> Any:
    """Effect of removing each target of `group`, over all timesteps, with the range of its controls or of its like."""
    frame = effects[(effects["group"] == group) & (effects["method"] == method) & (effects["timestep"] == "all")].copy()
    if frame.empty:
        return absent(f"No ablation of {group} was run.")
    if group == "heads":
        strongest = frame.groupby("target")["effect_percent"].apply(lambda values: values.abs().max())
        frame = frame[frame["target"].isin(strongest.nlargest(TOP_HEADS).index)]
    order = list(frame.groupby("target")["effect_percent"].mean().sort_values(ascending=False).index)
    frame["name"] = frame["target"].map(lambda target: names.get(target, target))
    rows = [names.get(target, target) for target in order]
    frame["verdict"] = [MARKS[verdict][0] for verdict in frame["verdict"]]
    marks = [mark for mark in MARKS.values() if mark[0] in set(frame["verdict"])]
    beside = "matched controls" if group == "mechanisms" else "others of its kind"
    p_control = alt.Tooltip("p_control_adjusted:Q", title="p against controls (corrected)", format=".3g")
    columns = [
        *["name", "target", "domain", "effect_percent", "low", "high", "p_zero_max", "control_mean", "control_low"],
        *["control_high", "p_control_adjusted", "off_distribution", "heads", "n", "verdict"],
        *["effect_mean", "effect_mean_low", "effect_mean_high"],
    ]
    y = alt.Y("name:N", sort=rows, title=None, axis=alt.Axis(labelLimit=190))
    offset = alt.YOffset("domain:N", sort=list(domains))
    band = control_band(frame, y, effect_title(effects), 0.9, offset)
    zero = alt.Chart().mark_rule(style="zero").encode(x=alt.XDatum(0))
    intervals = with_intervals(
        alt.X("effect_percent:Q", title=effect_title(effects)),
        y,
        offset=offset,
        colour=domain_colour(domains),
        size=75,
        shape=alt.Shape(
            "verdict:N",
            title=None,
            scale=alt.Scale(domain=[words for words, _ in marks], range=[shape for _, shape in marks]),
            legend=alt.Legend(columns=1),
        ),
        tooltip=[
            alt.Tooltip("name:N", title="removed"),
            "domain:N",
            alt.Tooltip("effect_percent:Q", title="effect, %", format=".3g"),
            *from_to(),
            alt.Tooltip("effect_mean:Q", title="mean of the timesteps' effects, %", format=".3g"),
            alt.Tooltip("effect_mean_low:Q", title="mean from", format=".3g"),
            alt.Tooltip("effect_mean_high:Q", title="mean to", format=".3g"),
            alt.Tooltip("p_zero_max:Q", title="p against no effect (corrected)", format=".3g"),
            alt.Tooltip("control_mean:Q", title=f"{beside}, %", format=".3g"),
            alt.Tooltip("control_low:Q", title=f"{beside} from", format=".3g"),
            alt.Tooltip("control_high:Q", title=f"{beside} to", format=".3g"),
            *([p_control] if group == "mechanisms" else []),
            alt.Tooltip("off_distribution:Q", title="off-distribution distance", format=".3g"),
            alt.Tooltip("heads:Q", title="heads removed"),
            alt.Tooltip("n:Q", title="images"),
        ],
    )
    chart = alt.layer(*band, zero, *intervals, data=table(frame[columns]))
    top = largest(frame, "effect_percent")
    return finish(
        chart,
        f"Forest plot of the effect of removing {len(rows)} {group} by {method} ablation. The largest is"
        f" {top['effect_percent']:.3g} % ({top['low']:.3g} to {top['high']:.3g}) for {top['name']} on {top['domain']}"
        " images.",
        height=max(70, 34 * len(rows)),
    )


def ablation_map(
    effects: pd.DataFrame, heads: tuple[str, ...], domains: tuple[str, ...], ablation: AblationConfig
) -> Any:
    """Effect of removing each single head at each timestep, one panel per domain."""
    own = effects["method"] == ablation.methods[0]
    chosen = (effects["group"] == "heads") & own & (effects["timestep"] != "all")
    frame = effects.loc[chosen, ["domain", "target", "timestep", "effect_percent", "low", "high", "p_zero_max"]]
    frame = frame.rename(columns={"target": "head"})
    if frame.empty:
        return absent("No effects of single heads per timestep were computed.")
    frame = frame.assign(timestep=frame["timestep"].astype(float), significant=frame["p_zero_max"] <= ablation.alpha)
    # A few heads can be far stronger than all others: the scale ends at the 99th percentile and clamps what is beyond.
    bound = max(float(frame["effect_percent"].abs().quantile(0.99)), 1e-6)
    x = alt.X("timestep:O", title="timestep", axis=alt.Axis(labelAngle=0, labelOverlap=True, ticks=False))
    y = head_axis(heads)
    tooltip = [
        "head:N",
        "domain:N",
        "timestep:Q",
        alt.Tooltip("effect_percent:Q", title="effect, %", format=".3g"),
        *from_to(),
        alt.Tooltip("p_zero_max:Q", title="p (corrected)", format=".3g"),
    ]
    cells = signed_cells(x, y, "effect_percent", effect_title(effects), bound, tooltip, clamp=True)
    chart = alt.layer(cells, dots(x, y, "significant"))
    chart = chart.properties(width=300, height=row_height(len(heads)) * len(heads))
    facets = in_panels(chart, "domain", frame, domains)
    return finish(
        facets,
        f"Heat map of the effect of removing each of {len(heads)} heads at each timestep, per domain, from "
        f"{frame['effect_percent'].min():.3g} to {frame['effect_percent'].max():.3g} %; "
        f"{int(frame['significant'].sum())} of {len(frame)} cells differ from zero after correction.",
        panels=2,
    )


def ablation_methods(effects: pd.DataFrame, mechanisms: pd.DataFrame, domains: tuple[str, ...]) -> Any:
    """The same removal by each method: where methods disagree, the effect is partly the method's own."""
    names = readable_names(mechanisms, domains)
    groups = [group for group in ("mechanisms", "layers", "heads") if group in set(effects["group"])]
    frame = effects[(effects["timestep"] == "all") & (effects["group"].isin(groups[:1]))].copy()
    if frame.empty:
        return absent("No ablation was run.")
    frame["name"] = frame["target"].map(lambda target: names.get(target, target))
    methods = list(dict.fromkeys(frame["method"]))
    order = list(frame.groupby("name")["effect_percent"].mean().sort_values(ascending=False).index)
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelLimit=170))
    colour = alt.Color("method:N", title="replaced by", scale=alt.Scale(domain=methods))
    offset = alt.YOffset("method:N", sort=methods)
    intervals = with_intervals(
        alt.X("effect_percent:Q", title=effect_title(effects)),
        y,
        offset=offset,
        colour=colour,
        size=45,
        width=1.5,
        shape=alt.Shape("method:N", title="replaced by", scale=alt.Scale(domain=methods)),
        tooltip=[
            alt.Tooltip("name:N", title="removed"),
            "domain:N",
            "method:N",
            alt.Tooltip("effect_percent:Q", title="effect, %", format=".3g"),
            *from_to(),
            alt.Tooltip("off_distribution:Q", title="off-distribution distance", format=".3g"),
            alt.Tooltip("n:Q", title="images"),
        ],
    )
    columns = ["name", "domain", "method", "effect_percent", "low", "high", "off_distribution", "n"]
    chart = alt.layer(*intervals).properties(width=300, height=max(60, 40 * len(order)))
    facets = in_panels(chart, "domain", frame[columns], domains)
    return finish(facets, f"Effects of removing {groups[0]} by {', '.join(methods)}, per domain.", panels=2)


def complexity_ratio(complexity: pd.DataFrame, references: dict[str, Any], domains: tuple[str, ...]) -> alt.LayerChart:
    """Complexity of the first domain relative to the second, in several variants, beside the published ratio.

    The band is the range of the untrained copies, for the measures that they have.
    """
    untrained = {"untrained_low": "control_low", "untrained_high": "control_high"}
    chosen = ["variant", "ratio", "low", "high", "p_holm", "p_untrained_max", *untrained]
    frame = complexity[chosen].rename(columns=untrained)
    frame["name"] = frame["variant"].map(lambda variant: VARIANTS.get(variant, variant))
    frame["origin"] = "measured here"
    figure = published(references, "complexity_ratio")
    low, high = figure["interval"]
    quoted = {"name": "published (other definition)", "ratio": figure["value"], "low": low, "high": high}
    frame = pd.concat([frame, pd.DataFrame([{**quoted, "origin": "published"}])])
    y = alt.Y("name:N", sort=list(frame["name"]), title=None, axis=alt.Axis(labelLimit=240))
    colour = alt.Color("origin:N", title=None, scale=alt.Scale(domain=["measured here", "published"]))
    title = f"ratio {domains[0]} / {domains[1]}"
    x = alt.X("ratio:Q", title=title, scale=alt.Scale(zero=False, padding=20), axis=alt.Axis(tickCount=8))
    one = alt.Chart().mark_rule(style="reference").encode(x=alt.XDatum(1))
    intervals = with_intervals(
        x,
        y,
        colour=colour,
        size=80,
        shape=alt.Shape("origin:N", title=None, scale=alt.Scale(domain=["measured here", "published"])),
        tooltip=[
            alt.Tooltip("name:N", title="variant"),
            alt.Tooltip("ratio:Q", format=".4g"),
            *from_to(".4g"),
            alt.Tooltip("p_holm:Q", title="p (Holm)", format=".3g"),
            alt.Tooltip("p_untrained_max:Q", title="p against untrained copies (corrected)", format=".3g"),
        ],
    )
    listed = "; ".join(f"{row.name} {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})" for row in records(frame))
    return finish(
        alt.layer(*control_band(frame, y, title, 0.9), one, *intervals, data=table(frame)),
        f"Complexity ratios: {listed}.",
        height=36 * len(frame),
    )
