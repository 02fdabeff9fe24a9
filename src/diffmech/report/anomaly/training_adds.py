"""What of a finding training adds: the network is told an atlas of healthy brains before its first step.

A network that never took a step already marks what the atlas does not expect. So nothing counts as found of the model
that the same networks, left as they begin and with seeds of their own, cannot be told from. Ours.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from diffmech.config.studies.anomaly import UNTRAINED
from diffmech.findings import Finding, Verdict
from diffmech.report.anomaly.inputs import Tables, one
from diffmech.report.wording import interval, number

LEAST_ROUNDS = 5  # trainings of a part, below which a difference may be one of two seeds
BEFORE = "the same networks before any training, which are told the atlas of healthy brains as well"


def beyond_untrained(finding: Finding, row: dict[str, Any] | None, *, also: Verdict = "found") -> Finding:
    """Return a finding with what training adds; no longer "found", or `also`, where that cannot be told from 0.

    `row` is that of the untrained networks in the measure that answers, or, where they were not asked that, in the one
    that says best whether the model is more than its atlas. Without it, or without an interval, nothing is found.
    """
    if row is None or not np.isfinite([row["difference_low"], row["difference_high"]]).all():
        return _open(finding, f"Nothing is known of {BEFORE}.", also=also)
    what = "average precision over pixels" if "pixel" in row["measure"] else "ROC AUC of slices"
    what += f", {row['matching']}" if "matching" in row else ""
    more = interval(row["difference"], row["difference_low"], row["difference_high"])
    said = f"{BEFORE[0].upper()}{BEFORE[1:]}, together have {number(row['value'])} in {what}; training adds {more}."
    if row["difference_low"] <= 0:
        return _open(finding, said, also=also)
    return replace(finding, details=(said, *finding.details))


def beyond_untrained_calibration(finding: Finding, tables: Tables, quantity: str) -> Finding:
    """Return a finding on a quantity of CALIBRATION, gated by that of untrained networks: intervals must not touch."""
    own, before = (one(tables.calibration, model=model, quantity=quantity) for model in ("model", UNTRAINED))
    if own is None or before is None or not np.isfinite([own["low"], before["high"]]).all():
        return _open(finding, f"Nothing is known of {BEFORE}.")
    said = f"{BEFORE[0].upper()}{BEFORE[1:]}, have {interval(before['value'], before['low'], before['high'])}."
    return _open(finding, said) if own["low"] <= before["high"] else replace(finding, details=(said, *finding.details))


def beyond_untrained_risk(finding: Finding, tables: Tables) -> Finding:
    """Return a finding on what doubt saves, gated by what that of untrained networks saves their decisions."""
    own, before = (one(tables.risk, doubt=doubt) for doubt in ("epistemic", UNTRAINED))
    if own is None or before is None or not np.isfinite([own["difference_low"], before["difference_high"]]).all():
        return _open(finding, f"Nothing is known of {BEFORE}.")
    saved = interval(before["difference"], before["difference_low"], before["difference_high"])
    said = f"{BEFORE[0].upper()}{BEFORE[1:]}, save {saved} of their own decisions."
    above, below = own["difference_low"] > before["difference_high"], own["difference_high"] < before["difference_low"]
    if above or below:
        return replace(finding, details=(said, *finding.details))
    return _open(finding, said, also="not found")


def beyond_seeds(finding: Finding, rounds: int) -> Finding:
    """Return a finding on a model, open where it was trained less than five times: it may be one of its seeds."""
    if rounds >= LEAST_ROUNDS or finding.verdict not in ("found", "not found"):
        return finding
    times = "once" if rounds == 1 else f"{rounds} times"
    trained = f"Trained {times}: another seed might give another difference."
    return _open(finding, trained, "Not decided.", also="not found")


def of_slices(tables: Tables, matching: str) -> dict[str, Any] | None:
    """Return the row of the untrained networks' ROC AUC of slices."""
    key = {"adjusted": False, "matching": matching, "measure": "roc_auc"}
    return one(tables.slice_measures, score=UNTRAINED, **key)


def of_pixels(tables: Tables, group: str) -> dict[str, Any] | None:
    """Return the row of the untrained networks' average precision over pixels."""
    return one(tables.pixel_measures, score=UNTRAINED, group=group, measure="pixel_average_precision")


def _open(finding: Finding, detail: str, said: str = "Not shown to be learned.", *, also: Verdict = "found") -> Finding:
    details = (detail, *finding.details)
    if finding.verdict not in ("found", also):
        return replace(finding, details=details)
    answer = finding.answer
    for decided in ("It does: ", "It does not: ", "It does. ", "It does harm. "):
        answer = answer.removeprefix(decided)
    answer = f"{said} {answer[0].upper()}{answer[1:]}"
    return replace(finding, verdict="cannot be told", answer=answer, details=details)
