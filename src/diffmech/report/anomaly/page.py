"""The page of the study of anomalies: one file that opens from disk."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from diffmech.artifacts import atomic_path
from diffmech.config.anomaly_data import SyntheticBrains
from diffmech.config.studies.anomaly import AnomalyStudy
from diffmech.findings import write_findings
from diffmech.report import markup
from diffmech.report.anomaly import sections
from diffmech.report.anomaly.findings import findings
from diffmech.report.anomaly.inputs import Tables, read_tables
from diffmech.report.anomaly.pictures import COLUMNS, TILE, chosen, read_shown, rows_of
from diffmech.report.page import assemble
from diffmech.report.pictures import Picture, picture
from diffmech.report.references import read_references
from diffmech.report.wording import count

LEAD = (
    "A model of healthy brains says of every pixel what it expects and how sure it is; what it is surprised by is held "
    "against lesions that it was never told of. Every number stands beside what a score has that sees no image."
)
# Where no slice can be shown, the file is promised all the same.
NOTHING = picture(np.zeros((1, 1, 3), np.uint8), "Nothing", "No slice to show.")


def write_page(
    inputs: Mapping[str, Any],
    output: Path | str,
    findings_file: Path | str,
    sheet: Path | str,
    *,
    anomaly: AnomalyStudy,
) -> None:
    """Write the page, the file of its findings, and the sheet of slices that the front page shows.

    `inputs` are the tables by their names, `slices`, the `table` of splits, lists of `scores` and `predictions`, and
    the published figures as `references`. Raises StoreError for what is missing or not whole.
    """
    tables, references = read_tables(inputs), read_references(inputs["references"])
    shown = read_shown(inputs, anomaly)
    rows = {what: rows_of(shown, own, what) for what, own in chosen(shown, anomaly.examples)}
    pictures = [row for own in rows.values() for row in own]
    own_picture = Path(os.path.relpath(sheet, Path(findings_file).parent)).as_posix()
    found = list(findings(tables, anomaly, own_picture if pictures else None))
    parts = [
        markup.section("answers", "What was found", *(markup.finding(each) for each in found)),
        _slices(rows),
        sections.scores_of_slices(tables, anomaly),
        sections.scores_of_pixels(tables, anomaly),
        sections.ablations(tables),
        sections.certainty(tables),
        sections.heads(tables),
        sections.data(tables),
        sections.published(references, tables, anomaly),
        markup.section("settings", "Settings", markup.preformatted(_settings(anomaly))),
    ]
    contents = {part.anchor: part.title for part in parts}
    with atomic_path(sheet) as temporary:
        # one slice of each kind: more would be too small to see on the front page
        first = [own[0] for own in rows.values() if own]
        temporary.write_text(markup.sheet(first or [NOTHING], TILE), encoding="utf-8")
    write_findings(found, findings_file)
    with atomic_path(output) as temporary:
        temporary.write_text(assemble(anomaly.title, _lead(tables, anomaly), contents, parts), encoding="utf-8")


def _slices(rows: Mapping[str, list[Picture]]) -> markup.Section:
    parts = [markup.paragraph(f"From left to right: {', '.join(COLUMNS)}. Colours are full at the same value in all.")]
    if shown := [row for own in rows.values() for row in own]:
        parts.append(markup.gallery(shown, TILE))
    parts += [markup.paragraph(f"No {what}.", "quiet") for what, own in rows.items() if not own]
    return markup.section("pictures", "Slices", *parts)


def _lead(tables: Tables, anomaly: AnomalyStudy) -> str:
    tested = tables.data[tables.data["split"] == "test"]
    brains = "synthetic brains" if isinstance(anomaly.data, SyntheticBrains) else f"brains of {anomaly.data.kind}"
    return f"{LEAD} Here: {brains}, {count(int(tested['patients'].sum()), 'patient')} tested."


def _settings(anomaly: AnomalyStudy) -> str:
    return str(yaml.safe_dump({"anomaly": anomaly.canonical()}, sort_keys=False, allow_unicode=True, width=100))
