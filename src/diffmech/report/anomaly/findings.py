"""What the study of anomalies found. Each question names the one measure that answers it, fixed beforehand.

Nothing is decided by fewer patients than could tell a direction from chance by their signs alone, each of them showing
it: 2 / 2^n is to be below the error that an interval allows, so that 95 % need six, and more where intervals are
corrected for others (ours; intervals by resampling a handful of patients cover too little).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from diffmech.config.anomaly_data import SyntheticBrains
from diffmech.config.studies.anomaly import UNTRAINED, AnomalyStudy
from diffmech.findings import Estimate, Finding, Verdict
from diffmech.report.anomaly.inputs import Tables, one
from diffmech.report.anomaly.training_adds import (
    LEAST_ROUNDS,
    beyond_seeds,
    beyond_untrained,
    beyond_untrained_calibration,
    beyond_untrained_risk,
    of_pixels,
    of_slices,
)
from diffmech.report.wording import count, interval, listed, number

OF_THE_MODEL = (
    "reconstruction",
    "uncertainty",
    "combined",
    "combined_by_labels",
    "standardised",
    "standardised_bright",
)
LACKING = ("one_member", "no_attention", "no_uncertainty")
NAMES = {
    UNTRAINED: "the model before training",
    "reconstruction": "the model's residual",
    "standardised": "the model's standardised residual",
    "standardised_bright": "the same where brighter",
    "combined": "the model's combination",
    "combined_by_labels": "the same chosen by labels",
    "random": "a random score",
    "position": "slice position",
    "brain_area": "the area of the brain",
    "threshold": "a threshold of the intensity",
    "atlas": "an atlas of healthy brains",
    "atlas_bright": "an atlas that looks for bright pixels",
    "pca": "principal components",
    "nearest_features": "nearest features",
    "autoencoder": "a plain autoencoder",
    "denoising_autoencoder": "a denoising autoencoder",
    "one_member": "one network of the ensemble",
    "no_attention": "the model without attention",
    "no_uncertainty": "the model without uncertainty",
}
HOLDING = "patients_with_lesions"
ALL_OF_THEM = "All comparisons must hold, each with its own interval, so that none needs a correction."


def findings(tables: Tables, anomaly: AnomalyStudy, picture: str | None) -> Iterator[Finding]:
    """Yield the findings; `picture` shows slices, as seen from the folder of the file of findings."""
    for claim in _claims(tables, anomaly, picture):
        yield beyond_seeds(claim, tables.trainings["round"].nunique())
    yield _not_concluded(anomaly)


def _claims(tables: Tables, anomaly: AnomalyStudy, picture: str | None) -> Iterator[Finding]:
    """Yield what may be found of the model, as far as untrained networks cannot do it."""
    model = anomaly.scores.model
    confidence = anomaly.evaluation.confidence
    matched = of_slices(tables, "matched")
    yield beyond_untrained(_above_chance(tables, model, confidence, picture), matched)
    yield beyond_untrained(_above_position(tables, model, confidence), of_slices(tables, "overall"))
    yield _above_all(tables, confidence)  # untrained networks among them
    if not tables.pixel_measures.empty:
        yield _pixels(tables, model, confidence)
        if (tables.pixel_measures["group"] == "iso").any():
            yield beyond_untrained(_iso(tables, model, confidence), of_pixels(tables, "iso"))
    for lacking in tables.ablations["lacking"].unique():
        own = of_pixels(tables, "all") if not tables.pixel_measures.empty else matched
        yield beyond_untrained(_ablation(tables, lacking, confidence), own, also="not found")
    yield beyond_untrained_calibration(_calibrated(tables, confidence), tables, "slice_correlation")
    yield beyond_untrained_risk(_doubt(tables, confidence), tables)
    yield beyond_untrained(_heads(tables, confidence), matched)


def words(score: str) -> str:
    """Return a score as a sentence names it."""
    return NAMES.get(score, f"the model's {score.replace('_', ' ')}")


def competitors(scores: "pd.Series[str]") -> list[str]:
    """Return the names of what the model has to beat, of all scores."""
    return [name for name in scores.unique() if name not in OF_THE_MODEL + LACKING]


def least_patients(confidence: float, comparisons: int = 1) -> int:
    """Return how many patients it takes to decide anything: the least n of which 2 / 2^n is no more than the error that
    each of so many `comparisons` is left."""
    return math.ceil(1 + math.log2(comparisons / (1 - confidence)) - 1e-9)


def verdict(low: float, high: float, floor: float = 0.0, *, patients: float, least: int) -> Verdict:
    """Return what an interval says: above `floor`, below it, or neither; neither with fewer than `least` patients."""
    if not np.isfinite([low, high]).all() or patients < least:
        return "cannot be told"
    return "found" if low > floor else "not found" if high < floor else "cannot be told"


def _few(patients: float, least: int, who: str = "with such lesions") -> tuple[str, ...]:
    """Return a sentence where there are too few patients, none else."""
    few = f"{count(int(patients), 'patient')} {who}: at least {least} are needed before anything is decided."
    return (few,) if patients < least else ()


def _estimate(what: str, value: float, low: float, high: float) -> Estimate | None:
    return Estimate(what, float(value), float(low), float(high)) if np.isfinite([value, low, high]).all() else None


def _said(row: dict[str, Any], prefix: str = "", value: str = "value") -> str:
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return interval(row[value], low, high) if np.isfinite([low, high]).all() else f"{number(row[value])} (no interval)"


def _above_chance(tables: Tables, model: str, confidence: float, picture: str | None) -> Finding:
    question = "Does the model tell slices with lesions from others of the same position?"
    matched = {"adjusted": False, "matching": "matched", "measure": "roc_auc"}
    row = one(tables.slice_measures, score=model, **matched)
    if row is None or not np.isfinite(row["value"]):
        answer = "No slice of either kind has one of the other at its position."
        return Finding(question, "cannot be told", answer, (), "slices", picture=picture)
    overall = one(tables.slice_measures, score=model, adjusted=False, matching="overall", measure="roc_auc")
    assert overall is not None
    said = {"found": "It does", "not found": "It does not", "cannot be told": "Not decided"}
    patients, least = row[HOLDING], least_patients(confidence)
    found = verdict(row["low"], row["high"], 0.5, patients=patients, least=least)
    answer = f"{said[found]}: ROC AUC within bins of position {_said(row)}, where chance has 0.5."
    details = (
        f"Overall, where position helps, it is {_said(overall)}.",
        f"{count(int(row['patients']), 'patient')}, of whom {int(patients)} have lesions there.",
        *_few(patients, least),
    )
    resting = _estimate("ROC AUC within bins of slice position", row["value"], row["low"], row["high"])
    return Finding(question, found, answer, details, "slices", estimate=resting, picture=picture)


def _above_position(tables: Tables, model: str, confidence: float) -> Finding:
    question = "Is the model above slice position alone, no image at all?"
    row = one(tables.slice_measures, score="position", adjusted=False, matching="overall", measure="roc_auc")
    own = one(tables.slice_measures, score=model, adjusted=False, matching="overall", measure="roc_auc")
    if row is None or own is None:
        return Finding(question, "cannot be told", "Neither was scored.", (), "slices")
    patients, least = row[HOLDING], least_patients(confidence)
    found = verdict(row["difference_low"], row["difference_high"], patients=patients, least=least)
    answer = f"Overall ROC AUC is {_said(own)} of the model and {_said(row)} of position: "
    answer += f"{_said(row, 'difference_', 'difference')} more."
    details = [*_few(patients, least)]
    beyond = one(tables.slice_measures, score="position", adjusted=True, matching="overall", measure="roc_auc")
    if beyond is not None:
        details.append(
            "With what healthy slices of the same position score taken away from the model's score it is "
            f"{_said(beyond, 'difference_', 'difference')} more."
        )
    resting = _estimate(
        "ROC AUC minus that of slice position", *(row[f"difference{end}"] for end in ("", "_low", "_high"))
    )
    return Finding(question, found, answer, tuple(details), "slices", estimate=resting)


def _above_all(tables: Tables, confidence: float) -> Finding:
    question = "Is the model above every competitor among slices of one position?"
    frame = tables.slice_measures
    frame = frame[~frame["adjusted"] & (frame["matching"] == "matched") & (frame["measure"] == "roc_auc")]
    return _all_beaten(question, frame, "ROC AUC within bins of position", "slices", tables, confidence)


def _pixels(tables: Tables, model: str, confidence: float) -> Finding:
    question = "Do the model's maps find the pixels of lesions better than those of every competitor?"
    frame = tables.pixel_measures
    frame = frame[(frame["of"] == "all") & (frame["measure"] == "pixel_average_precision")]
    own = one(frame, score=model)
    found = _all_beaten(question, frame, "average precision over pixels", "pixels", tables, confidence)
    if own is None:
        return found
    detail = f"The model has {_said(own)}, a random map {number(own['floor'])}."
    return Finding(**{**vars(found), "details": (detail, *found.details)})


def _iso(tables: Tables, model: str, confidence: float) -> Finding:
    question = "Are lesions found whose intensity is that of healthy tissue?"
    frame = tables.pixel_measures
    frame = frame[(frame["group"] == "iso") & (frame["measure"] == "pixel_average_precision")]
    own, row = one(frame, score=model), one(frame, score="threshold")
    if own is None or row is None:
        return Finding(question, "cannot be told", "There is none among the test slices.", (), "pixels")
    patients, least = row[HOLDING], least_patients(confidence)
    found = verdict(row["difference_low"], row["difference_high"], patients=patients, least=least)
    if found == "found" and not own["low"] > own["floor"]:  # a threshold may do worse than chance
        found = "cannot be told"
    answer = f"Average precision over pixels is {_said(own)}, that of a threshold {_said(row)}: "
    answer += f"{_said(row, 'difference_', 'difference')} more. A random map has {number(own['floor'])}."
    resting = _estimate(
        "average precision on iso-intense lesions minus that of a threshold",
        *(row[f"difference{end}"] for end in ("", "_low", "_high")),
    )
    return Finding(question, found, answer, _few(patients, least), "pixels", estimate=resting)


def _all_beaten(
    question: str, frame: pd.DataFrame, what: str, section: str, tables: Tables, confidence: float
) -> Finding:
    rows = frame[frame["score"].isin(competitors(frame["score"]))].dropna(subset="difference_low")
    if rows.empty:
        return Finding(question, "cannot be told", "No comparison has an interval.", (), section)
    above, below = rows[rows["difference_low"] > 0], rows[rows["difference_high"] < 0]
    hardest = dict(rows.sort_values("difference").iloc[0])
    patients, least = int(rows[HOLDING].min()), least_patients(confidence)
    rounds = tables.trainings["round"].nunique()
    if patients < least:
        found: Verdict = "cannot be told"
        answer = f"Not decided by {count(patients, 'patient')}; the nearest is {words(hardest['score'])}"
    elif rounds < LEAST_ROUNDS:
        found = "cannot be told"
        answer = f"Not decided by {count(rounds, 'training')} of each; the nearest is {words(hardest['score'])}"
    elif len(above) == len(rows):
        found = "found"
        answer = f"Yes, above all {len(rows)}; the nearest is {words(hardest['score'])}"
    elif len(below):
        found, answer = "not found", f"No: {listed([words(name) for name in below['score']])} win"
        answer += "s" if len(below) == 1 else ""
    else:
        found = "cannot be told"
        open_ = [words(name) for name in rows["score"] if name not in set(above["score"])]
        answer = f"Not decided: no interval tells it from {listed(open_, 'or')}"
    answer += f". Model minus {words(hardest['score'])}, in {what}: {_said(hardest, 'difference_', 'difference')}."
    details = _few(patients, least) + tuple(
        f"{words(row['score']).capitalize()}: {_said(dict(row))}; the model has "
        f"{_said(dict(row), 'difference_', 'difference')} more."
        for _, row in rows.iterrows()
    )
    ends = (hardest[f"difference{end}"] for end in ("", "_low", "_high"))
    resting = _estimate(f"{what} minus that of {words(hardest['score'])}", *ends)
    return Finding(question, found, answer, details, section, ALL_OF_THEM, estimate=resting)


def _ablation(tables: Tables, lacking: str, confidence: float) -> Finding:
    question = {
        "attention": "Does attention help?",
        "uncertainty": "Does uncertainty help?",
        "ensemble": "Does an ensemble help?",
    }[lacking]
    own = tables.ablations[tables.ablations["lacking"] == lacking]
    row = one(own, measure="pixel_average_precision", group="all") or one(own, measure="roc_auc", matching="matched")
    if row is None:
        return Finding(question, "cannot be told", "It was not measured.", (), "ablations")
    what = "average precision over pixels" if row["measure"] == "pixel_average_precision" else "matched ROC AUC"
    parts = tables.ablations["lacking"].nunique()
    patients, least = row[HOLDING], least_patients(confidence, parts)
    found = verdict(row["difference_low"], row["difference_high"], patients=patients, least=least)
    said = {"found": "It does. ", "not found": "It does harm. ", "cannot be told": ""}[found]
    answer = f"{said}In {what}: {_said(row, 'whole_', 'whole')} with it, {_said(row, 'without_', 'without')} without, "
    answer += f"{_said(row, 'difference_', 'difference')} apart."
    matched = one(own, measure="roc_auc", matching="matched")
    details = _few(patients, least)
    if matched is not None and matched is not row:
        details += (f"In ROC AUC within bins of position: {_said(matched, 'difference_', 'difference')} apart.",)
    resting = _estimate(f"{what} with {lacking} minus without", *(row[f"difference{e}"] for e in ("", "_low", "_high")))
    family = f"Bonferroni over {count(parts, 'ablation')}, in the interval."
    return Finding(question, found, answer, details, "ablations", family, estimate=resting)


def _calibrated(tables: Tables, confidence: float) -> Finding:
    question = "Does the error of a slice rise with the uncertainty that is predicted for it?"
    row = one(tables.calibration, model="model", quantity="slice_correlation")
    if row is None or not np.isfinite([row["value"], row["low"], row["high"]]).all():
        return Finding(question, "cannot be told", "Too few slices vary in it.", (), "certainty")
    answer = f"Spearman's correlation over healthy test slices is {_said(row)}."
    patients, least = row["patients"], least_patients(confidence)
    details = [*_few(patients, least, "with healthy slices")]
    for quantity, text in (
        ("calibration_error", "Mean distance of coverage and level"),
        ("variation", "Coefficient of variation of the predicted deviation over slices"),
    ):
        if (more := one(tables.calibration, model="model", quantity=quantity)) is not None:
            details.append(f"{text}: {_said(more)}.")
    resting = _estimate("rank correlation of error and predicted deviation", row["value"], row["low"], row["high"])
    found = verdict(row["low"], row["high"], patients=patients, least=least)
    return Finding(question, found, answer, tuple(details), "certainty", estimate=resting)


def _doubt(tables: Tables, confidence: float) -> Finding:
    question = "Are decisions right more often where weights agree?"
    row = one(tables.risk, doubt="epistemic")
    if row is None:
        return Finding(question, "cannot be told", "It was not measured.", (), "certainty")
    answer = f"In the order of epistemic uncertainty the mean share of wrong decisions is {_said(row, value='area')}, "
    answer += f"in a random one {number(row['random'])}: {_said(row, 'difference_', 'difference')} less."
    patients, least = row["patients"], least_patients(confidence)
    details = _few(patients, least, "tested") + tuple(
        f"In the order of {'the distance to the threshold' if other['doubt'] == 'distance' else 'total uncertainty'}: "
        f"{_said(dict(other), value='area')}."
        for _, other in tables.risk[tables.risk["doubt"] != "epistemic"].iterrows()
    )
    resting = _estimate("share of errors saved", *(row[f"difference{end}"] for end in ("", "_low", "_high")))
    found = verdict(row["difference_low"], row["difference_high"], patients=patients, least=least)
    return Finding(question, found, answer, details, "certainty", estimate=resting)


def _heads(tables: Tables, confidence: float) -> Finding:
    question = "Do heads attend otherwise on slices with lesions than on others of the same position?"
    rows = tables.heads[tables.heads["matching"] == "matched"].dropna(subset=["auc", "corrected_low"])
    if rows.empty:
        return Finding(question, "cannot be told", "No head has an interval.", (), "heads")
    least = least_patients(confidence, len(rows))
    able = rows[rows[HOLDING] >= least]
    differ = able[(able["corrected_low"] > 0.5) | (able["corrected_high"] < 0.5)]
    asked = able if len(able) else rows
    farthest = dict(asked.iloc[int((asked["auc"] - 0.5).abs().argmax())])
    named = f"head {int(farthest['head'])} of {farthest['network']}"
    named += f" in {farthest['round']}" if rows["round"].nunique() > 1 else ""
    found: Verdict = "found" if len(differ) else "cannot be told"
    most = count(int(rows[HOLDING].max()), "patient")
    answer = f"{len(differ)} of {count(len(able), 'head')} do" if len(able) else f"Not decided by {most} of a round"
    answer += f". Farthest from 0.5 is {named}: the slice with a lesion has the higher entropy in "
    answer += f"{_said(farthest, 'corrected_', 'auc')} of pairs."
    overall = tables.heads[tables.heads["matching"] == "overall"]
    alone = overall[(overall["corrected_low"] > 0.5) | (overall["corrected_high"] < 0.5)]
    seem = f"Without matching, {len(alone)} of {len(overall)} seem to: that is the position of slices too."
    details = (*_few(int(rows[HOLDING].max()), least), seem)
    resting = _estimate(
        f"share of pairs in which {named} has the higher entropy on the lesion",
        *(farthest[name] for name in ("auc", "corrected_low", "corrected_high")),
    )
    family = f"Bonferroni over {count(len(rows), 'head')}, in the interval."
    return Finding(question, found, answer, details, "heads", family, estimate=resting)


def _not_concluded(anomaly: AnomalyStudy) -> Finding:
    synthetic = isinstance(anomaly.data, SyntheticBrains)
    parts = (
        ["These brains are synthetic: made from one average anatomy, with lesions that were put in."]
        if synthetic
        else []
    )
    parts += [
        "A slice AUC that is not matched for position says little: lesions sit in the middle of the head.",
        "Published figures are of other splits, slices and prevalences, and are not compared by size.",
        "Slices without a lesion are taken for healthy, also those of patients who have one elsewhere.",
    ]
    answer = "Nothing about patients: the study says whether a method can work." if synthetic else "No clinical use."
    return Finding("What must not be concluded?", "caution", answer, tuple(parts), "published")
