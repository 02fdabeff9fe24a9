"""The tables of the page of the study of anomalies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from diffmech.config.studies.anomaly import AnomalyStudy
from diffmech.report import markup
from diffmech.report.anomaly import charts
from diffmech.report.anomaly.findings import words
from diffmech.report.anomaly.inputs import Tables, one
from diffmech.report.drawing import specification
from diffmech.report.markup import Section
from diffmech.report.wording import interval, number

IN_NUMBERS = ("Calibration", "Coverage", "Areas under the curves of risk", "Probabilities of a lesion")
SPLIT = "Patients are split, never slices; where no file names a patient, each picture counts as one."
UNKNOWN = dict.fromkeys(("value", "low", "high"), float("nan"))
MEASURES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "pixel_average_precision": "average precision over pixels",
    "dice": "Dice",
    "best_dice": "best Dice",
}


def ends(row: Mapping[Any, Any], value: str = "value", prefix: str = "") -> str:
    """Return a value with its interval."""
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    if not np.isfinite([row[value], low, high]).all():
        return number(row[value])
    return interval(row[value], low, high)


def table(frame: pd.DataFrame, columns: Sequence[str], caption: str) -> Markup:
    """Return some columns of a table of results; numbers stand with three digits."""
    rows = [
        [number(row[name]) if isinstance(row[name], float) else str(row[name]) for name in columns]
        for row in frame.to_dict("records")
    ]
    numeric = [name for name in columns if pd.api.types.is_numeric_dtype(frame[name])]
    return markup.table(
        [name.replace("_", " ") for name in columns], rows, caption, [n.replace("_", " ") for n in numeric]
    )


def drawn(name: str, chart: Any, caption: str) -> Markup:
    """Return a chart with its caption."""
    return markup.chart(name, specification(chart), caption)


def scores_of_slices(tables: Tables, anomaly: AnomalyStudy) -> Section:
    """Return all scores of slices, overall and matched, as they are and beyond what their position has."""
    frame = tables.slice_measures
    caption = (
        "One point per score, with its interval by resampling patients; the line is what a random score has. Right: "
        "only slices of the same position are compared, so that knowing where a slice lies is worth nothing."
    )
    parts = [drawn("slice-scores", charts.slice_scores(frame, anomaly.scores.model), caption)]
    caption = (
        "All slices, not matched for position. Bands resample patients and hold at each place, not for a curve as a "
        "whole; the dashed line is a random score."
    )
    parts.append(drawn("curves", charts.slice_curves(tables.curves, anomaly.scores.model), caption))
    for measure in ("roc_auc", "average_precision"):
        rows = []
        for name in frame["score"].unique():
            own = frame[(frame["score"] == name) & (frame["measure"] == measure)]
            cells = [
                one(own, adjusted=adjusted, matching=matching)
                for adjusted, matching in ((False, "overall"), (False, "matched"), (True, "overall"))
            ]
            matched = cells[1]
            less = "" if matched is None else ends(matched, "difference", "difference_")
            rows.append([words(name), *("" if cell is None else ends(cell) for cell in cells), less])
        floors = frame[(frame["measure"] == measure) & ~frame["adjusted"]].groupby("matching")["floor"].first()
        caption = (
            f"{MEASURES[measure]} of slices, with intervals by resampling patients; those of differences allow for "
            f"seeds, too. A random score has {number(floors.get('overall'))} overall and "
            f"{number(floors.get('matched'))} matched. Matched: compared within bins of slice position alone. Beyond "
            "position: what healthy validation slices of that position "
            "score is taken away. The last column is the model's score minus this one, matched."
        )
        columns = ["score", "overall", "matched", "beyond position", "the model has more"]
        told = markup.table(columns, rows, caption, columns[1:])
        parts.append(markup.folded(f"{MEASURES[measure]} of every score, in numbers", told))
    return markup.section("slices", "Which slices hold a lesion", *parts)


def scores_of_pixels(tables: Tables, anomaly: AnomalyStudy) -> Section:
    """Return all maps by group of lesions."""
    frame = tables.pixel_measures
    if frame.empty:
        words_ = "No lesion of a test slice is marked, so that nothing is said of pixels."
        return markup.section("pixels", "Where the lesion is", markup.paragraph(words_, "quiet"))
    caption = (
        "One point per map, with its interval by resampling patients. Each panel has the lesions of one size or kind, "
        "and all slices without any; its line is the prevalence, which a random map has. Iso-intense lesions (iso) "
        "have the intensity of healthy tissue."
    )
    parts = [drawn("pixel-scores", charts.pixel_scores(frame, anomaly.scores.model), caption)]
    for measure in ("pixel_average_precision", "dice", "best_dice"):
        own = frame[frame["measure"] == measure]
        groups = list(own["group"].unique())
        rows = [
            [words(name), *(ends(one(own, score=name, group=group) or UNKNOWN) for group in groups)]
            for name in own["score"].unique()
        ]
        floors = [number(own[own["group"] == group]["floor"].iloc[0]) for group in groups]
        rows.append(["floor", *floors])
        about = {
            "pixel_average_precision": "Floor: the prevalence, which a random map has.",
            "dice": "At the threshold that healthy validation slices fix. Floor: all of the brain called a lesion.",
            "best_dice": "At the threshold that these very labels choose: an upper bound that nobody has.",
        }[measure]
        told = markup.table(["score", *groups], rows, f"{MEASURES[measure]} in the brain. {about}", groups)
        parts.append(markup.folded(f"{MEASURES[measure]} of every map, in numbers", told))
    return markup.section("pixels", "Where the lesion is", *parts)


def ablations(tables: Tables) -> Section:
    """Return what the model has of its parts."""
    rows = [
        [
            row["lacking"],
            MEASURES[row["measure"]],
            row["matching"] if row["group"] == "all" else row["group"],
            ends(row, "whole", "whole_"),
            ends(row, "without", "without_"),
            ends(row, "difference", "difference_"),
        ]
        for row in tables.ablations.to_dict("records")
    ]
    columns = ["part", "measure", "among", "with it", "without it", "difference"]
    caption = "Paired over patients. Attention and uncertainty are compared on one network each, not on an ensemble."
    told = markup.folded("All comparisons, in numbers", markup.table(columns, rows, caption, columns[3:]))
    words_ = (
        "Differences with intervals that hold for all parts at once (Bonferroni) and, of several rounds, allow for "
        "their seeds; left of the line a part harms."
    )
    return markup.section(
        "ablations", "What its parts add", drawn("parts", charts.parts(tables.ablations), words_), told
    )


def certainty(tables: Tables) -> Section:
    """Return calibration, reliability and risk."""
    calibration = [
        [r["model"], r["quantity"].replace("_", " "), ends(r)] for r in tables.calibration.to_dict("records")
    ]
    coverage = [
        [r["model"], number(r["level"]), ends(r, "coverage")]
        for r in tables.coverage[tables.coverage["model"] == "model"].to_dict("records")
    ]
    risk = [
        [r["doubt"], ends(r, "area"), number(r["random"]), number(r["best"]), ends(r, "difference", "difference_")]
        for r in tables.risk.to_dict("records")
    ]
    reliability = [
        [words(r["score"]), number(r["predicted"]), ends(r, "observed"), str(r["slices"])]
        for r in tables.reliability.to_dict("records")
    ]
    told = [
        markup.table(["predicted by", "quantity", "value"], calibration, "Healthy test slices.", ["value"]),
        markup.table(["predicted by", "level", "coverage"], coverage, "Pixels within their interval.", ["coverage"]),
        markup.table(
            ["order", "area", "random order", "best order", "saved"],
            risk,
            "Area under the curve of risk over coverage: decisions by the threshold of slices, the surest first.",
            ["area", "random order", "best order", "saved"],
        ),
        markup.table(
            ["score", "probability", "share with a lesion", "slices"],
            reliability,
            "Probabilities by a logistic curve that was fitted on validation patients with their labels.",
            ["probability", "share with a lesion", "slices"],
        ),
    ]
    of_pixels = (
        "Pixels of healthy test slices, in ten bins of the standard deviation that was predicted for them, with "
        "intervals by resampling patients. On the line errors are as large as predicted."
    )
    of_slices = (
        "Decisions whether a slice holds a lesion, by the threshold: of the surest share, how many are wrong. The band "
        "resamples patients; the line is a random order. A doubt is worth something where its curve stays below."
    )
    parts = [
        drawn("reliability", charts.reliability(tables.deviations), of_pixels),
        drawn("risk", charts.risk(tables.risk_curve, tables.risk), of_slices),
        *(markup.folded(f"{title}, in numbers", each) for title, each in zip(IN_NUMBERS, told, strict=True)),
        table(tables.review.head(10), list(tables.review.columns), "The first slices for a reader to look at."),
    ]
    return markup.section("certainty", "How sure it is", *parts)


def heads(tables: Tables) -> Section:
    """Return the entropies of heads."""
    rows = [
        [
            *(str(r[name]) for name in ("round", "network", "head", "matching")),
            *(number(r[name]) for name in ("with_lesion", "without")),
            *(ends(r, "auc", prefix) for prefix in ("", "corrected_")),
        ]
        for r in tables.heads.to_dict("records")
    ]
    columns = ["round", "network", "head", "compared", "with lesion", "without", "AUC", "for all heads"]
    caption = "Entropy of the attention of each head, in nats, and the share of pairs in which the lesion has more."
    return markup.section("heads", "What its heads attend to", markup.table(columns, rows, caption, columns[4:]))


def data(tables: Tables) -> Section:
    """Return splits and trainings."""
    parts = [
        table(
            tables.data,
            list(tables.data.columns),
            "Patients are split, never slices; where no file names a patient, each picture counts as one.",
        ),
        table(tables.trainings, list(tables.trainings.columns), "Trained on slices without a lesion alone."),
    ]
    return markup.section("data", "Data and trainings", *parts)


def published(references: Sequence[Mapping[str, Any]], tables: Tables, anomaly: AnomalyStudy) -> Section:
    """Return published figures beside what was measured here."""
    here = {"slices": _measured_slices(tables, anomaly), "pixels": _measured_pixels(tables, anomaly)}
    rows = [
        [str(e["name"]), str(e["value"]), str(e["setting"]), f"{e['source']} ({e['read']})", here[e["measured"]]]
        for e in references
    ]
    columns = ["figure", "published", "of", "source", "here"]
    caption = "Each of its own split: to be looked at, not compared by size."
    return markup.section("published", "Published figures", markup.table(columns, rows, caption, (), columns[2:]))


def _measured_slices(tables: Tables, anomaly: AnomalyStudy) -> str:
    found = []
    for measure in ("roc_auc", "average_precision"):
        for matching in ("overall", "matched"):
            key = {"score": anomaly.scores.model, "adjusted": False, "measure": measure, "matching": matching}
            if row := one(tables.slice_measures, **key):
                found.append(f"{MEASURES[measure]} {matching} {ends(row)}")
    known = tables.slice_measures
    share = known[(known["measure"] == "average_precision") & (known["matching"] == "overall")]["floor"]
    return "; ".join([*found, *([f"of a random order {number(float(share.iloc[0]))}"] if len(share) else [])])


def _measured_pixels(tables: Tables, anomaly: AnomalyStudy) -> str:
    found = []
    for measure in ("pixel_average_precision", "dice", "best_dice"):
        if row := one(tables.pixel_measures, score=anomaly.scores.model, measure=measure, group="all"):
            found.append(f"{MEASURES[measure]} {ends(row)}")
    return "; ".join(found) or "not measured"
