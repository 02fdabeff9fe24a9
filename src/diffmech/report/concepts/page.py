"""The page on concepts: one file that opens from disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup

from diffmech.artifacts import atomic_path, open_store
from diffmech.concepts.tables import EFFECTS, FIDELITY, MAP, QUALITY, RATES
from diffmech.config.studies.concepts import ConceptsStudy
from diffmech.errors import StoreError
from diffmech.findings import write_findings
from diffmech.report import markup
from diffmech.report.concepts import charts
from diffmech.report.concepts.findings import findings
from diffmech.report.drawing import specification
from diffmech.report.page import assemble
from diffmech.report.pictures import colour_pixels, mosaic, picture
from diffmech.report.wording import count, interval, number, p_value

CONTENTS = {
    "answers": "What was found",
    "images": "The same seeds",
    "effects": "What edits change",
    "elsewhere": "What else changes",
    "where": "Where and when",
    "fidelity": "Whether scores predict",
    "published": "Published figures",
    "settings": "Settings",
}
LEAD = (
    "Weights of one denoiser, scored by what a concept's objective loses without them; those of the highest scores are "
    "set to zero, and images of the same seeds are sampled again, beside edits of equally many weights."
)
SHOWN = (("original", "unedited"), ("own", "edited"), ("random", "as many at random"))
TILE = 70  # CSS pixels of one image


def write_page(
    inputs: Mapping[str, Any], output: Path | str, findings_file: Path | str, *, concepts: ConceptsStudy
) -> None:
    """Write the page and the file of its findings.

    `inputs` are the tables rates, effects and quality, lists of files maps, fidelities, originals and evaluations, and
    the published figures as `references`. Raises StoreError for what is missing or not whole.
    """
    rates, effects, quality = (
        table.read(inputs[name]) for table, name in ((RATES, "rates"), (EFFECTS, "effects"), (QUALITY, "quality"))
    )
    scores = pd.concat([MAP.read(path) for path in inputs["maps"]])
    predicted = pd.concat([FIDELITY.read(path) for path in inputs["fidelities"]])
    references = read_references(inputs["references"])
    attributes = {name: concept.seen(name) for name, concept in concepts.concepts.items()}
    judged = set(effects["concept"])
    found = findings(effects, [name for name in attributes if name not in judged], alpha=concepts.evaluation.alpha)
    published = float(next(entry["value"] for entry in references if entry["measured"] == "fidelity"))
    objectives = list(concepts.edits)

    def chart(name: str, drawn: Any, caption: str) -> Markup:
        return markup.chart(name, specification(drawn), caption)

    shown = concepts.evaluation.examples
    parts = [
        markup.section("answers", "What was found", *(markup.finding(each) for each in found)),
        markup.section("images", "The same seeds, side by side", *_pictures(inputs, shown)),
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
        markup.section(
            "fidelity",
            "Whether scores predict",
            chart(
                "fidelity",
                charts.fidelity(predicted, published),
                f"Over {count(int(predicted['masks'].max()), 'random set')} of weights set to zero: predicted and "
                "actual fall of the objective, on the very same points. Bootstrap over sets. Dashed: published for CAD "
                "at another model and other sets.",
            ),
        ),
        markup.section("published", "Published figures", _published(references, effects, predicted)),
        markup.section("settings", "Settings", markup.preformatted(_settings(concepts))),
    ]
    write_findings(found, findings_file)
    with atomic_path(output) as temporary:
        temporary.write_text(assemble(concepts.title, LEAD, CONTENTS, parts), encoding="utf-8")


def read_references(path: Path | str) -> list[dict[str, Any]]:
    """Return the published figures. Raises StoreError where the file holds none."""
    try:
        return list(yaml.safe_load(Path(path).read_text(encoding="utf-8"))["published"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise StoreError(f"{path}: holds no published figures ({' '.join(str(error).split())}); restore it") from error


def _pictures(inputs: Mapping[str, Any], shown: int) -> list[Markup]:
    parts: list[Markup] = []
    originals = {store.attrs["concept"]: store for store in map(_open, inputs["originals"])}
    for store in map(_open, inputs["evaluations"]):
        about = store.attrs
        way = charts.WAYS[about["objective"]]
        rows = []
        for edit, words in SHOWN:
            images = _images(store if edit != "original" else originals[about["concept"]], edit, way)
            if images is not None:
                tiles = list(colour_pixels(images[:shown]))
                alt = f"{len(tiles)} images, {words}"
                rows.append(picture(mosaic(tiles, len(tiles)), alt, words, tiles=len(tiles)))
        asked = "asked for it" if way == "asked" else "asked weakly"
        parts += [
            markup.heading(
                f"{about['objective'].capitalize()} {about['concept']}, {count(int(about['count']), 'weight')}"
            ),
            markup.paragraph(f"All {asked}; one column is one seed.", "quiet"),
            markup.gallery(rows, TILE),
        ]
    return parts


def _open(path: Path | str) -> Any:
    return open_store(path).to_dataset()


def _images(store: Any, edit: str, way: str) -> np.ndarray | None:
    """Return the images `(image, channel, y, x)` of the first draw of one edit, None where there are none."""
    for row, (kind, how) in enumerate(zip(store["edit"].values, store["way"].values, strict=True)):
        if (str(kind), str(how)) == (edit, way):
            return np.asarray(store["images"][row].values)
    return None


def _quality(quality: pd.DataFrame) -> Markup:
    names = {"fd": "Fréchet distance", "kid": "kernel distance", "ssim": "likeness (SSIM)"}
    rows = []
    for row in quality.to_dict("records"):
        change = (
            interval(row["change"], row["change_low"], row["change_high"])
            if row["measure"] == "ssim"
            else f"{number(row['change'])}, {p_value(row['p'])}"
        )
        dose = f"{int(row['count']):,}"
        rows.append([row["concept"], row["objective"], dose, names[row["measure"]], number(row["original"]), change])
    columns = ["concept", "objective", "weights", "measure", "unedited", "change"]
    caption = (
        "Images that were not asked for the concept: how much farther they are from clean images of other seeds than "
        "the unedited ones, and how like these; distances in the features of the judge, swapped at random for p."
    )
    return markup.table(columns, rows, caption, ["weights", "unedited"])


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
        "fidelity": f"{number(first.min())} to {number(first.max())}",
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
