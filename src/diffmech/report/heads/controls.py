"""What the page says of matched controls: how well they match, the family of their tests, what could have been seen."""

import math
from typing import Any

import pandas as pd

from diffmech.interventions.decisions import CAUSAL, DIFFERS, HELPS, NOT_BEYOND, NOT_REMOVED, NOTHING, UNFAIR, UNTOLD
from diffmech.report.heads.artifacts import records
from diffmech.report.wording import count, interval, limits, listed, number, p_value
from diffmech.statistics.reach import draws_needed, units_needed

POOLS = {"site": "the same layers", "kind": "the same kind of attention", "any": "all attention"}

# The verdicts of `interventions.decisions` as marks of charts, strongest first: words and shape.
MARKS = {
    CAUSAL: ("more than its controls", "diamond"),
    DIFFERS: ("differs from zero", "circle"),
    NOT_BEYOND: ("differs from zero, not shown to exceed its controls", "circle"),
    UNFAIR: ("differs from zero, no fair control", "square"),
    HELPS: ("helps when removed", "triangle-down"),
    NOTHING: ("no effect found", "cross"),
    UNTOLD: ("cannot be told", "triangle-up"),
    NOT_REMOVED: ("not removed there", "stroke"),
}

COLUMNS = ["mechanism", "controls from", "sets", "heads shared", "size beside the target's", "other choices", "verdict"]


def balance_rows(groups: pd.DataFrame, names: dict[str, str]) -> list[list[str]]:
    """Return a row for each mechanism: its controls, how well they match it, and its verdict on each kind of images."""
    rows = []
    for target, part in groups.groupby("target", sort=True):
        first: Any = next(iter(records(part)))
        verdicts = [f"{row.domain}: {row.verdict}" for row in records(part)]
        choices = [p_value(row.p_heads_adjusted) for row in records(part) if pd.notna(row.p_heads_adjusted)]
        rows.append(
            [names.get(str(target), str(target)), *_balance(first), listed(choices) or "–", "; ".join(verdicts)]
        )
    return rows


def _balance(row: Any) -> list[str]:
    if pd.isna(row.control_ratio):
        return ["nowhere: too few other heads", "0", "–", "–"]
    where = POOLS.get(str(row.control_pool), str(row.control_pool))
    size = interval(row.control_ratio, row.control_ratio_low, row.control_ratio_high, digits=3)
    run = f"{int(row.controls)}" if row.controls_fair else f"{int(row.controls)}, not run"
    return [where, run, f"{number(100 * row.control_overlap, 2)} %", size]


def why_unfair(groups: pd.DataFrame) -> str:
    """Return for which mechanisms no set of other heads matches, and how far the closest are off; empty for none."""
    unfair = groups[~groups["controls_fair"]].drop_duplicates("target")
    if unfair.empty:
        return ""
    missed = unfair.dropna(subset=["control_ratio"])
    sets = [
        f"{count(int(row.controls), 'set')} {size} times as large"
        for row in records(missed)
        for size in [limits_of(pd.Series([row.control_ratio_low, row.control_ratio_high]))]
    ]
    closest = f": the closest are {listed(sets)}" if sets else ""
    return f"{count(len(unfair), 'mechanism')} {'has' if len(unfair) == 1 else 'have'} no fair control{closest}."


def family(groups: pd.DataFrame) -> str:
    """Return over which tests a mechanism's claim is corrected."""
    domains = listed(list(dict.fromkeys(groups["domain"])))
    return (
        f"Corrected over {count(groups['target'].nunique(), 'mechanism')} on {domains} images together, against"
        " zero and against controls."
    )


def sight(rows: pd.DataFrame, alpha: float) -> str:
    """Return what effects would have been found four times in five, or what it would take to tell any."""
    if rows.empty:
        return ""
    images = int(rows["n"].min())
    if (rows["verdict"] == UNTOLD).all() and images < units_needed(alpha):
        return (
            f"{count(images, 'image')} allow no p-value below {number(2.0 ** (1 - images), 2)}: level {alpha:g} takes"
            f" {units_needed(alpha)} (ablation.samples)."
        )
    said = f"Four times in five an effect is found where it is {limits_of(rows['smallest_effect'])} % or more"
    beyond = rows[rows["controls_fair"] & (rows["controls"] >= draws_needed(alpha))]
    needed = beyond["smallest_effect_control"].dropna()
    reachable = needed[needed.map(math.isfinite)]
    if len(reachable):
        said += (
            f", and exceeds its controls, beside those of all other mechanisms, where it is {limits_of(reachable)} % or"
            " more"
        )
    if len(reachable) < len(needed):
        said += (
            f"; for {count(len(needed) - len(reachable), 'mechanism and domain pair')} no effect, however large, would"
            " exceed them, with so few sets (ablation.controls) or so few other heads to choose from"
        )
    return f"{said}."


def limits_of(values: pd.Series) -> str:
    """Return the range of some numbers, one number where they agree."""
    low, high = float(values.min()), float(values.max())
    return number(low, 2) if number(low, 2) == number(high, 2) else limits(low, high, 2)
