"""The front page over all studies: what each found, in sentences, and the way to its own page."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from diffmech.artifacts import atomic_path
from diffmech.errors import StoreError
from diffmech.findings import Estimate, Finding, StudyCard, read_findings
from diffmech.report.markup import TAGS, environment
from diffmech.report.page import POLICY
from diffmech.report.style import CSS
from diffmech.report.wording import count, interval, listed

MOST_PICTURES = 2  # of one study
MOST_BYTES = 8_000_000  # as any page: a browser opens it at once, and it can be mailed
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class _Entry:
    finding: Finding
    tag: str
    kind: str
    estimate: str


@dataclass(frozen=True)
class _Illustration:
    path: Path
    uri: str
    words: str
    caption: str


@dataclass(frozen=True)
class _Study:
    name: str
    title: str
    link: str
    findings: tuple[_Entry, ...]
    pictures: tuple[_Illustration, ...]
    note: str


def write_front_page(studies: Sequence[StudyCard], output: Path, *, title: str) -> None:
    """Write the page that has a card for every study; links are relative, pictures are inside the file.

    Raises StoreError for findings, or a picture that they name, that are missing or not whole, and for pictures that
    make it larger than a page may be.
    """
    shown = [_study(card, Path(output).parent) for card in studies]
    ran = [study.title for study in shown if study.link]
    rest = len(shown) - len(ran)
    lead = f"What {count(len(ran), 'study', 'studies')} found: {listed(ran)}." if ran else "No study was run yet."
    lead += f" {count(rest, 'other was', 'others were').capitalize()} not run." if ran and rest else ""
    page = (
        environment()
        .get_template("front_page.html")
        .render(policy=POLICY, title=title, lead=lead, studies=shown, css=Markup(CSS))
    )
    _check_size(page, output, [picture for study in shown for picture in study.pictures])
    with atomic_path(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _study(card: StudyCard, folder: Path) -> _Study:
    if card.page is None or card.findings is None:
        return _Study(card.name, card.title, "", (), (), card.note)
    findings = read_findings(card.findings)
    entries = tuple(_Entry(each, *TAGS[each.verdict], _estimate(each.estimate)) for each in findings)
    # What was found is shown before what was not.
    pictured = sorted((each for each in findings if each.picture), key=lambda each: each.verdict != "found")
    pictures = tuple(_illustration(each, Path(card.findings).parent) for each in pictured[:MOST_PICTURES])
    link = quote(Path(os.path.relpath(card.page, folder)).as_posix())
    return _Study(card.name, card.title, link, entries, pictures, card.note)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.what}: {interval(estimate.value, estimate.low, estimate.high, estimate.unit)}"


def _illustration(finding: Finding, folder: Path) -> _Illustration:
    path = folder / str(finding.picture)
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise StoreError(f"{path}: the picture of a finding is neither SVG nor PNG; have its study draw one of them")
    try:
        text = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise StoreError(
            f"{path}: the picture of a finding is missing ({error.strerror}); run its study again"
        ) from error
    words = f"{finding.question} {finding.answer}"
    return _Illustration(path, f"data:{kind};base64,{text}", words, finding.question)


def _check_size(page: str, output: Path, pictures: Sequence[_Illustration]) -> None:
    size = len(page.encode())
    if size > MOST_BYTES:
        sizes = [f"{picture.path} {len(picture.uri) / 1e6:.1f} MB" for picture in pictures]
        raise StoreError(
            f"{output}: would be {size / 1e6:.1f} MB, above the {MOST_BYTES / 1e6:.0f} MB of a page; it needs "
            f"smaller pictures ({listed(sizes) or 'it has none'})"
        )
