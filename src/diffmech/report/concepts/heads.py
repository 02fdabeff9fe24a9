"""In which attention heads weights carry concepts: a finding, a chart, a table."""

from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import pandas as pd
from markupsafe import Markup

from diffmech.findings import Finding
from diffmech.report import markup
from diffmech.report.drawing import absent, dots, finish, head_axis, row_height, signed_cells, specification, table
from diffmech.report.markup import Section
from diffmech.report.wording import count, limits, listed, number, p_value

FAMILY = "Corrected (Holm) over all concepts, objectives and signs; p is the larger of both nulls."
SIGNS = ("positive", "negative")
NOT_ASKED = "Whether these are the heads that matter was not asked: concepts.heads.overlap."


def findings(overlap: pd.DataFrame, *, alpha: float) -> Iterator[Finding]:
    """Yield the one finding on the overlap with causal heads; none where it was not asked."""
    if overlap.empty:
        return
    question = "Do weights that carry concepts lie in the heads that matter?"
    heads, causal = int(overlap["heads"].iloc[0]), int(overlap["causal_heads"].iloc[0])
    if causal in (0, heads):
        answer = f"The main study found {causal} of {count(heads, 'head')} causal, so that nothing tells them apart."
        yield Finding(question, "cannot be told", answer, (), "heads")
        return
    clear = overlap[overlap["p_corrected"] <= alpha].to_dict("records")
    parts = [
        f"of the weights of attention that are {row['sign']} for {row['concept']} ({row['objective']}) "
        f"{'more' if row['share'] > row['expected'] else 'fewer'} than by chance"
        for row in clear
    ]
    answer = f"Yes: {listed(parts)}." if parts else "No more, and no fewer, of them than by chance."
    nearest = overlap.sort_values("p_corrected").iloc[0].to_dict()
    sight = f"{causal} of {count(heads, 'head')} are causal in the main study."
    yield Finding(question, "found" if clear else "not found", answer, (_detail(nearest),), "heads", FAMILY, sight)


def _detail(row: Mapping[Any, Any]) -> str:
    share, expected, low, high = _percentages(row)
    return (
        f"Smallest p: {row['concept']}, {row['objective']}, {row['sign']}: {number(share)} % of "
        f"{int(row['components']):,} components lie in causal heads, of as many at random in each matrix "
        f"{number(expected)} % ({limits(low, high)}), {p_value(row['p_components'])}; {p_value(row['p_heads'])} where "
        f"heads of a layer are exchanged, {p_value(row['p_corrected'])} corrected."
    )


def _percentages(row: Mapping[Any, Any]) -> list[float]:
    return [100 * float(row[name]) for name in ("share", "expected", "expected_low", "expected_high")]


def _overlaps(overlap: pd.DataFrame) -> Markup:
    rows = []
    for row in overlap.to_dict("records"):
        share, expected, low, high = _percentages(row)
        what = [str(row[name]) for name in ("concept", "objective", "sign")]
        p = [p_value(row[name]) for name in ("p_components", "p_heads", "p_corrected")]
        rows.append([*what, f"{number(share)} %", f"{number(expected)} % ({limits(low, high)})", *p])
    columns = ["concept", "objective", "scores", "in causal heads", "at random", "by weights", "by heads", "corrected"]
    caption = (
        "Share of the attention weights of the highest or lowest scores that lie in heads which the main study found "
        "causal, beside as many weights at random in each matrix; p by these weights, by exchanging the heads of each "
        "layer, and the larger of both corrected."
    )
    return markup.table(columns, rows, caption, columns[3:])


def chart(heads: pd.DataFrame) -> Any:
    """Draw the positive and the negative scores of each head, as shares of all of a concept and objective."""
    if heads.empty:
        return absent("No weights of attention heads were scored.")
    keys = ["concept", "objective", "head", "causal"]
    frame = heads.melt(keys, list(SIGNS), "sign", "score")
    total = frame.groupby(["concept", "objective"])["score"].transform(lambda values: values.abs().sum())
    frame["share"] = frame["score"] / total.where(total > 0, 1)
    frame["what"] = frame["objective"] + ", " + frame["sign"]
    names = tuple(dict.fromkeys(frame["head"]))
    tooltip = ["concept:N", "what:N", "head:N", "causal:N", alt.Tooltip("share:Q", format=".3g")]
    x, y = alt.X("concept:N", title=None, axis=alt.Axis(labelAngle=-40)), head_axis(names)
    cells = signed_cells(x, y, "share", "share of all scores", float(frame["share"].abs().max()) or 1.0, tooltip)
    layers = alt.layer(cells, dots(x, y, "causal")).properties(width=110, height=len(names) * row_height(len(names)))
    order = [f"{objective}, {sign}" for objective in dict.fromkeys(frame["objective"]) for sign in SIGNS]
    facet = alt.Facet("what:N", title=None, sort=order)
    drawn = layers.facet(facet=facet, columns=4, data=table(frame[["concept", "what", "head", "causal", "share"]]))
    return finish(drawn, "Sums of positive and of negative scores of each attention head, by concept.", panels=4)


def section(heads: pd.DataFrame, overlap: pd.DataFrame) -> Section:
    """Return the section of the page."""
    caption = (
        "Sums of the scores of each head's weights of queries, keys, values and output, positive and negative ones "
        "apart, as shares of all scores of attention of the concept. Dots: heads that the main study found causal."
    )
    below = _overlaps(overlap) if len(overlap) else markup.paragraph(NOT_ASKED, "quiet")
    drawn = markup.chart("heads", specification(chart(heads)), caption)
    return markup.section("heads", "In which heads weights carry a concept", drawn, below)
