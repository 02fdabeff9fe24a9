"""The tables of scores and of what the model lacks without its parts, from the scores of all rounds. Ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffmech.anomaly.curves import curves, placements
from diffmech.anomaly.discrimination import cases
from diffmech.anomaly.evaluation import ALL, dice_measures, pixel_measures, slice_measures
from diffmech.anomaly.pooling import Pooled
from diffmech.anomaly.rounds import splits_in
from diffmech.anomaly.scores import Scored
from diffmech.anomaly.slices import read_slices
from diffmech.anomaly.splits import NAMES, patients_of
from diffmech.anomaly.tables import ABLATIONS, COUNTED, CURVES, DATA, PIXEL_MEASURES, SLICE_MEASURES, TRAININGS
from diffmech.artifacts import read_json
from diffmech.config.anomaly import AnomalyEvaluationConfig

DRAWN = ("position", "threshold", "atlas", "denoising_autoencoder")  # beside the model, whose curve more would hide
# What the ablations take away: the score of what has it, and of what lacks it.
PAIRS = {
    "attention": ("one_member", "no_attention"),
    "uncertainty": ("one_member", "no_uncertainty"),
    "ensemble": ("model", "one_member"),
}
COMPARED = tuple(sorted({name for pair in PAIRS.values() for name in pair}))  # beside the reference


def data_table(slices: Path | str, table: Path | str, rounds: Sequence[str], output: Path | str) -> None:
    """Write how many patients, slices and lesions the splits of each round have."""
    whole, rows = read_slices(slices), []
    for name in rounds:
        splits = splits_in(table, name)
        for split in NAMES:
            patients = patients_of(splits, split)
            own = whole.of(patients)
            share = own.lesion[own.brain].mean() if own.brain.any() else np.nan
            rows.append((name, split, len(patients), len(own), int(own.abnormal.sum()), share))
    DATA.write(output, DATA.frame(rows))


def trainings_table(records: Sequence[Path | str], output: Path | str) -> None:
    """Write how networks were trained, from their records `.../{round}/networks/{network}/anomaly.json`."""
    rows = []
    for path in map(Path, records):
        record = read_json(path)
        chosen = next(each for each in record["validation"] if each["chosen"])
        rows.append(
            {
                "round": path.parents[2].name,
                "network": path.parent.name,
                "slices": record["slices"]["training"],
                "steps": record["config"]["training"]["steps"],
                "chosen": chosen["step"],
                "nats": chosen["nats"],
                "parameters": record["parameters"],
                "seconds": record["training"]["seconds"],
            }
        )
    TRAININGS.write(output, TRAININGS.frame(rows))


def slice_table(pooled: Pooled, output: Path | str, *, evaluation: AnomalyEvaluationConfig, reference: str) -> None:
    """Write how well scores tell slices apart, as they are and beyond what slices of their position have."""
    parts = [
        slice_measures(scores, pooled.slices, evaluation, reference=reference, fold=pooled.fold).assign(
            adjusted=adjusted
        )
        for adjusted, scores in ((False, pooled.scores), (True, pooled.adjusted))
    ]
    SLICE_MEASURES.write(output, SLICE_MEASURES.in_order(pd.concat(parts, ignore_index=True)))


def curves_table(pooled: Pooled, output: Path | str, *, evaluation: AnomalyEvaluationConfig, reference: str) -> None:
    """Write the curves of the `reference` score and of what it has to beat most: DRAWN, as far as there are such."""
    given = cases(pooled.slices.abnormal, pooled.slices.patient, np.zeros(len(pooled.slices)), 1)
    placed = {name: Scored(placements(pooled.scores[name].slice, given, pooled.fold)) for name in pooled.scores}
    CURVES.write(output, CURVES.in_order(curves(placed, (reference, *DRAWN), given, evaluation)))


def pixel_table(pooled: Pooled, output: Path | str, *, evaluation: AnomalyEvaluationConfig, reference: str) -> None:
    """Write how well maps tell pixels apart; a table without rows where no lesion is marked."""
    if not pooled.slices.lesion.any():
        PIXEL_MEASURES.write(output, PIXEL_MEASURES.frame())
        return
    given = (pooled.scores, pooled.slices)
    parts = [
        pixel_measures(*given, evaluation, reference=reference, fold=pooled.fold),
        dice_measures(*given, evaluation, reference=reference, fold=pooled.fold),
    ]
    PIXEL_MEASURES.write(output, PIXEL_MEASURES.in_order(pd.concat(parts, ignore_index=True)))


def ablations_table(pooled: Pooled, output: Path | str, *, evaluation: AnomalyEvaluationConfig, reference: str) -> None:
    """Write what each part of the model adds, by the score `reference` of the ensemble."""
    scores = {**pooled.scores, "model": pooled.scores[reference]}
    pairs = {lacking: pair for lacking, pair in PAIRS.items() if pair[1] in scores}
    stricter = evaluation.model_copy(update={"confidence": 1 - (1 - evaluation.confidence) / len(pairs)})
    rows = []
    for lacking, (whole, without) in pairs.items():
        both = {name: scores[name] for name in (whole, without)}
        found, corrected = (_compared(both, pooled, config, whole) for config in (evaluation, stricter))
        first, second = (found[found["score"] == name].reset_index(drop=True) for name in (whole, without))
        apart = corrected[corrected["score"] == without].reset_index(drop=True)
        own = second[["measure", "matching", "group", "difference", *COUNTED]].assign(lacking=lacking)
        for name, frame in (("whole", first), ("without", second)):
            own = own.assign(**{name: frame["value"], f"{name}_low": frame["low"], f"{name}_high": frame["high"]})
        own = own.assign(difference_low=apart["difference_low"], difference_high=apart["difference_high"])
        rows.append(ABLATIONS.in_order(own))
    ABLATIONS.write(output, pd.concat(rows, ignore_index=True))


def _compared(
    scores: Mapping[str, Scored], pooled: Pooled, evaluation: AnomalyEvaluationConfig, reference: str
) -> pd.DataFrame:
    """Return the measures of two scores of slices, and of pixels where any lesion is marked, size by size left out."""
    slices = slice_measures(scores, pooled.slices, evaluation, reference=reference, fold=pooled.fold).assign(group=ALL)
    pixels = pixel_measures(scores, pooled.slices, evaluation, reference=reference, fold=pooled.fold)
    if pixels.empty:
        return slices
    pixels = pixels[(pixels["measure"] == "pixel_average_precision") & (pixels["of"] != "size")]
    return pd.concat([slices, pixels.assign(matching="overall")], ignore_index=True)
