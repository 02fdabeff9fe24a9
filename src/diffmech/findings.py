"""The form of a finding: a question, its answer and what stands behind it. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

# "cannot be told": the data cannot decide it, by too few images, copies or controls or by an interval that holds both
# answers; what it would take is said. "no fair control": nothing to compare with. "caution": no question of found or
# not.
Verdict = Literal["found", "not found", "cannot be told", "no fair control", "caution"]


@dataclass(frozen=True)
class Finding:
    """One answer: the question, the verdict, a headline and the sentences behind it; `section` is its anchor.

    `family` names the tests over which "found" is corrected; `sight` says what could have been seen: the smallest
    effect that is found four times in five, or why nothing could be.
    """

    question: str
    verdict: Verdict
    answer: str
    details: tuple[str, ...]
    section: str
    family: str = ""
    sight: str = ""
