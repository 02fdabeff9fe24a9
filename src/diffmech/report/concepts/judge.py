"""The section of the page on concepts about who looks at the images."""

import pandas as pd
from markupsafe import Markup

from diffmech.report import markup
from diffmech.report.wording import interval, limits, listed

SOURCES = {"held_out": "it never saw", "generated": "unedited images"}
CAPTION = (
    "Counts of images, with score intervals of their shares. Those that it never saw are like those that it "
    "learned from; unedited images are those that edits are compared with, each seed once where it was "
    "told and once where it was not. Balanced accuracy: mean of both shares, 0.5 by guessing."
)
WORTH = (
    "In generated images only what was told is known: where the judge does not see it, either may have failed. Images "
    "after an edit may be unlike both, and there nothing says how often the judge is right."
)


def judge_section(confusion: pd.DataFrame) -> markup.Section:
    """Return what the judge saw, told by told, with a warning where it cannot be told from guessing."""
    anchor, title = "judge", "What the judge is worth"
    if confusion.empty:
        return markup.section(anchor, title, markup.paragraph("No judge sees these concepts."))
    groups = confusion.groupby(["source", "attribute"], sort=False)
    rows = [_row(str(source), str(name), own) for (source, name), own in groups]
    columns = ["images", "attribute", "told and seen", "not told and not seen", "balanced accuracy"]
    parts = [markup.table(columns, rows, CAPTION), markup.paragraph(WORTH, "quiet")]
    return markup.section(anchor, title, *_warnings(confusion), *parts)


def _row(source: str, attribute: str, own: pd.DataFrame) -> list[str]:
    told, untold = (_right(own[(own["told"] == value) & (own["seen"] == value)]) for value in (True, False))
    first = own.iloc[0]
    known = pd.notna(first["balanced"])
    mean, low, high = (float(first[name]) for name in ("balanced", "balanced_low", "balanced_high"))
    return [SOURCES[source], attribute, told, untold, interval(mean, low, high) if known else "not known"]


def _right(row: pd.DataFrame) -> str:
    if row.empty:
        return "no such images"
    own = row.iloc[0]
    return f"{int(own['count'])} of {int(own['n'])} ({limits(100 * own['low'], 100 * own['high'])} %)"


def _warnings(confusion: pd.DataFrame) -> list[Markup]:
    of_images = confusion[confusion["source"] == "generated"]
    doubtful = of_images[of_images["balanced_low"] <= 0.5]["attribute"].drop_duplicates().tolist()
    if not doubtful:
        return []
    what = listed([str(name) for name in doubtful])
    return [markup.banner(f"Nothing shows that the judge sees more than chance in unedited images of: {what}.")]
