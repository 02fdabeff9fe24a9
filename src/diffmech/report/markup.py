"""The parts of a page, from the templates beside this module: text goes in, and the engine alone escapes it.

What these functions return is marked as HTML, and only that is taken into a page as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from diffmech.findings import Finding
from diffmech.report.pictures import Picture

TEMPLATES = "diffmech.report.templates"  # by this name the templates belong to the code that a rule depends on

# What stands above an answer, and the class of its card.
TAGS = {
    "found": ("Found", "found"),
    "not found": ("Not found", "absent"),
    "cannot be told": ("Cannot be told", "untold"),
    "no fair control": ("No fair control", "untold"),
    "caution": ("Keep in mind", "caution"),
}


@dataclass(frozen=True)
class Section:
    """A section of a page: its anchor, its heading and its parts, of which empty ones are left out."""

    anchor: str
    title: str
    parts: tuple[Markup, ...]

    def __html__(self) -> str:
        return _part("section", self)

    def __str__(self) -> str:
        return self.__html__()


def unbroken(text: str) -> str:
    """Return text in which every percent sign stays on the line of its number."""
    return str(text).replace(" %", "\u00a0%")


@cache
def environment() -> Environment:
    """Return the one environment of all pages."""
    folder = resources.files(TEMPLATES)
    made = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    made.filters["unbroken"] = unbroken
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return made


def paragraph(text: str, kind: str = "") -> Markup:
    """Return one paragraph."""
    return _part("paragraph", text, kind)


def heading(text: str, level: int = 3) -> Markup:
    """Return a heading inside a section."""
    return _part("heading", text, level)


def section(anchor: str, title: str, *parts: Markup) -> Section:
    """Return a section with its heading."""
    return Section(anchor, title, parts)


def block(kind: str, *parts: Markup) -> Markup:
    """Return parts that are laid out together, in the way of the class `kind`."""
    return _part("block", kind, parts)


def banner(text: str) -> Markup:
    """Return a remark that nobody should miss."""
    return _part("banner", text)


def folded(summary: str, body: Markup) -> Markup:
    """Return a part that opens on demand."""
    return _part("folded", summary, body)


def preformatted(text: str) -> Markup:
    """Return text as it is, line by line."""
    return _part("preformatted", text)


def facts(entries: Mapping[str, str]) -> Markup:
    """Return a list of names and values."""
    return _part("facts", entries)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str,
    numeric: Sequence[str] = (),
    wide: Sequence[str] = (),
) -> Markup:
    """Return a table of texts; columns in `numeric` are set flush right, columns in `wide` keep room."""
    kinds = ["n" if column in numeric else "wide" if column in wide else "" for column in columns]
    return _part("table", columns, list(rows), caption, kinds)


def chart(name: str, spec: Mapping[str, Any], caption: str) -> Markup:
    """Return a chart with its caption and its data as a table; the script of the page draws it in its theme."""
    return _part("chart", name, {key: value for key, value in spec.items() if key != "config"}, caption)


def figure(picture: Picture, tile: int | None = None) -> Markup:
    """Return a picture with its words, enlarged without smoothing, at most `tile` CSS pixels per image."""
    return _part("figure", picture, tile)


def gallery(pictures: Sequence[Picture], tile: int) -> Markup:
    """Return one row per picture, its words before it, at most `tile` CSS pixels per image."""
    return _part("gallery", pictures, tile)


def sheet(rows: Sequence[Picture], tile: int) -> Markup:
    """Return an SVG of several rows of images, each after its caption, with `tile` pixels per image.

    Words are grey, which can be read on a light and on a dark page.
    """
    return _part("sheet", rows, tile, 8 * max(len(row.caption) for row in rows))


def finding(answer: Finding) -> Markup:
    """Return one finding as a card."""
    return _part("finding", answer, *TAGS[answer.verdict])


def _part(name: str, *values: Any) -> Markup:
    return Markup(getattr(environment().get_template("parts.html").module, name)(*values))
