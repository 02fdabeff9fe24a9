"""The front page as its rule sees it: a card for the main study, and one for every further study of the package.

A further study has its page and its findings where its name says. Of one that config.yaml does not ask for, the card
says so, and which command runs it; where it was run all the same, by its name or by an earlier config.yaml, what it
made is shown as it is and never made anew.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from diffmech.config.further import further_sections
from diffmech.findings import StudyCard
from diffmech.workflow.fingerprints import MAIN_STUDY
from diffmech.workflow.study import Study

FRONT_PAGE = "results/index.html"
MAIN_PAGE = "results/report.html"
MAIN_FINDINGS = "results/report/findings.json"
PAGE = "results/{study}.html"
FINDINGS = "results/{study}/findings.json"


def further_pages(study: Study) -> list[str]:
    """Return the pages of the further studies that are asked for."""
    return [PAGE.format(study=name) for name, asked in study.further.items() if asked]


def further_findings(study: Study) -> list[str]:
    """Return the findings of the further studies that are asked for."""
    return [FINDINGS.format(study=name) for name, asked in study.further.items() if asked]


def cards(study: Study) -> list[dict[str, str]]:
    """Return what the front page says of each study, in plain values as rules track them; '' where there is nothing.

    A study that is not asked for is no input of the front page; `digest` tells what it made by now.
    """
    main = {"name": MAIN_STUDY, "title": study.config.report.title, "note": ""}
    main |= {"page": MAIN_PAGE, "findings": MAIN_FINDINGS}
    return [main, *(_card(study, name, section.title) for name, section in further_sections().items())]


def restore(plain: Sequence[Mapping[str, str]], placed: Callable[[str], str] = str) -> list[StudyCard]:
    """Return the cards that `cards` gave in plain values; `placed` says where their files are (`Job.placed`)."""
    return [
        StudyCard(
            card["name"],
            card["title"],
            page=Path(placed(card["page"])) if card["page"] else None,
            findings=Path(placed(card["findings"])) if card["findings"] else None,
            note=card["note"],
        )
        for card in plain
    ]


def _card(study: Study, name: str, title: str) -> dict[str, str]:
    page, findings = PAGE.format(study=name), FINDINGS.format(study=name)
    card = {"name": name, "title": title, "page": page, "findings": findings, "note": ""}
    if study.further[name]:
        return card
    why = f"not asked for: config.yaml has no section {name}"
    if Path(page).is_file() and Path(findings).is_file():
        digest = hashlib.sha256(Path(findings).read_bytes()).hexdigest()
        return card | {"note": f"{why}; this is from when it was last run", "digest": digest}
    why += f"; `snakemake --cores 2 {name}` runs it with its defaults, and `make everything` shows it here then"
    return card | {"page": "", "findings": "", "note": why}
