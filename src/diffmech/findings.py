"""What every study says of itself on the front page. Imports nothing heavy. Ours."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyCard:
    """One study on the front page: its page and its findings, or why it has none."""

    name: str
    title: str
    page: Path | None
    findings: Path | None
    why_absent: str
