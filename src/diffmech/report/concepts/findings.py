"""What the study of concepts found, concept by concept."""

from collections.abc import Iterator, Mapping

import pandas as pd

from diffmech.findings import Estimate, Finding, Verdict
from diffmech.report.wording import count, interval, listed, number, p_value

# What an edit has to do to count as one, of the rates of the unedited denoiser.
ERASED, KEPT = 0.6, 0.1
FAMILY = "Corrected (Holm) over all doses and comparisons of one concept and objective."


def findings(
    effects: pd.DataFrame, unjudged: list[str], *, alpha: float, pictures: Mapping[tuple[str, str], str]
) -> list[Finding]:
    """Return one finding per concept and objective, and one that names concepts that nothing judges.

    `pictures` are files that show an objective of a concept, as seen from the folder of the file of findings.
    """
    found = [
        _finding(str(concept), str(objective), rows, alpha, pictures.get((str(concept), str(objective))))
        for (concept, objective), rows in effects.groupby(["concept", "objective"], sort=False)
    ]
    if unjudged:
        what = f"No judge sees {listed(unjudged)}, so that nothing can be said of its edits."
        found.append(Finding("Is every concept judged?", "caution", what, (), "effects"))
    return found


def _finding(concept: str, objective: str, rows: pd.DataFrame, alpha: float, picture: str | None) -> Finding:
    doses = [dose for _, dose in rows.groupby("dose", sort=True)]
    passed = [dose for dose in doses if succeeds(dose, objective, alpha)]
    verdict: Verdict = "found" if passed else "not found"
    shown = passed[0] if passed else max(doses, key=lambda dose: _reach(dose, objective))
    original = shown[shown["against"] == "original"].iloc[0]
    weights = count(int(original["count"]), "weight")
    verb = {"erase": "carry", "amplify": "hold back"}[objective]
    moved = f"{number(100 * original['target_against'], 3)} to {number(100 * original['target'], 3)} %"
    answer = f"{weights} of the highest scores: {concept} goes from {moved} of images that are to show it"
    if not passed:
        answer += f", which does not count: {'; '.join(_why_not(shown, objective, alpha))}"
    answer += "."
    details = tuple(_details(shown))
    change, low, high = (100 * float(original[f"target_{end}"]) for end in ("change", "low", "high"))
    estimate = Estimate(f"change of the share of images that show {concept}", change, low, high, "percentage points")
    question = f"Which weights {verb} {concept}?"
    return Finding(question, verdict, answer, details, "effects", FAMILY, _sight(original), estimate, picture)


def succeeds(dose: pd.DataFrame, objective: str, alpha: float) -> bool:
    """Return whether one edit does what it is for, and more than every edit of equally many weights."""
    return not _why_not(dose, objective, alpha)


def _why_not(dose: pd.DataFrame, objective: str, alpha: float) -> list[str]:
    original = dose[dose["against"] == "original"].iloc[0]
    others = dose[~dose["against"].isin(["original", "uce"])]
    reasons = []
    if objective == "erase" and not original["target_relative"] <= -ERASED:
        reasons.append(f"less than {number(100 * ERASED)} % of its rate is gone")
    if objective == "erase" and pd.isna(original["others_relative"]):
        reasons.append("no image says what else it takes away")
    elif objective == "erase" and original["others_relative"] < -KEPT:
        reasons.append(f"others fell by more than {number(100 * KEPT)} %")
    if others.empty:
        reasons.append("nothing else of as many weights was sampled beside it")
    sign = 1 if objective == "amplify" else -1
    beaten = (sign * others["target_change"] > 0) & (others["p_corrected"] <= alpha)
    beaten &= (others["target_low"] > 0) if objective == "amplify" else (others["target_high"] < 0)
    if not beaten.all():
        reasons.append(f"not told apart from weights {listed([_words(name) for name in others[~beaten]['against']])}")
    return reasons


def _words(baseline: str) -> str:
    return {
        "random": "at random",
        "random_rows": "at random in the same rows",
        "magnitude": "of the largest size",
        "gradient": "of the largest gradients",
        "wanda": "by size and input (Wanda)",
    }[baseline]


def _reach(dose: pd.DataFrame, objective: str) -> float:
    change = float(dose[dose["against"] == "original"].iloc[0]["target_change"])
    return change if objective == "amplify" else -change


def _details(dose: pd.DataFrame) -> Iterator[str]:
    original = dose[dose["against"] == "original"].iloc[0]
    if pd.notna(original["others_relative"]):
        value, low, high = (100 * float(original[f"others_relative{end}"]) for end in ("", "_low", "_high"))
        yield f"Other attributes, where they are asked for, change by {interval(value, low, high, '%')} of their rate."
    equal = dose[~dose["against"].isin(["original", "uce"])]
    if len(equal):
        ends = [100 * float(value) for value in (equal["target_change"].min(), equal["target_change"].max())]
        span = number(ends[0], 3) if ends[0] == ends[1] else f"{number(ends[0], 3)} to {number(ends[1], 3)}"
        kinds = listed([_words(str(name)) for name in equal["against"]])
        largest = p_value(float(equal["p_corrected"].max()))
        yield f"Beside as many weights {kinds}: {span} percentage points; the largest {largest}."
    for row in dose[dose["against"] == "uce"].to_dict("records"):
        value, low, high = (100 * float(row[f"target_{end}"]) for end in ("change", "low", "high"))
        yield (
            "Beside the closed-form edit of all cross-attention values (UCE): "
            f"{interval(value, low, high)} percentage points, {p_value(float(row['p_corrected']))}."
        )


def _sight(original: "pd.Series[float]") -> str:
    return f"Of {int(original['n'])} seeds; one more or less is {number(100 / original['n'], 2)} percentage points."
