"""Charts of scores: how well factors are told apart, families beside each other, and effect strength beside scores."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.report.drawing import absent, finish, from_to, in_panels, table, with_intervals
from diffmech.report.vae.words import DCI, having, measure_words, ordered
from diffmech.vae.strengths import STRENGTHS, mean_strengths

FLOOR = "largest of codes that know nothing"


def scores_dots(scores: pd.DataFrame) -> Any:
    """Draw each score of each VAE, beside its floor."""
    frame = scores.dropna(subset="score")
    if frame.empty:
        return absent("No score of disentanglement was computed.")
    frame = frame.assign(name=frame["measure"].map(measure_words), what=FLOOR)
    families = ordered(frame["family"])
    x = alt.X("score:Q", title="score", scale=alt.Scale(zero=True))
    y = alt.Y("name:N", title=None, sort=ordered(frame["name"]), axis=alt.Axis(labelLimit=220))
    colour = alt.Color("family:N", title=None, sort=families, scale=alt.Scale(domain=families))
    shape = alt.Shape("family:N", title=None, sort=families, scale=alt.Scale(domain=families))
    offset = alt.YOffset("family:N", sort=families)
    tooltip: list[Any] = ["family:N", "vae_seed:N", "name:N"]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".3g") for name in ("score", "floor", "floor_high", "fit")]
    columns = ["family", "vae_seed", "name", "score", "floor", "floor_high", "fit", "inputs"]
    ticks = alt.Chart().mark_tick(style="null-line", strokeDash=[1, 0], thickness=2, size=9)
    floor = ticks.encode(x=alt.X("floor_high:Q", title="score"), y=y, yOffset=offset, tooltip=tooltip)
    points = alt.Chart().mark_point(filled=True, size=46, opacity=0.85)
    drawn = alt.layer(
        floor,
        points.encode(x=x, y=y, yOffset=offset, color=colour, shape=shape, tooltip=tooltip),
        data=table(frame[columns]),
    )
    beyond = int((frame["score"] > frame["floor_high"]).sum())
    height = frame["name"].nunique() * max(26, 13 * len(families) + 6)
    return finish(
        drawn,
        f"{frame['name'].nunique()} scores of each VAE; {beyond} of {len(frame)} lie above their floor.",
        height=height,
    )


def families_intervals(families: pd.DataFrame) -> Any:
    """Draw the mean of each measure with its interval over seeds, by family."""
    frame = families.dropna(subset="mean")
    if frame.empty:
        return absent("There is nothing to average over seeds.")
    frame = frame.assign(
        name=frame["measure"].map(measure_words),
        low=frame["low"].fillna(frame["mean"]),
        high=frame["high"].fillna(frame["mean"]),
    )
    order = ordered(frame["family"])
    x = alt.X("mean:Q", title=None, scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=4))
    y = alt.Y("family:N", title=None, sort=order)
    colour = alt.Color("family:N", sort=order, scale=alt.Scale(domain=order), legend=None)
    tooltip = ["name:N", "family:N", alt.Tooltip("mean:Q", format=".3g"), *from_to(), "n:Q"]
    tooltip += [alt.Tooltip(f"{name}:Q", format=".3g") for name in ("difference", "p_corrected")]
    layers = with_intervals(x, y, colour=colour, tooltip=tooltip, size=45)
    columns = ["name", "family", "mean", "low", "high", "difference", "p_corrected", "n"]
    chart = alt.layer(*layers).properties(width=140, height=20 * frame["family"].nunique() + 6)
    drawn = in_panels(chart, "name", frame[columns], ordered(frame["name"]), 3).resolve_scale(x="independent")
    return finish(
        drawn,
        f"Means over seeds with intervals of {frame['name'].nunique()} measures for {listed_families(order)}.",
        panels=3,
    )


def listed_families(names: list[str]) -> str:
    """Return how many families there are, with their names."""
    return f"{len(names)} families ({', '.join(names)})" if len(names) > 1 else f"the family {names[0]}"


def strength_of_vaes(latents: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return, for each VAE and kind of strength, its mean over active latents beside DCI disentanglement."""
    keys = ["family", "vae_seed"]
    means = mean_strengths(latents)
    dci = having(scores, DCI)[[*keys, "score"]]
    both = means.merge(dci, on=keys) if len(means) and len(dci) else pd.DataFrame(columns=[*keys, *STRENGTHS, "score"])
    return both.melt([*keys, "score"], list(STRENGTHS), "strength", "value").dropna()


def relation_scatter(latents: pd.DataFrame, scores: pd.DataFrame) -> Any:
    """Draw the mean effect strength of each VAE over its DCI disentanglement."""
    frame = strength_of_vaes(latents, scores)
    frame = frame[frame["strength"].isin(["raw", "calibrated"])]
    if frame.empty:
        return absent("No VAE has both an effect strength and DCI.")
    frame = frame.assign(strength=frame["strength"].map(measure_words), dci=frame["score"])
    families = ordered(frame["family"])
    x = alt.X("dci:Q", title="DCI disentanglement", scale=alt.Scale(zero=False, padding=14))
    y = alt.Y("value:Q", title="mean over active latents", scale=alt.Scale(zero=False, padding=14))
    colour = alt.Color("family:N", title=None, sort=families, scale=alt.Scale(domain=families))
    shape = alt.Shape("family:N", title=None, sort=families, scale=alt.Scale(domain=families))
    tooltip: list[Any] = [
        "family:N",
        "vae_seed:N",
        alt.Tooltip("dci:Q", format=".3g"),
        alt.Tooltip("value:Q", format=".3g"),
    ]
    mark = alt.Chart().mark_point(filled=True, size=80, opacity=0.9)
    chart = mark.encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip).properties(width=240, height=230)
    columns = ["strength", "family", "vae_seed", "dci", "value"]
    drawn = in_panels(chart, "strength", frame[columns], ordered(frame["strength"])).resolve_scale(y="independent")
    vaes = frame[["family", "vae_seed"]].drop_duplicates()
    return finish(
        drawn, f"Mean effect strength over DCI disentanglement, one point per VAE, of {len(vaes)} VAEs.", panels=2
    )
