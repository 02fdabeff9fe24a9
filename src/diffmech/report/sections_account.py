"""The causal account on the page: per mechanism, whether it matters, when, and for which attributes."""

from typing import Any

import pandas as pd

from diffmech.mechanisms.account import CAUSAL
from diffmech.report import markup
from diffmech.report.artifacts import effect_title, records
from diffmech.report.context import Context
from diffmech.report.wording import count, interval, number, p_value

READ = (
    "One row per mechanism and kind of image. A mechanism is called causal only if removing it raises the loss and does"
    " so more than equally many heads of the same layers with outputs of the same size. When: the window of timesteps"
    " with the largest effect that can be told from zero. Attributes: what changes in images that are sampled again"
    " from the same noise without these heads, as a change of the probability, by a classifier, of the attribute or of"
    " what was asked for (with it or without it); the strongest is given with its interval. All p-values are corrected"
    " over mechanisms."
)
COLUMNS = [
    "mechanism",
    "images",
    "verdict",
    "effect of removing it",
    "matched heads",
    "when (t)",
    "effect then",
    "attributes that change",
]


def account(context: Context) -> str:
    """Return the table of mechanisms with their evidence."""
    table = context.tables.account
    causal = table[table["verdict"] == CAUSAL]["mechanism"].nunique()
    total = table["mechanism"].nunique()
    if not total:
        said = "No mechanism was ablated (ablation.groups), so there is no account of any."
        return markup.section("account", "What each mechanism does", markup.paragraph(said))
    said = (
        f"{count(causal, 'mechanism').capitalize()} of {total} can be called causal on at least one kind of image."
        f" {_attributes_sentence(table)}"
    )
    rows = [_row(row) for row in records(table)]
    caption = f"Effect: {effect_title(context.tables.effects)}, {context.method} ablation"
    return markup.section(
        "account",
        "What each mechanism does",
        markup.paragraph(said),
        markup.paragraph(READ),
        markup.table(COLUMNS, rows, caption, wide="attributes that change"),
    )


def _attributes_sentence(table: pd.DataFrame) -> str:
    once = table.drop_duplicates("mechanism")
    if (once["attributes"] == "not measured").all():
        return "Attributes were not measured: no classifier judges what these images show."
    changed = once[~once["attributes"].isin(["none", "not measured"])]
    of = ", ".join(sorted(set(once["attributes_of"].dropna())))
    if changed.empty:
        return f"Removing none of them changes a judged attribute of sampled {of} images."
    return f"Removing {len(changed)} of them changes at least one judged attribute of sampled {of} images."


def _row(row: Any) -> list[str]:
    name = f"{row.label} ({row.mechanism}), {count(int(row.heads), 'head')}"
    controls, then, when = "not run", "–", "at no window alone"
    if pd.notna(row.control_mean):
        controls = (
            f"{interval(row.control_mean, row.control_low, row.control_high, '%', 2)}; "
            f"{p_value(row.p_control_adjusted)}"
        )
    if pd.notna(row.window_effect):
        when = str(row.window).replace("-", "–")
        then = interval(row.window_effect, row.window_low, row.window_high, "%", 2)
    effect = f"{interval(row.effect_percent, row.low, row.high, '%', 2)}; {p_value(row.p_zero_holm)}"
    return [name, row.domain, row.verdict, effect, controls, when, then, _attributes(row)]


def _attributes(row: Any) -> str:
    if pd.isna(row.attribute_change):
        return str(row.attributes)
    change = interval(row.attribute_change, row.attribute_low, row.attribute_high, digits=2)
    what = f"{row.attribute}{' as asked for' if row.attribute_measure == 'asked' else ''}"
    text = f"{what} {'+' if row.attribute_change > 0 else ''}{change}, {p_value(row.attribute_p_holm)}"
    if pd.notna(row.attribute_control_low):
        low, high = (number(value, 2) for value in (row.attribute_control_low, row.attribute_control_high))
        text += f"; matched heads {low} to {high}"
    others = [name for name in str(row.attributes).split() if name != row.attribute]
    return text + (f"; also {', '.join(others)}" if others else "")
