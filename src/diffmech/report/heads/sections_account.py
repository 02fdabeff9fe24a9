"""The causal account on the page: per mechanism, whether it matters, when, and for which attributes."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from diffmech.interventions.decisions import CAUSAL, NOT_BEYOND, NOTHING, UNFAIR, UNTOLD
from diffmech.mechanisms.account import UNKNOWN
from diffmech.report import markup
from diffmech.report.heads.artifacts import effect_title, records
from diffmech.report.heads.charts_patching import timesteps_within
from diffmech.report.heads.context import Context
from diffmech.report.wording import count, interval, listed, number, p_value

READ = (
    "A mechanism is called causal only if removing it {what}, and does so more than equally many other heads"
    " that match it, and than random choices of heads by what each does alone. The verdict is over all timesteps. When:"
    " the timesteps at which it was removed, within the window with the largest effect that can be told from zero, and"
    " the verdict there, which is corrected over all windows."
)
READ_ATTRIBUTES = (
    " Attributes: what changes in images that are sampled again from the same noise without these heads, as the median"
    " change of the probability, by a classifier, of the attribute, or of what was asked for (with it or without it)."
)
CORRECTED = " The p-values of effects are corrected over mechanisms and both kinds of images."
CORRECTED_ATTRIBUTES = (
    " Those of attributes are corrected over all changes on one kind of images: mechanisms, windows and attributes,"
    " what was asked for and the attribute itself. Such a p-value counts how many images go either way, by however"
    " little: the share of verdicts that flip says how much that is."
)
COLUMNS = [
    *["mechanism", "images", "over all timesteps", "effect of removing it", "matched heads", "when"],
    "attributes that change",
]


def account(context: Context) -> markup.Section:
    """Return the table of mechanisms with their evidence, those without any effect folded away."""
    table = context.tables.account
    title = "What each mechanism does"
    if table.empty:
        said = "No mechanism was ablated (ablation.groups), so there is no account of any."
        return markup.section("account", title, markup.paragraph(said))
    table = table.sort_values("effect_percent", ascending=False, kind="stable")
    idle = (table["verdict"] == NOTHING) & table["attribute_change"].isna() & table["window_effect"].isna()
    caption = f"Effect: {effect_title(context.tables.effects)}, {context.method} ablation"
    judged = bool((table["attributes"] != UNKNOWN).any())
    columns = COLUMNS if judged else COLUMNS[:-1]
    shifted = effect_title(context.tables.effects).startswith("output")
    what = "shifts the output" if shifted else "raises the loss"
    read = f"{READ.format(what=what)}{READ_ATTRIBUTES if judged else ''}{CORRECTED}"
    read += CORRECTED_ATTRIBUTES if judged else ""
    parts = [markup.paragraph(_causal_sentence(table, context.tables.domains)), markup.paragraph(read)]
    ran = context.ablated_timesteps
    if not idle.all():
        rows = [_row(row, ran)[: len(columns)] for row in records(table[~idle])]
        parts.append(markup.table(columns, rows, caption, wide=columns[-1:]))
    if idle.any():
        rest = markup.table(columns, [_row(row, ran)[: len(columns)] for row in records(table[idle])], caption)
        parts.append(markup.folded(f"{count(int(idle.sum()), 'row')} in which nothing was found", rest))
    return markup.section("account", title, *parts)


def _causal_sentence(table: pd.DataFrame, domains: Sequence[str]) -> str:
    total, causal = table["mechanism"].nunique(), table.loc[table["verdict"] == CAUSAL, "mechanism"].nunique()
    said = (
        f"{causal} of {count(total, 'mechanism')} can be called causal on at least one kind of image."
        if causal
        else f"None of {count(total, 'mechanism')} can be called causal."
    )
    judged = table[table["attributes"] != UNKNOWN]
    if judged.empty:
        return f"{said} No classifier judged what sampled images show."
    of = listed([domain for domain in domains if domain in set(judged["domain"])])
    beyond = judged.loc[judged["attributes_beyond"].fillna("") != "", "mechanism"].nunique()
    if beyond:
        return (
            f"{said} Removing {beyond} of them changes at least one judged attribute of sampled {of} images by more"
            " than as many matched heads do."
        )
    changed = judged[judged["attributes"] != "none"]
    if changed.empty:
        return f"{said} Of none was removal shown to change a judged attribute of sampled {of} images."
    why = set(changed["attribute_verdict"])
    reason = "of none by more than matched heads do"
    if why <= {UNTOLD, UNFAIR}:
        ran = int(changed["attribute_controls"].fillna(0).max())
        reason = (
            f"whether by more than matched heads do cannot be told with {count(ran, 'matched set')} of heads"
            " (resampling.controls)"
            if UNTOLD in why
            else "but no other heads match these mechanisms"
        )
    elif why - {NOT_BEYOND}:
        reason += ", where that could be told"
    flips = changed.loc[changed["attributes_flipped"].fillna("") != "", "mechanism"].nunique()
    flip = f"without {flips} of them a verdict on it flips" if flips else "no verdict on it flips"
    return (
        f"{said} Without {count(changed['mechanism'].nunique(), 'mechanism')} the probability of at least one judged"
        f" attribute of sampled {of} images moves in one direction; {flip}; {reason}."
    )


def _row(row: Any, ran: list[float]) -> list[str]:
    name = f"{row.label} ({row.mechanism}), {count(int(row.heads), 'head')}"
    effect = f"{interval(row.effect_percent, row.low, row.high, '%', 2)}, {p_value(row.p_zero_max)}"
    if row.verdict == NOTHING:
        effect += f"; {number(row.smallest_effect, 2)} % would have been found"
    controls, when = "none match", "no single window"
    if pd.notna(row.control_mean):
        spread = interval(row.control_mean, row.control_low, row.control_high, "%", 2)
        controls = f"{spread}, {p_value(row.p_control_adjusted)}"
    if row.verdict == NOT_BEYOND:
        controls += f"; {number(row.smallest_effect_control, 2)} % would exceed them"
    elif row.verdict == UNTOLD and math.isinf(row.smallest_effect_control):
        controls += "; none, however large, would exceed them"
    if pd.notna(row.window_effect):
        then = interval(row.window_effect, row.window_low, row.window_high, "%", 2)
        first, _, last = str(row.window).partition("-")
        when = f"{timesteps_within(float(first), float(last), ran)}: {then}, {row.window_verdict}"
    return [name, row.domain, row.verdict, effect, controls, when, _attributes(row)]


def _attributes(row: Any) -> str:
    if pd.isna(row.attribute_change):
        return str(row.attributes)
    what = f"{row.attribute}{' as asked for' if row.attribute_measure == 'asked' else ''}"
    change, low, high = map(_signed, (row.attribute_change, row.attribute_low, row.attribute_high))
    text = f"{what} {change} ({low} to {high}), {p_value(row.attribute_p_holm)}"
    flipped = row.attribute_flipped
    text += f", {number(100 * flipped, 2)} % of verdicts flip" if flipped > 0 else ", no verdict flips"
    if pd.notna(row.attribute_control_low):
        text += f"; matched heads {_signed(row.attribute_control_low)} to {_signed(row.attribute_control_high)}"
    text += f", {row.attribute_verdict}"
    others = [name for name in str(row.attributes).split() if name != row.attribute]
    return text + (f"; also {listed(others)}" if others else "")


def _signed(change: float) -> str:
    """Return a change of a probability, to the percent, or what it is where that is less than one."""
    if abs(change) >= 0.005:
        return f"{change:+.2f}".replace("-", "−")
    return f"{'+' if change > 0 else ''}{number(change, 2)}"
