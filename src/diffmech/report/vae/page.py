"""The page of the study of VAEs: one file that opens from disk, with a chapter for each data set."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from diffmech.artifacts import atomic_path
from diffmech.config.studies.vae import VaeStudy
from diffmech.findings import Finding, write_findings
from diffmech.report import markup
from diffmech.report.markup import Section
from diffmech.report.page import assemble
from diffmech.report.pictures import Picture
from diffmech.report.references import read_references
from diffmech.report.vae import grids, published, sections, sections_inside, sections_scores
from diffmech.report.vae.findings import findings
from diffmech.report.vae.inputs import Tables, by_data, read_tables
from diffmech.report.wording import count, listed

LEAD = (
    "What single latents and units of variational autoencoders do, by changing factors of images, latents and "
    "activations, and how well the factors are told apart. Each effect stands beside what chance or untrained "
    "networks give."
)
SHEET = 64  # pixels of an image in the picture of the front page
MOST_ROWS = 8  # of it
# No finding shows this one, but the file is promised.
NOTHING = grids.row(np.zeros((1, 1, 1, 1), np.uint8), "Nothing", "No latent can be traversed.")


def write_page(
    inputs: Mapping[str, Any],
    output: Path | str,
    findings_file: Path | str,
    picture: Path | str,
    *,
    vae: VaeStudy,
) -> None:
    """Write the page, the file of its findings, and the `picture` of traversals that the front page shows.

    `inputs` has, for each data set, every table of all its VAEs, as `sprites__models`, lists of files as
    `sprites__scores`, `sprites__edges` and `sprites__codes`, and the published figures as `references`.
    Raises StoreError for what is missing or not whole.
    """
    tables = {name: read_tables(own) for name, own in by_data(inputs, vae.data).items()}
    references = read_references(inputs["references"])
    shown = Path(os.path.relpath(picture, Path(findings_file).parent)).as_posix()
    found: list[Finding] = []
    parts: list[Section] = []
    sheet: list[Picture] = []
    for data, own in tables.items():
        stores = grids.first_stores(own.codes, vae)
        rows = [] if sheet else _sheet(stores, own, vae)
        here = list(findings(data, own, vae, shown if rows else None))
        sheet, found = sheet or rows, found + here
        parts += _chapter(data, own, stores, here, vae)
    parts.append(published.section(references, tables, vae))
    parts.append(markup.section("settings", "Settings", markup.preformatted(_settings(vae))))
    contents = {part.anchor: part.title for part in parts}
    with atomic_path(picture) as temporary:
        temporary.write_text(markup.sheet(sheet or [NOTHING], SHEET), encoding="utf-8")
    write_findings(found, findings_file)
    with atomic_path(output) as temporary:
        temporary.write_text(assemble(vae.title, _lead(vae), contents, parts), encoding="utf-8")


def _chapter(
    data: str, tables: Tables, stores: dict[str, Any], found: Sequence[Finding], vae: VaeStudy
) -> list[Section]:
    """Return the sections of a data set, which name it where there are several."""
    parts = [
        sections.answers(data, list(found)),
        sections.learned(data, tables, stores, vae),
        *sections.latents(data, tables, stores, vae),
        sections.effects(data, tables, vae),
        *sections_inside.sections(data, tables, stores, vae),
        *sections_scores.sections(data, tables),
    ]
    if len(vae.data) == 1:
        return parts
    return [Section(part.anchor, f"{data}: {part.title[0].lower()}{part.title[1:]}", part.parts) for part in parts]


def _sheet(stores: dict[str, Any], tables: Tables, vae: VaeStudy) -> list[Picture]:
    """Return the traversals of the first seed of the first family that has any."""
    for family, store in stores.items():
        if rows := grids.traversals(store, tables, family, vae):
            return rows[:MOST_ROWS]
    return []


def _lead(vae: VaeStudy) -> str:
    made = f"{count(len(vae.families), 'family', 'families')} ({listed(list(vae.families))})"
    return f"{LEAD} Here: {made}, {count(len(vae.seeds), 'seed')} each, on {listed(list(vae.data))}."


def _settings(vae: VaeStudy) -> str:
    return str(yaml.safe_dump({"vae": vae.canonical()}, sort_keys=False, allow_unicode=True, width=100))
