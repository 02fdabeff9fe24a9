"""What edits do to the entropy of attention: findings, a chart."""

from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import pandas as pd

from diffmech.findings import Estimate, Finding, Verdict
from diffmech.report import markup
from diffmech.report.drawing import absent, dots, finish, head_axis, row_height, signed_cells, specification, table
from diffmech.report.markup import Section
from diffmech.report.wording import count, interval, listed, number, p_value
from diffmech.tables import ALL

FAMILY = (
    "Corrected (max-T) over the kinds of attention of one edit; of single heads, over all heads and timesteps. Both "
    "the change and its difference from that by as many random weights in each matrix must be significant."
)


def findings(attention: pd.DataFrame, *, alpha: float) -> Iterator[Finding]:
    """Yield one finding per concept and objective, of its largest edit."""
    for (concept, objective), rows in attention.groupby(["concept", "objective"], sort=False):
        yield _finding(str(concept), str(objective), rows[rows["count"] == rows["count"].max()], alpha)


def beyond(rows: pd.DataFrame, alpha: float) -> "pd.Series[bool]":
    """Return which rows change, and by other than what random edits do."""
    return (rows["p_corrected"] <= alpha) & (rows["p_random"] <= alpha)


def _finding(concept: str, objective: str, rows: pd.DataFrame, alpha: float) -> Finding:
    kinds, heads = rows[rows["head"] == ALL], rows[rows["head"] != ALL]
    clear = kinds[beyond(kinds, alpha)]
    weights = count(int(rows["count"].iloc[0]), "weight")
    verdict: Verdict = "found" if len(clear) else "not found"
    edited = {"erase": "erasing", "amplify": "amplifying"}[objective]
    if len(clear):
        parts = [
            f"{row['kind']}-attention {_direction(row['change'])} ({_change(row)})" for row in clear.to_dict("records")
        ]
        answer = f"Yes: with {weights} set to zero, {listed(parts)}."
    else:
        answer = f"No kind of attention concentrates or disperses as a whole with {weights} set to zero, beyond what "
        answer += "as many random weights do."
    shown = (clear if len(clear) else kinds).iloc[0]
    value, low, high = (float(shown[end]) for end in ("change", "low", "high"))
    estimate = Estimate(f"change of the entropy of {shown['kind']}-attention", value, low, high, "nat")
    return Finding(
        f"Does {edited} {concept} change how widely heads attend?",
        verdict,
        answer,
        (*_details(kinds), _of_heads(heads, alpha)),
        "attention",
        FAMILY,
        f"Of {count(int(rows['n'].iloc[0]), 'image')}.",
        estimate,
    )


def _details(kinds: pd.DataFrame) -> Iterator[str]:
    for row in kinds.to_dict("records"):
        random = interval(row["random"], row["random_low"], row["random_high"])
        yield (
            f"Mean over all {row['kind']}-attention heads and timesteps: {_change(row)}, "
            f"{p_value(row['p_corrected'])}; by as many random weights {random}, {p_value(row['p_random'])} of the "
            "difference."
        )


def _of_heads(heads: pd.DataFrame, alpha: float) -> str:
    clear = heads[beyond(heads, alpha)]
    up = int((clear["change"] > 0).sum())
    return (
        f"Of {count(len(heads), 'head at a timestep', 'heads at timesteps')}, {len(clear) - up} concentrate and {up} "
        "disperse beyond random edits."
    )


def _direction(change: float) -> str:
    return "disperses" if change > 0 else "concentrates"


def _change(row: Mapping[Any, Any]) -> str:
    change = interval(row["change"], row["low"], row["high"], "nat")
    return f"{change}, {number(100 * row['change'] / row['h_max'], 2)} % of the largest entropy"


def chart(attention: pd.DataFrame, objective: str, alpha: float) -> Any:
    """Draw the change of entropy of each head at each timestep, at the largest edit of each concept."""
    frame = attention[(attention["objective"] == objective) & (attention["head"] != ALL)]
    if frame.empty:
        return absent("The attention of no edited denoiser was watched.")
    frame = frame[frame["count"] == frame.groupby("concept")["count"].transform("max")]
    frame = frame.assign(beyond=beyond(frame, alpha), t=frame["timestep"].astype(int))
    heads = tuple(dict.fromkeys(frame["head"]))
    columns = ["concept", "head", "t", "before", "after", "change", "random", "p_corrected", "p_random", "beyond"]
    bound = float(frame["change"].abs().max()) or 1.0
    tooltip = ["concept:N", "head:N", "t:O", *(alt.Tooltip(f"{name}:Q", format=".3g") for name in columns[3:9])]
    x = alt.X("t:O", title="timestep", axis=alt.Axis(labelAngle=0))
    y = head_axis(heads)
    cells = signed_cells(x, y, "change", "change of entropy (nat)", bound, tooltip)
    layers = alt.layer(cells, dots(x, y, "beyond")).properties(width=100, height=len(heads) * row_height(len(heads)))
    drawn = layers.facet(facet=alt.Facet("concept:N", title=None), columns=4, data=table(frame[columns]))
    return finish(drawn, f"Change of attention entropy of each head at each timestep, {objective}.", panels=4)


def section(attention: pd.DataFrame, alpha: float) -> Section:
    """Return the section of the page."""
    caption = (
        "Entropy of each head after the edit minus before, on the same noisy images. Below 0 attention concentrates, "
        "above it disperses. Dots: significant, and other than by as many random weights in each matrix."
    )
    objectives = list(dict.fromkeys(attention["objective"])) or ["erase"]
    return markup.section(
        "attention",
        "What edits do to attention",
        *(
            markup.chart(
                f"attention_{name}", specification(chart(attention, name, alpha)), f"{name.capitalize()}. {caption}"
            )
            for name in objectives
        ),
    )
