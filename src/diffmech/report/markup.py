"""HTML of the page's parts: text is escaped here and nowhere else."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffmech.findings import Finding
from diffmech.report.pictures import Picture


def escape(text: str) -> str:
    """Return plain text as HTML; a percent sign stays on the line of its number."""
    return html.escape(text, quote=True).replace(" %", "&nbsp;%")


# What stands above an answer, and the class of its card.
TAGS = {
    "found": ("Found", "found"),
    "not found": ("Not found", "absent"),
    "cannot be told": ("Cannot be told", "untold"),
    "no fair control": ("No fair control", "untold"),
    "caution": ("Keep in mind", "caution"),
}


def paragraph(text: str, kind: str = "") -> str:
    """Return one paragraph of plain text."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def section(anchor: str, title: str, *parts: str) -> str:
    """Return a section with its heading."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<section id="{anchor}" aria-labelledby="h-{anchor}"><h2'
        f' id="h-{anchor}">{escape(title)}</h2>\n{body}\n</section>'
    )


def facts(entries: Mapping[str, str]) -> str:
    """Return a list of names and values."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries.items())
    return f'<dl class="facts">{rows}</dl>'


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    numeric: Sequence[str] = (),
    wide: Sequence[str] = (),
) -> str:
    """Return a table of texts; columns in `numeric` are set flush right, columns in `wide` keep room."""
    right = [_class("n" if column in numeric else "wide" if column in wide else "") for column in columns]
    head = "".join(f'<th scope="col"{kind}>{escape(c)}</th>' for c, kind in zip(columns, right, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, right, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'{paragraph(caption, "quiet caption")}<div class="scroll" tabindex="0" role="region"'
        f' aria-label="{escape(caption)}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def chart(name: str, spec: Mapping[str, Any], caption: str) -> str:
    """Return a chart with its caption and its data as a table; the script draws it."""
    # "</" would end the script element early.
    text = json.dumps({k: v for k, v in spec.items() if k != "config"}, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("</", "<\\/")
    alternative = escape(str(spec.get("description", "")))
    return (
        f'<figure><div class="chart" data-spec="spec-{name}" role="img" aria-label="{alternative}"></div>'
        f"<figcaption>{escape(caption)}</figcaption>"
        f'<details class="data" data-spec="spec-{name}"><summary>Data of this chart as a table</summary>'
        '<div class="scroll" tabindex="0"></div></details>'
        f'<script type="application/json" id="spec-{name}">{text}</script></figure>'
    )


def image(shown: Picture, tile: int | None = None) -> str:
    """Return a picture with its words, enlarged without smoothing, at most `tile` CSS pixels per image."""
    limit = width_limit(shown, tile) if tile else ""
    caption = f"<figcaption>{escape(shown.caption)}</figcaption>" if shown.caption else ""
    return f"<figure>{plain_image(shown, limit)}{caption}</figure>"


def width_limit(shown: Picture, tile: int) -> str:
    """Return the attribute that draws each image of a picture at most `tile` CSS pixels wide."""
    return f' style="max-width:{tile * shown.tiles}px"'


def plain_image(shown: Picture, attributes: str = "") -> str:
    """Return the picture alone."""
    return (
        f'<img class="pixels" src="{shown.uri}" width="{shown.width}" height="{shown.height}" '
        f'alt="{escape(shown.alt)}"{attributes}>'
    )


def finding(answer: Finding) -> str:
    """Return one finding as a card."""
    details = "".join(f"<li>{escape(detail)}</li>" for detail in answer.details)
    tag, kind = TAGS[answer.verdict]
    notes = "".join(f'<p class="quiet">{escape(note)}</p>' for note in (answer.family, answer.sight) if note)
    return (
        f'<article class="finding {kind}"><div class="tag">{tag}</div><h3>{escape(answer.question)}</h3>'
        f'<p class="answer">{escape(answer.answer)}</p><ul>{details}</ul>{notes}'
        f'<p class="quiet"><a href="#{answer.section}">The evidence</a></p></article>'
    )


def folded(summary: str, body: str) -> str:
    """Return a part that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
