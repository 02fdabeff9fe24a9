"""Charts of units: how many factors each responds to, how modular layers are, what few units carry."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.config.studies.vae import VaeStudy
from diffmech.report.drawing import absent, finish, from_to, in_panels
from diffmech.report.vae.charts_latents import CELL, heat
from diffmech.report.vae.words import of_first_seed, ordered

UNCHANGED = "No factor of these images can be changed alone."
KINDS = ("monosemantic", "polysemantic")
CARRIED = {"share": "chosen units", "random": "as many at random"}
EFFECTS = {
    "total": "total",
    "direct": "direct",
    "indirect": "indirect, through the units",
    "interaction": "interaction",
    "random": "indirect, random units",
}


def participation(units: pd.DataFrame, vae: VaeStudy) -> Any:
    """Draw how many factors, in effect, each unit responds to, by layer, of the first seed of each family."""
    frame = of_first_seed(units, vae)
    frame = frame[frame["kind"] != "silent"].dropna(subset="participation")
    if frame.empty:
        return absent(UNCHANGED)
    # spread within the row of a layer by the number of the unit, the same on every drawing
    frame = frame.assign(place=(frame["unit"] * 7 % 13) / 13)
    columns = ["family", "layer", "unit", "factor", "share", "participation", "p_untrained", "p_corrected", "kind"]
    x = alt.X(
        "participation:Q", title="factors that a unit responds to, in effect", scale=alt.Scale(zero=False, padding=8)
    )
    y = alt.Y("layer:N", title=None, sort=ordered(frame["layer"]))
    colour = alt.Color("kind:N", title=None, sort=list(KINDS), scale=alt.Scale(domain=list(KINDS)))
    shape = alt.Shape("kind:N", title=None, sort=list(KINDS), scale=alt.Scale(domain=list(KINDS)))
    offset = alt.YOffset("place:Q", scale=alt.Scale(domain=[-0.3, 1.3]))
    tooltip: list[Any] = ["family:N", "layer:N", "unit:N", "factor:N", "kind:N"]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".3g") for name in columns[4:8]]
    mark = alt.Chart().mark_point(filled=True, size=22, opacity=0.7)
    chart = mark.encode(x=x, y=y, yOffset=offset, color=colour, shape=shape, tooltip=tooltip)
    chart = chart.properties(width=240, height=34 * frame["layer"].nunique())
    single = int((frame["kind"] == KINDS[0]).sum())
    return finish(
        in_panels(chart, "family", frame[[*columns, "place"]], ordered(frame["family"])),
        f"Number of factors that each of {len(frame)} units responds to, by layer, seed {vae.seeds[0]} of each family: "
        f"{frame['participation'].min():.3g} to {frame['participation'].max():.3g}; {single} units are monosemantic.",
        panels=2,
    )


def modularity(frame: pd.DataFrame) -> Any:
    """Draw the modularity of each layer of each VAE, beside untrained twins and the ceiling."""
    if frame.dropna(subset="modularity").empty:
        return absent(UNCHANGED)
    names = {"modularity": "trained", "untrained": "untrained twins", "ceiling": "units that change independently"}
    long = frame.melt(["family", "vae_seed", "layer", "units"], list(names), "what", "value").dropna(subset="value")
    long = long.assign(what=long["what"].map(names))
    shown = list(names.values())
    x = alt.X(
        "value:Q", title="1 − mean |correlation| of the changes of two units", scale=alt.Scale(zero=False, padding=8)
    )
    y = alt.Y("layer:N", title=None, sort=ordered(long["layer"]))
    colour = alt.Color("what:N", title=None, sort=shown, scale=alt.Scale(domain=shown))
    shape = alt.Shape("what:N", title=None, sort=shown, scale=alt.Scale(domain=shown))
    tooltip: list[Any] = [
        "family:N",
        "vae_seed:N",
        "layer:N",
        "what:N",
        alt.Tooltip("value:Q", format=".3g"),
        "units:Q",
    ]
    mark = alt.Chart().mark_point(filled=True, size=36, opacity=0.8)
    offset = alt.YOffset("what:N", sort=shown)
    chart = mark.encode(x=x, y=y, yOffset=offset, color=colour, shape=shape, tooltip=tooltip)
    chart = chart.properties(width=240, height=38 * long["layer"].nunique())
    trained = long[long["what"] == shown[0]]["value"]
    return finish(
        in_panels(chart, "family", long, ordered(long["family"])),
        f"Modularity by layer, one point per VAE: {trained.min():.3g} to {trained.max():.3g} where trained.",
        panels=2,
    )


def patching_map(patching: pd.DataFrame, vae: VaeStudy) -> Any:
    """Draw the share of a change that few units carry, chosen and random ones, of the first seed of each family."""
    own = of_first_seed(patching, vae)
    if own.empty:
        return absent(UNCHANGED)
    parts = []
    for column, name in CARRIED.items():
        ends = ("low", "high") if column == "share" else ("random_low", "random_high")
        parts.append(own.assign(what=name, value=own[column], low=own[ends[0]], high=own[ends[1]]))
    frame = pd.concat(parts)
    frame = frame.assign(panel=frame["family"] + ", " + frame["what"])
    columns = ["panel", "layer", "factor", "value", "low", "high", "units", "of", "half"]
    panels = [f"{family}, {name}" for family in ordered(own["family"]) for name in CARRIED.values()]
    x = alt.X("factor:N", title=None, sort=ordered(frame["factor"]), axis=alt.Axis(labelAngle=-30))
    y = alt.Y("layer:N", title=None, sort=ordered(frame["layer"]))
    tooltip = ["layer:N", "factor:N", alt.Tooltip("value:Q", format=".3g"), *from_to(), "units:Q", "of:Q", "half:Q"]
    chart = heat(x, y, "value", "share of the change that they carry", 1.0, tooltip, format_=".2f")
    chart = chart.properties(width=260, height=CELL * frame["layer"].nunique())
    most = own.sort_values("share").iloc[-1]
    return finish(
        in_panels(chart, "panel", frame[columns], panels),
        f"Heat maps of layer by factor, seed {vae.seeds[0]} of each family, chosen units beside random ones. The "
        f"largest share is {most['share']:.3g}, {most['factor']} in {most['layer']} of {most['family']}; random units "
        f"there carry {most['random']:.3g}.",
        panels=2,
    )


def mediation_bars(mediation: pd.DataFrame, vae: VaeStudy) -> Any:
    """Draw total, direct and indirect effects with intervals by factor, of the first seed of each family.

    Of the layers of the encoder the last one is drawn, through which all of an effect has to go.
    """
    own = of_first_seed(mediation, vae)
    if own.empty:
        return absent("No factor can be changed alone, or no VAE has single latents to follow an effect to.")
    own = own[own["layer"] == own["layer"].iloc[-1]]
    parts = []
    for column, name in EFFECTS.items():
        low, high = (own[column], own[column]) if column == "random" else (own[f"{column}_low"], own[f"{column}_high"])
        parts.append(own.assign(what=name, value=own[column], low=low, high=high))
    frame = pd.concat(parts).dropna(subset="value")
    columns = ["family", "layer", "factor", "latent", "what", "value", "low", "high", "units"]
    names = list(EFFECTS.values())
    x = alt.X("value:Q", title="effect on the latent (sd of all images)")
    y = alt.Y("factor:N", title=None, sort=ordered(frame["factor"]), scale=alt.Scale(paddingInner=0.25))
    offset = alt.YOffset("what:N", sort=names)
    colour = alt.Color("what:N", title=None, sort=names, scale=alt.Scale(domain=names), legend=alt.Legend(columns=3))
    tooltip = ["factor:N", "what:N", alt.Tooltip("value:Q", format=".3g"), *from_to(), "latent:N", "units:Q"]
    bars = alt.Chart().mark_bar(opacity=0.85).encode(x=x, y=y, yOffset=offset, color=colour, tooltip=tooltip)
    lines = alt.Chart().mark_rule(style="zero", strokeWidth=1.4)
    ends = lines.encode(x="low:Q", x2="high:Q", y=y, yOffset=offset)
    chart = alt.layer(bars, ends).properties(width=240, height=62 * frame["factor"].nunique())
    return finish(
        in_panels(chart, "family", frame[columns], ordered(frame["family"])),
        f"Effects of each factor on the latent that it moves most, through units of {own['layer'].iloc[0]}, seed "
        f"{vae.seeds[0]} of each family: total {own['total'].min():.3g} to {own['total'].max():.3g} sd, indirect "
        f"{own['indirect'].min():.3g} to {own['indirect'].max():.3g}.",
        panels=2,
    )


def kinds_bars(units: pd.DataFrame) -> Any:
    """Draw how many units of each layer are monosemantic, polysemantic or silent, over all VAEs of each family."""
    if units.empty:
        return absent(UNCHANGED)
    names = [*KINDS, "silent"]
    frame = units.groupby(["family", "layer", "kind"], sort=False).size().rename("units").reset_index()
    frame = frame.assign(share=frame["units"] / frame.groupby(["family", "layer"])["units"].transform("sum"))
    x = alt.X("share:Q", title="share of units, all seeds", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    y = alt.Y("layer:N", title=None, sort=ordered(units["layer"]))
    colour = alt.Color("kind:N", title=None, sort=names, scale=alt.Scale(domain=names))
    order = {name: place for place, name in enumerate(names)}
    frame = frame.assign(place=frame["kind"].map(order))
    tooltip: list[Any] = ["family:N", "layer:N", "kind:N", "units:Q", alt.Tooltip("share:Q", format=".3g")]
    bars = alt.Chart().mark_bar().encode(x=x, y=y, color=colour, order="place:Q", tooltip=tooltip)
    chart = bars.properties(width=240, height=22 * frame["layer"].nunique())
    single = int(frame[frame["kind"] == names[0]]["units"].sum())
    return finish(
        in_panels(chart, "family", frame, ordered(frame["family"])),
        f"Shares of monosemantic, polysemantic and silent units by layer; {single} of {len(units)} are monosemantic.",
        panels=2,
    )
