"""The form of a finding, and of a study on the front page: what a study found, for its own page and for others.

Imports nothing heavy: rules and the front page read findings without the tables that they were made from.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from diffmech.errors import StoreError

# "cannot be told": the data cannot decide it, by too few images, copies or controls or by an interval that holds both
# answers; what it would take is said. "no fair control": nothing to compare with. "caution": no question of found or
# not.
Verdict = Literal["found", "not found", "cannot be told", "no fair control", "caution"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, and what it is a number of; `unit` is empty for a ratio.

    ValueError where one of the three is not finite: what has no number or no interval has no estimate.
    """

    what: str
    value: float
    low: float
    high: float
    unit: str = ""

    def __post_init__(self) -> None:
        """Check that there is a number."""
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise ValueError(f"{name} of the estimate of {self.what!r} is {number!r}, expected a finite number")


@dataclass(frozen=True)
class Finding:
    """One answer: the question, the verdict, a headline and the sentences behind it; `section` is its anchor.

    `family` names the tests over which "found" is corrected; `sight` says what could have been seen: the smallest
    effect that is found four times in five, or why nothing could be. `estimate` is the number that the answer rests
    on, `picture` the file that shows it, SVG or PNG, as seen from the folder of the file of findings.
    """

    question: str
    verdict: Verdict
    answer: str
    details: tuple[str, ...]
    section: str
    family: str = ""
    sight: str = ""
    estimate: Estimate | None = None
    picture: str | None = None


@dataclass(frozen=True)
class StudyCard:
    """A study on the front page: its page and its file of findings, None where it was not run.

    `note` is what else there is to say: which command runs it, or that config.yaml no longer asks for what is shown.
    It may have commands between backticks.
    """

    name: str
    title: str
    page: Path | None
    findings: Path | None
    note: str


def write_findings(findings: Sequence[Finding], path: Path | str) -> None:
    """Write the findings of a study, in their order."""
    from diffmech.artifacts import write_json

    write_json(path, {"findings": [asdict(finding) for finding in findings]})


def read_findings(path: Path | str) -> list[Finding]:
    """Read the findings of a study; StoreError for a file that is missing or holds something else."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))["findings"]
        return [_finding(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: holds no findings ({' '.join(str(error).split())}); run its study again") from error


def _finding(entry: dict[str, Any]) -> Finding:
    if entry["verdict"] not in get_args(Verdict):
        raise ValueError(f"unknown verdict {entry['verdict']!r}")
    for name in ("question", "answer", "section"):
        if not isinstance(entry[name], str):
            raise ValueError(f"{name} is {entry[name]!r}, expected words")
    estimate = entry["estimate"]
    parts = {"details": tuple(entry["details"]), "estimate": Estimate(**estimate) if estimate else None}
    return Finding(**entry | parts)
