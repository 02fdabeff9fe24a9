"""The page on concepts: one file that opens from disk."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup

from diffmech.artifacts import atomic_path, open_store
from diffmech.concepts.edits import TARGET
from diffmech.concepts.tables import ATTENTION, EFFECTS, FIDELITY, HEADS, JUDGED, MAP, OVERLAP, PROBES, QUALITY, RATES
from diffmech.config.studies.concepts import ConceptsStudy, Objective
from diffmech.findings import write_findings
from diffmech.report import markup
from diffmech.report.concepts import charts, heads, inside, probes
from diffmech.report.concepts.findings import findings
from diffmech.report.concepts.judge import judge_section
from diffmech.report.drawing import specification
from diffmech.report.page import assemble
from diffmech.report.pictures import Picture, colour_pixels, mosaic, picture
from diffmech.report.references import read_references
from diffmech.report.wording import count, interval, number, p_value

CONTENTS = {
    "answers": "What was found",
    "images": "The same seeds",
    "effects": "What edits change",
    "elsewhere": "What else changes",
    "probes": "Destroyed or avoided",
    "attention": "Attention",
    "where": "Where and when",
    "heads": "In which heads",
    "fidelity": "Whether scores predict",
    "judge": "What the judge is worth",
    "published": "Published figures",
    "settings": "Settings",
}
LEAD = (
    "Weights of one denoiser, scored by what a concept's objective loses without them; those of the highest scores are "
    "set to zero, and images of the same seeds are sampled again, beside edits of equally many weights."
)
SHOWN = (("own", ""), ("random", "at random"))
TILE = 70  # CSS pixels of one image


def write_page(
    inputs: Mapping[str, Any],
    output: Path | str,
    findings_file: Path | str,
    pictures: Sequence[Path | str],
    *,
    concepts: ConceptsStudy,
) -> None:
    """Write the page, the file of its findings, and for each concept the `pictures` that those of the front page show.

    `inputs` are the tables rates, effects, quality, confusion, probes, attention, heads and overlap, lists of files
    maps, fidelities, originals, evaluations and probed, and the published figures as `references`. Raises StoreError
    for what is missing or not whole.
    """
    rates, effects, quality = (
        table.read(inputs[name]) for table, name in ((RATES, "rates"), (EFFECTS, "effects"), (QUALITY, "quality"))
    )
    scores = pd.concat([MAP.read(path) for path in inputs["maps"]])
    predicted = pd.concat([FIDELITY.read(path) for path in inputs["fidelities"]])
    returned, attention = PROBES.read(inputs["probes"]), ATTENTION.read(inputs["attention"])
    of_heads, overlap = HEADS.read(inputs["heads"]), OVERLAP.read(inputs["overlap"])
    references = read_references(inputs["references"])
    attributes = {name: concept.seen(name) for name, concept in concepts.concepts.items()}
    judged = set(effects["concept"])
    alpha = concepts.evaluation.alpha
    objective: Objective = "erase" if "erase" in concepts.edits else "amplify"
    shown = {(name, objective): Path(path) for name, path in zip(concepts.concepts, pictures, strict=True)}
    found = findings(
        effects,
        [name for name in attributes if name not in judged],
        alpha=alpha,
        pictures={
            key: Path(os.path.relpath(path, Path(findings_file).parent)).as_posix() for key, path in shown.items()
        },
    )
    found += [*probes.findings(returned), *inside.findings(attention, alpha=alpha)]
    found += heads.findings(overlap, alpha=alpha)
    published = float(next(entry["value"] for entry in references if entry["measured"] == "fidelity"))
    objectives = list(concepts.edits)

    def chart(name: str, drawn: Any, caption: str) -> Markup:
        return markup.chart(name, specification(drawn), caption)

    galleries = _galleries(inputs, concepts.evaluation.examples)
    parts = [
        markup.section("answers", "What was found", *(markup.finding(each) for each in found)),
        markup.section("images", "The same seeds, side by side", *_shown(galleries)),
        markup.section(
            "effects",
            "What edits change",
            *[
                part
                for objective in objectives
                for part in (
                    markup.heading(objective.capitalize()),
                    chart(
                        f"dose_{objective}",
                        charts.dose_response(rates, objective, attributes),
                        "Share of images in which the judge sees the concept, where they are to show it, over the "
                        "number of weights that are really changed. Bands: score intervals; at random, bootstrap over "
                        "seeds.",
                    ),
                    chart(
                        f"against_{objective}",
                        charts.against_baselines(effects, objective),
                        "That share after the edit minus the share after another edit of the same seeds: of equally "
                        "many weights, of none, or of all cross-attention values. Bootstrap over seeds.",
                    ),
                )
            ],
        ),
        markup.section(
            "elsewhere",
            "What else changes",
            *[
                chart(
                    f"retention_{objective}",
                    charts.retention(rates, objective),
                    "Change of the share of images that show an attribute among those told to have it, at the largest "
                    "dose; the concept itself on the diagonal.",
                )
                for objective in objectives
            ],
            _quality(quality),
        ),
        probes.section(returned, [_open(path) for path in inputs["probed"]], concepts.evaluation.examples, TILE),
        inside.section(attention, alpha),
        markup.section(
            "where",
            "Where and when weights carry a concept",
            *[
                chart(
                    f"map_{objective}",
                    charts.where_and_when(scores, objective),
                    "Sums of the scores of all weights of a group and layer, positive ones and negative ones apart, in "
                    "windows of timesteps, as shares of all scores of the concept.",
                )
                for objective in objectives
            ],
            markup.paragraph(_cost(scores)),
        ),
        heads.section(of_heads, overlap),
        markup.section(
            "fidelity",
            "Whether scores predict",
            chart(
                "fidelity",
                charts.fidelity(predicted, published),
                f"Over {count(concepts.fidelity.masks, 'random set')} of weights set to zero: predicted and "
                "actual fall of the objective, on the very same points. Bootstrap over sets. Dashed: published for CAD "
                "at another model and other sets.",
            ),
        ),
        judge_section(JUDGED.read(inputs["confusion"])),
        markup.section("published", "Published figures", _published(references, effects, predicted)),
        markup.section("settings", "Settings", markup.preformatted(_settings(concepts))),
    ]
    for key, path in shown.items():
        with atomic_path(path) as temporary:
            temporary.write_text(markup.sheet(galleries[key], TILE), encoding="utf-8")
    write_findings(found, findings_file)
    with atomic_path(output) as temporary:
        temporary.write_text(assemble(concepts.title, LEAD, CONTENTS, parts), encoding="utf-8")


def _galleries(inputs: Mapping[str, Any], shown: int) -> dict[tuple[str, Objective], list[Picture]]:
    """Return, for each concept and objective, a row of images per edit, all of the same seeds."""
    originals = {store.attrs["concept"]: store for store in map(_open, inputs["originals"])}
    edits: dict[tuple[str, Objective], list[Any]] = {}
    for store in map(_open, inputs["evaluations"]):
        edits.setdefault((store.attrs["concept"], store.attrs["objective"]), []).append(store)
    found = {}
    for (concept, objective), stores in edits.items():
        way = TARGET[objective]
        rows = [("unedited", _images(originals[concept], "original", way))]
        for store in sorted(stores, key=lambda store: int(store.attrs["count"])):
            weights = count(int(store.attrs["count"]), "weight")
            rows += [(f"{weights} {words}".strip(), _images(store, edit, way)) for edit, words in SHOWN]
        found[concept, objective] = [_row(words, images[:shown]) for words, images in rows if images is not None]
    return found


def _shown(galleries: Mapping[tuple[str, Objective], list[Picture]]) -> Iterator[Markup]:
    for (concept, objective), rows in galleries.items():
        asked = "asked for it" if TARGET[objective] == "asked" else "asked for it weakly"
        yield markup.heading(f"{objective.capitalize()} {concept}")
        yield markup.paragraph(f"All images are {asked}; one column is one seed.", "quiet")
        yield markup.gallery(rows, TILE)


def _row(words: str, images: np.ndarray) -> Picture:
    tiles = list(colour_pixels(images))
    return picture(mosaic(tiles, len(tiles)), f"{len(tiles)} images, {words}", words, tiles=len(tiles))


def _open(path: Path | str) -> Any:
    return open_store(path).to_dataset()


def _images(store: Any, edit: str, way: str) -> np.ndarray | None:
    """Return the images `(image, channel, y, x)` of the first draw of one edit, None where there are none."""
    for row, (kind, how) in enumerate(zip(store["edit"].values, store["way"].values, strict=True)):
        if (str(kind), str(how)) == (edit, way):
            return np.asarray(store["images"][row].values)
    return None


def _quality(quality: pd.DataFrame) -> Markup:
    rows = []
    for _, own in quality.groupby(["concept", "objective", "count"], sort=False):
        first = own.iloc[0]
        cells = {row["measure"]: row for row in own.to_dict("records")}
        distances = [
            f"{number(cells[name]['change'])} on {number(cells[name]['original'])}, {p_value(cells[name]['p'])}"
            if name in cells
            else "no features"
            for name in ("fd", "kid")
        ]
        likeness = cells["ssim"]
        alike = interval(likeness["change"], likeness["change_low"], likeness["change_high"])
        rows.append([first["concept"], first["objective"], f"{int(first['count']):,}", *distances, alike])
    columns = ["concept", "objective", "weights", "Fréchet distance", "kernel distance", "likeness (SSIM) less 1"]
    caption = (
        "Images that were not asked for the concept: how much farther they are from clean images of other seeds than "
        "the unedited ones (the change, on the distance of these; p by swapping images at random, not corrected), and "
        "how like these they are. Distances are taken in the features of the judge."
    )
    return markup.table(columns, rows, caption, ["weights"])


def _cost(scores: pd.DataFrame) -> str:
    steps = int(scores["guided_steps"].max())
    restarted = steps * (steps + 1) // 2
    return (
        f"One trajectory of {steps} guided steps per image gave the points of all scores; sampled anew up to every "
        f"timestep, as the released code of CAD does it, the same points would take {restarted:,}."
    )


def _published(references: Sequence[Mapping[str, Any]], effects: pd.DataFrame, predicted: pd.DataFrame) -> Markup:
    first = predicted[predicted["order"] == "first"]["r"]
    erased = effects[(effects["objective"] == "erase") & (effects["against"] == "original")]
    measured = {
        "fidelity": f"{number(first.min())} to {number(first.max())}" if len(first) else "not checked",
        "target": f"{number(erased['target_against'].mean())} unedited; {number(erased['target'].min())} to "
        f"{number(erased['target'].max())} after erasing"
        if len(erased)
        else "nothing judges them",
    }
    rows = [
        [
            str(entry["name"]),
            str(entry["value"]),
            f"{entry['source']} ({entry['version']}): {entry['setting']}",
            measured[entry["measured"]],
        ]
        for entry in references
    ]
    columns = ["figure", "published", "where", "measured here"]
    return markup.table(columns, rows, "Other models and other concepts: no comparison of methods.", (), columns[2:])


def _settings(concepts: ConceptsStudy) -> str:
    return str(yaml.safe_dump({"concepts": concepts.canonical()}, sort_keys=False, allow_unicode=True, width=100))
