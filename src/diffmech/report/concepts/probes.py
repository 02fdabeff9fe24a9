"""Whether erased concepts are destroyed or avoided: verdicts, a chart, images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from markupsafe import Markup

from diffmech.findings import Estimate, Finding, Verdict
from diffmech.report import markup
from diffmech.report.drawing import absent, finish, from_to, specification, table, with_intervals
from diffmech.report.markup import Section
from diffmech.report.pictures import colour_pixels, mosaic, picture
from diffmech.report.wording import count, interval, listed, number

# The share of an erased concept that a probe must bring back, or must not, for a verdict.
BACK = 0.25
FAMILY = "Intervals hold together for all probes of one edit (Bonferroni)."
PANEL = 240  # pixels
RULE = (
    f"Destroyed: no probe brings back more than {number(100 * BACK, 2)} % of what the edit took away, intervals "
    "included. Avoided: some probe brings back more, interval included, and a token more than one that was looked for "
    "on images without the concept. Both are our rule."
)
NONE = "Nothing is probed: probes are not asked for, nothing is erased, or no judge sees the concepts."


def findings(probes: pd.DataFrame) -> Iterator[Finding]:
    """Yield one finding per concept, of its largest probed edit."""
    for concept, rows in probes.groupby("concept", sort=False):
        yield _finding(str(concept), rows[rows["count"] == rows["count"].max()])


def verdict(rows: pd.DataFrame) -> str:
    """Return `destroyed`, `avoided`, `not erased` or `cannot be told` of the probes of one edit."""
    if not (rows["edited"] < rows["original"]).all():
        return "not erased"
    if back(rows):
        return "avoided"
    return "destroyed" if (rows["recovered_high"] <= BACK).all() else "cannot be told"


def back(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return the rows of the probes that bring the concept back."""
    found = rows[rows["recovered_low"] > BACK]
    control = found["above_control"].isna() | (found["above_control_low"] > 0)
    return found[control].to_dict("records")


def _finding(concept: str, rows: pd.DataFrame) -> Finding:
    what, brought, seeds = verdict(rows), back(rows), int(rows["n"].iloc[0])
    weights = count(int(rows["count"].iloc[0]), "weight")
    if what == "avoided":
        answer = f"Avoided: without {weights}, {listed([_words(row) for row in brought])} still bring {concept} back."
        answer = answer.replace("still bring", "still brings") if len(brought) == 1 else answer
    elif what == "destroyed":
        answer = f"Destroyed: without {weights}, nothing that was tried brings back more than a quarter of {concept}."
    elif what == "not erased":
        answer = f"Without {weights}, {concept} is seen as often as before, so that nothing is there to bring back."
    else:
        answer = f"Without {weights}, no probe decides it: what comes back of {concept} may be more or less than a "
        answer += "quarter."
    verdicts: dict[str, Verdict] = {"avoided": "found", "destroyed": "not found"}
    most = rows.sort_values("recovered", ascending=False).iloc[0]
    value, low, high = (100 * float(most[f"recovered{end}"]) for end in ("", "_low", "_high"))
    told = np.isfinite([value, low, high]).all()
    estimate = Estimate(f"largest share of {concept} that a probe brings back", value, low, high, "%") if told else None
    return Finding(
        f"Is {concept}, once erased, still there?",
        verdicts.get(what, "cannot be told"),
        answer,
        tuple(_details(rows)),
        "probes",
        FAMILY,
        f"Of {seeds} seeds; one more or less is {number(100 / seeds, 2)} percentage points.",
        estimate,
    )


def _details(rows: pd.DataFrame) -> Iterator[str]:
    for row in rows.to_dict("records"):
        rate = interval(100 * row["rate"], 100 * row["low"], 100 * row["high"], "%")
        text = f"{_words(row).capitalize()}: seen in {rate} of images, {_percent(row['edited'])} without it, "
        text += f"{_percent(row['original'])} unedited"
        for other, name in (("random", "after as many random weights"), ("control", "by the control token")):
            if pd.notna(row[other]):
                text += f", {_percent(row[other])} {name}"
        if row["probe"] == "noise" and row["cut"]:
            text += f"; eta is cut off in {int(row['cut'])} of {row['steps']} steps"
        yield f"{text}."


def _percent(share: float) -> str:
    return f"{number(100 * share)} %"


def _words(row: Mapping[Any, Any]) -> str:
    if row["probe"] == "completion":
        return f"finishing after {count(round(row['setting'] * row['steps']), 'step')} of {row['steps']}"
    if row["probe"] == "noise":
        return f"fresh noise (eta {row['setting']:g})"
    return f"a token after {count(int(row['setting']), 'step')}"


def chart(probes: pd.DataFrame) -> Any:
    """Draw the rate of each concept under each probe, beside those of other denoisers under the same."""
    if probes.empty:
        return absent(NONE)
    frame = probes[probes["count"] == probes.groupby("concept")["count"].transform("max")]
    parts = []
    for edit, name in DENOISERS.items():
        own = frame.assign(name=name, value=frame["rate" if edit == "rate" else edit])
        if edit != "rate":
            own = own.assign(low=own["value"], high=own["value"])
        parts.append(own.dropna(subset="value"))
    long = pd.concat(parts)
    long = long.assign(what=[_words(row) for row in long.to_dict("records")])
    columns = ["concept", "what", "name", "value", "low", "high", "n"]
    x = alt.X("value:Q", title="share of images that show it", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("what:N", title=None, sort=list(dict.fromkeys(long["what"])), axis=alt.Axis(labelLimit=260))
    names = list(DENOISERS.values())
    colour = alt.Color("name:N", title=None, sort=names, scale=alt.Scale(domain=names))
    shape = alt.Shape("name:N", title=None, sort=names, scale=alt.Scale(domain=names))
    tooltip = ["concept:N", "what:N", "name:N", alt.Tooltip("value:Q", format=".3g"), *from_to(), "n:Q"]
    layers = with_intervals(x, y, colour=colour, tooltip=tooltip, size=45, shape=shape)
    drawn = alt.layer(*layers).properties(width=PANEL, height=alt.Step(24))
    drawn = drawn.facet(facet=alt.Facet("concept:N", title=None), columns=2, data=table(long[columns]))
    return finish(drawn, "Share of images that show each erased concept, by probe and denoiser.", panels=2)


DENOISERS = {
    "rate": "edited, probed",
    "edited": "edited",
    "original": "unedited, with the same noise",
    "random": "as many at random, probed",
    "control": "edited, control token",
}


def section(probes: pd.DataFrame, stores: Sequence[Any], shown: int, tile: int) -> Section:
    """Return the section of the page; `stores` are those of the probed edits, of which `shown` seeds are shown."""
    reasons = sorted({str(reason) for store in stores for reason in store.attrs["absent"]})
    caption = (
        "Share of images, asked for the erased concept, in which the judge sees it. The unedited denoiser does the "
        "first steps and the edited one finishes; noise is added in every step; a token is looked for that brings the "
        "concept back. Lines: score interval of the edited denoiser under the probe."
    )
    return markup.section(
        "probes",
        "Destroyed or avoided",
        markup.paragraph(RULE),
        markup.chart("probes", specification(chart(probes)), caption),
        *(markup.paragraph(f"Not probed: {reason}.", "quiet") for reason in reasons),
        *(part for store in stores for part in _pictures(store, shown, tile)),
    )


def _pictures(store: Any, shown: int, tile: int) -> Iterator[Markup]:
    rows = []
    names = {"own": "edited", "original": "unedited", "random": "as many at random", "control": "control token"}
    for number_, (probe, setting, edit) in enumerate(
        zip(store["probe"].values, store["setting"].values, store["edit"].values, strict=True)
    ):
        row = {"probe": str(probe), "setting": float(setting), "steps": int(store.attrs["steps"])}
        words = f"{_words(row)}, {names[str(edit)]}"
        tiles = list(colour_pixels(np.asarray(store["images"][number_].values)[:shown]))
        rows.append(picture(mosaic(tiles, len(tiles)), f"{len(tiles)} images, {words}", words, tiles=len(tiles)))
    if rows:
        yield markup.heading(
            f"{store.attrs['concept']}, {count(int(store.attrs['count']), 'weight')} erased".capitalize()
        )
        yield markup.gallery(rows, tile)
