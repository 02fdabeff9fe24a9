"""Charts of the page on concepts."""

from typing import Any

import altair as alt
import pandas as pd

from diffmech.concepts.edits import TARGET
from diffmech.config.studies.concepts import Objective
from diffmech.report.drawing import absent, finish, from_to, signed_cells, table, with_intervals

NAMES = {
    "own": "chosen by score",
    "original": "nothing changed",
    "random": "at random",
    "random_rows": "at random in the same rows",
    "magnitude": "largest weights",
    "gradient": "largest gradients",
    "wanda": "largest weight times input (Wanda)",
    "uce": "closed form (UCE, all values)",
}
PANEL = 240  # pixels


def target_rates(rates: pd.DataFrame, objective: Objective, attributes: dict[str, str]) -> pd.DataFrame:
    """Return the rate of each concept in images that are to show it, by edit and number of changed weights."""
    own = rates[(rates["objective"] == objective) & (rates["way"] == TARGET[objective])]
    own = own[own["attribute"] == own["concept"].map(attributes)]
    return own.assign(name=own["edit"].map(lambda edit: NAMES.get(edit, edit)))


def dose_response(rates: pd.DataFrame, objective: Objective, attributes: dict[str, str]) -> Any:
    """Draw the rate of each concept over the number of changed weights, with bands."""
    frame = target_rates(rates, objective, attributes)
    frame = frame[frame["edit"].isin(["original", "own", "random"])]
    if frame.empty:
        return absent("No judge sees these concepts.")
    unchanged = frame[frame["edit"] == "original"].drop_duplicates("concept")
    # nothing changed is both curves' value at no weight
    starts = [
        unchanged.assign(name=NAMES[edit], count=0) for edit in ("own", "random") if (frame["edit"] == edit).any()
    ]
    frame = pd.concat([*starts, frame[frame["edit"] != "original"]])
    frame = frame[["concept", "name", "count", "rate", "low", "high", "n"]].sort_values(["concept", "name", "count"])
    x = alt.X("count:Q", title="changed weights", scale=alt.Scale(type="symlog", constant=50))
    colour = alt.Color("name:N", title="weights", sort=[NAMES["own"], NAMES["random"]])
    band = alt.Chart().mark_area(opacity=0.2).encode(x=x, y="low:Q", y2="high:Q", color=colour)
    line = alt.Chart().mark_line(point=True)
    tooltip = ["concept:N", "name:N", "count:Q", alt.Tooltip("rate:Q", format=".3g"), *from_to(), "n:Q"]
    y = alt.Y("rate:Q", title="share of images that show it", scale=alt.Scale(domain=[0, 1]))
    chart = (band + line.encode(x=x, y=y, color=colour, tooltip=tooltip)).properties(width=PANEL, height=150)
    drawn = chart.facet(facet=alt.Facet("concept:N", title=None), columns=2, data=table(frame))
    return finish(drawn, f"Share of images that show each concept, over the number of weights, {objective}.", panels=2)


def against_baselines(effects: pd.DataFrame, objective: Objective) -> Any:
    """Draw the difference of the target rate to each other edit, with intervals, where there are such."""
    frame = effects[(effects["objective"] == objective) & (effects["against"] != "original")]
    if frame.empty:
        return absent("No other edit was judged beside these.")
    frame = frame.assign(
        low=frame["target_low"],
        high=frame["target_high"],
        name=frame["against"].map(lambda edit: NAMES.get(edit, edit)),
        dose_name=frame["count"].map(lambda count: f"{count:,} weights"),
    ).sort_values("count", kind="stable")
    columns = ["concept", "name", "dose_name", "target_change", "low", "high", "p_corrected", "n"]
    x = alt.X("target_change:Q", title="difference of the share of images that show it")
    y = alt.Y("name:N", title=None, sort=list(NAMES.values()), axis=alt.Axis(labelLimit=240))
    doses = list(dict.fromkeys(frame["dose_name"]))
    colour = alt.Color("dose_name:N", title=None, sort=doses)
    change = alt.Tooltip("target_change:Q", format=".3g")
    tooltip = ["concept:N", "name:N", "dose_name:N", change, *from_to(), "p_corrected:Q", "n:Q"]
    offset = alt.YOffset("dose_name:N", sort=doses)
    layers = with_intervals(x, y, colour=colour, tooltip=tooltip, size=45, offset=offset)
    zero = alt.Chart().mark_rule(style="zero").encode(x=alt.datum(0))
    chart = alt.layer(zero, *layers).properties(width=PANEL, height=22 * frame["name"].nunique())
    drawn = chart.facet(facet=alt.Facet("concept:N", title=None), columns=2, data=table(frame[columns]))
    return finish(drawn, f"Rate of each concept after the edit minus that after others, {objective}.", panels=2)


def retention(rates: pd.DataFrame, objective: Objective) -> Any:
    """Draw which attributes are seen less or more often after which edit, in images told to have them."""
    own = rates[(rates["objective"] == objective) & rates["way"].isin([TARGET[objective], "base"])]
    # classes that no image with the concept is told are those of images without it
    own = own[own["told"] | (own["way"] == "weak")].sort_values("way", key=lambda ways: ways != "base", kind="stable")
    keys = ["concept", "dose", "count", "attribute", "told", "way"]
    both = own[own["edit"] == "own"].merge(
        own[own["edit"] == "original"][[*keys, "rate"]], on=keys, suffixes=("", "_original")
    )
    if both.empty:
        return absent("No judge sees these concepts.")
    largest = both.groupby("concept")["count"].transform("max")
    frame = (
        both[both["count"] == largest]
        .sort_values("told", kind="stable")
        .drop_duplicates(["concept", "attribute"], keep="last")
    )
    frame = frame.assign(change=frame["rate"] - frame["rate_original"])
    columns = ["concept", "attribute", "change", "rate", "rate_original", "count", "n"]
    tooltip = ["concept:N", "attribute:N", *(alt.Tooltip(f"{name}:Q", format=".3g") for name in columns[2:])]
    x = alt.X("attribute:N", title="seen in images", axis=alt.Axis(labelAngle=0))
    y = alt.Y("concept:N", title=f"concept ({objective})")
    cells = signed_cells(x, y, "change", "change of the share", 1.0, tooltip)
    text = alt.Text("change:Q", format="+.2f")
    words = [
        alt.Chart()
        .mark_text(style=style, fontSize=12, strokeWidth=0)
        .encode(x=x, y=y, text=text)
        .transform_filter(which)
        for style, which in (
            ("mark-on-heat", "abs(datum.change) < 0.5"),
            ("cell-text", "abs(datum.change) >= 0.5"),
        )
    ]
    drawn = alt.layer(cells, *words, data=table(frame[columns])).properties(height=alt.Step(34))
    return finish(drawn, f"Change of the share of images that show each attribute, by edited concept, {objective}.")


def where_and_when(scores: pd.DataFrame, objective: Objective) -> Any:
    """Draw the sums of positive and of negative scores by layer, group and window of timesteps."""
    frame = scores[scores["objective"] == objective].copy()
    if frame.empty:
        return absent("No weights were scored.")
    frame["place"] = frame["weight"].map(layer) + ", " + frame["group"].str.replace("_", " ")
    keys = ["concept", "first_timestep", "last_timestep", "place"]
    frame = frame.groupby(keys, sort=False)[["positive", "negative"]].sum().reset_index()
    frame = frame.melt(keys, ["positive", "negative"], "sign", "score")
    total = frame.groupby("concept")["score"].transform(lambda values: values.abs().sum())
    frame["share"] = frame["score"] / total.where(total > 0, 1)
    frame["when"] = [f"t = {row.first_timestep} to {row.last_timestep}" for row in frame.itertuples()]
    bound = float(frame["share"].abs().max()) or 1.0
    x = alt.X("when:N", title=None, sort=list(dict.fromkeys(frame["when"])), axis=alt.Axis(labelAngle=-60))
    y = alt.Y("place:N", title=None, sort=list(dict.fromkeys(frame["place"])), axis=alt.Axis(labelLimit=220))
    tooltip = ["concept:N", "when:N", "place:N", "sign:N", alt.Tooltip("share:Q", format=".3g")]
    cells = signed_cells(x, y, "share", "share of all scores", bound, tooltip)
    cells = cells.properties(width=alt.Step(20), height=alt.Step(13))
    drawn = cells.facet(
        column=alt.Column("concept:N", title=None),
        row=alt.Row("sign:N", title=None, sort=["positive", "negative"]),
        data=table(frame[["concept", "when", "place", "sign", "share"]]),
    )
    return finish(drawn, f"Where and when weights carry each concept, {objective}.", panels=1)


def layer(weight: str) -> str:
    """Return the stage of the network that a weight belongs to: its first two names, of a list the number."""
    parts = weight.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]


def fidelity(frame: pd.DataFrame, published: float) -> Any:
    """Draw the correlation of predicted and actual change, beside the published one."""
    if frame.empty:
        return absent("No objective that is edited was checked.")
    shown = frame.assign(
        name=frame["concept"] + ", " + frame["objective"], line=published, order=frame["order"] + " order"
    )
    columns = ["name", "order", "r", "low", "high", "masks", "count", "line"]
    x = alt.X("r:Q", title="Pearson r of predicted and actual change", scale=alt.Scale(domain=[-1, 1]))
    y = alt.Y("name:N", title=None)
    tooltip = ["name:N", "order:N", alt.Tooltip("r:Q", format=".3g"), *from_to(), "masks:Q", "count:Q"]
    colour = alt.Color("order:N", title=None)
    layers = with_intervals(x, y, colour=colour, tooltip=tooltip, size=45, offset="order:N")
    line = alt.Chart().mark_rule(style="reference").encode(x="mean(line):Q")
    drawn = alt.layer(line, *layers, data=table(shown[columns])).properties(height=alt.Step(26))
    return finish(drawn, "Correlation of predicted and actual change, by concept, objective and order of the scores.")
