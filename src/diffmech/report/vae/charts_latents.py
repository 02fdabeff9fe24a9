"""Charts of single latents: how strong they are, how specific, and which factor moves which."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.config.studies.vae import VaeStudy
from diffmech.report.drawing import absent, finish, from_to, in_panels, table, with_intervals
from diffmech.report.vae.words import of_first_seed, ordered

INTERVENTIONS = {
    "per_pixel": "shifted by one (raw)",
    "calibrated": "shifted by one sd (calibrated)",
    "clamped": "set to its mean",
    "swapped": "taken from another image",
}
ROW = 30  # pixels of a latent with its interventions
CELL = 26  # pixels of a row of a heat map
NO_LATENTS = "No VAE of this data set has single latents."


def strengths(latents: pd.DataFrame, vae: VaeStudy) -> Any:
    """Draw what each intervention on each latent does to the image, of the first seed of each family."""
    own = of_first_seed(latents, vae)
    own = own[own["active"].astype(bool)]
    if own.empty:
        return absent("No latent is active, or no VAE of this data set has single latents.")
    scale = own["per_pixel"] / own["raw"]  # of raw effects, which have the interval
    parts = []
    for column, name in INTERVENTIONS.items():
        low, high = own[column], own[column]
        if column == "per_pixel":
            low, high = own["raw_low"] * scale, own["raw_high"] * scale
        elif column == "calibrated":
            low, high = own["calibrated_low"], own["calibrated_high"]
        parts.append(own.assign(intervention=name, value=own[column], low=low, high=high))
    frame = pd.concat(parts).dropna(subset="value")
    frame = frame.assign(name="latent " + frame["latent"].astype(str))
    names = list(INTERVENTIONS.values())
    frame = frame[["family", "name", "latent", "intervention", "value", "low", "high"]]
    x = alt.X("value:Q", title="root mean squared change of a pixel", scale=alt.Scale(zero=True))
    y = alt.Y("name:N", title=None, sort=alt.EncodingSortField("latent", order="ascending"))
    colour = alt.Color("intervention:N", title=None, sort=names, scale=alt.Scale(domain=names))
    tooltip: list[Any] = ["family:N", "name:N", "intervention:N", alt.Tooltip("value:Q", format=".3g"), *from_to()]
    offset = alt.YOffset("intervention:N", sort=names)
    layers = with_intervals(x, y, colour=colour, tooltip=tooltip, size=30, offset=offset)
    chart = alt.layer(*layers).properties(width=240, height=ROW * frame["name"].nunique())
    strongest = frame.sort_values("value").iloc[-1]
    return finish(
        in_panels(chart, "family", frame, ordered(frame["family"])),
        f"Change of the image when each active latent is intervened on, seed {vae.seeds[0]} of each family. The "
        f"largest is {strongest['value']:.3g} per pixel, {strongest['name']} of {strongest['family']} "
        f"{strongest['intervention']}.",
        panels=2,
    )


def specificity(latents: pd.DataFrame) -> Any:
    """Draw how specific each active latent is, over pixels and over factors."""
    frame = latents[latents["active"].astype(bool)].dropna(subset=["bounded"])
    if frame.empty:
        return absent(NO_LATENTS)
    frame = frame[["family", "vae_seed", "latent", "factor", "bounded", "over_factors", "specificity", "calibrated"]]
    both = frame["over_factors"].notna().any()
    x = alt.X("bounded:Q", title="specificity over pixels, 1 − H / ln n", scale=alt.Scale(zero=False, padding=12))
    y = (
        alt.Y("over_factors:Q", title="specificity over factors", scale=alt.Scale(domain=[0, 1]))
        if both
        else alt.Y("calibrated:Q", title="calibrated strength")
    )
    tooltip: list[Any] = ["family:N", "vae_seed:N", "latent:N", "factor:N"]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".3g") for name in frame.columns[4:]]
    families = ordered(frame["family"])
    colour = alt.Color("family:N", title=None, scale=alt.Scale(domain=families))
    shape = alt.Shape("family:N", title=None, scale=alt.Scale(domain=families))
    mark = alt.Chart(table(frame)).mark_point(filled=True, size=70, opacity=0.8)
    return finish(
        mark.encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip),
        f"Specificity of {len(frame)} active latents over pixels ({frame['bounded'].min():.3g} to "
        f"{frame['bounded'].max():.3g}) and over factors.",
        height=300,
    )


def effects_map(effects: pd.DataFrame, vae: VaeStudy) -> Any:
    """Draw the effect of each factor on each latent, of the first seed of each family."""
    frame = of_first_seed(effects, vae)
    if frame.empty:
        return absent("No factor of these images can be changed alone.")
    frame = frame.assign(beyond=frame["low"] > frame["untrained"], latent=frame["latent"].astype(str))
    columns = ["family", "factor", "latent", "change", "low", "high", "untrained", "pairs", "beyond"]
    x = alt.X("latent:N", title="latent", sort=ordered(frame["latent"]), axis=alt.Axis(labelAngle=0))
    y = alt.Y("factor:N", title=None, sort=ordered(frame["factor"]))
    tooltip: list[Any] = ["family:N", "factor:N", "latent:N", alt.Tooltip("change:Q", format=".3g"), *from_to()]
    tooltip += [alt.Tooltip("untrained:Q", format=".3g", title="untrained twins"), "pairs:Q"]
    title = "mean change of the latent (sd of all images)"
    chart = heat(x, y, "change", title, float(frame["change"].max()), tooltip, words="beyond").properties(
        width=260, height=CELL * frame["factor"].nunique()
    )
    most = frame.sort_values("change").iloc[-1]
    return finish(
        in_panels(chart, "family", frame[columns], ordered(frame["family"])),
        f"Heat maps of factor by latent, seed {vae.seeds[0]} of each family. The largest effect is "
        f"{most['change']:.3g} sd, of {most['factor']} on latent {most['latent']} of {most['family']}; "
        f"{int(frame['beyond'].sum())} of {len(frame)} cells lie above untrained twins.",
        panels=2,
    )


def heat(
    x: alt.X, y: alt.Y, value: str, title: str, top: float, tooltip: list[Any], *, words: str = "", format_: str = ".1f"
) -> Any:
    """Return cells from 0 to `top` with their numbers: of all, or bold of those alone in which `words` is true."""
    # the scale of colours is the same on a light and on a dark page, and so are the words on it
    scale = alt.Scale(scheme="viridis", domain=[0, top or 1], clamp=True)
    cells = alt.Chart().mark_rect().encode(x=x, y=y, color=alt.Color(f"{value}:Q", title=title, scale=scale))
    colour = alt.condition(f"datum.{value} > {0.55 * (top or 1)}", alt.value("#10151a"), alt.value("#ffffff"))
    text = (
        alt.Chart()
        .mark_text(fontSize=10)
        .encode(x=x, y=y, text=alt.Text(f"{value}:Q", format=format_), color=colour, tooltip=tooltip)
    )
    if not words:
        return alt.layer(cells.encode(tooltip=tooltip), text)
    return alt.layer(cells.encode(tooltip=tooltip), text.transform_filter(f"datum.{words}"))
