"""The front page over all studies: a card each, with a link to its page or why there is none. Ours."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from diffmech.artifacts import atomic_path
from diffmech.findings import StudyCard


def write_front_page(studies: Sequence[StudyCard], output: Path, *, title: str) -> None:
    """Write the page; a study without a page is named with the reason."""
    with atomic_path(output) as unfinished:
        cards = "\n".join(_card(study, output.parent) for study in studies)
        unfinished.write_text(
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
            f"<h1>{escape(title)}</h1>\n{cards}\n</html>\n",
            encoding="utf-8",
        )


def _card(study: StudyCard, folder: Path) -> str:
    name, heading, text = escape(study.name), escape(study.title), ""
    if study.page is None:
        text = f"<p>{escape(study.why_absent)}</p>"
    else:
        heading = f'<a href="{escape(os.path.relpath(study.page, folder))}">{heading}</a>'
    return f'<section id="{name}"><h2>{heading}</h2>{text}</section>'
