"""Whether heads of the encoder attend otherwise on slices with lesions, overall and among slices of one position. Ours.

The unit is the patient. All heads of all networks are asked at once, so that beside the interval of each stands a wider
one for all of them (Bonferroni).
"""

from collections.abc import Sequence
from pathlib import Path

from diffmech.anomaly import discrimination as slicewise
from diffmech.anomaly.discrimination import interval
from diffmech.anomaly.evaluation import slice_cases
from diffmech.anomaly.rounds import splits_in
from diffmech.anomaly.slices import read_slices
from diffmech.anomaly.splits import TEST, patients_of
from diffmech.anomaly.tables import ENTROPIES, HEADS
from diffmech.config.anomaly import AnomalyEvaluationConfig


def heads_table(
    slices: Path | str,
    table: Path | str,
    entropies: Sequence[Path | str],
    output: Path | str,
    *,
    evaluation: AnomalyEvaluationConfig,
) -> None:
    """Write the table from the entropies `.../{round}/entropies/{network}.csv`; no rows without attention."""
    whole, rows = read_slices(slices), []
    found = {Path(path): ENTROPIES.read(path) for path in entropies}
    heads = sum(frame["head"].nunique() for frame in found.values())
    stricter = evaluation.model_copy(update={"confidence": 1 - (1 - evaluation.confidence) / max(heads, 1)})
    for path, frame in found.items():
        name = path.parents[1].name
        test = whole.of(patients_of(splits_in(table, name), TEST))
        for head, own in frame.groupby("head"):
            entropy = own.sort_values("slice")["entropy"].to_numpy()
            for matching, given in slice_cases(test, evaluation).items():
                statistic = slicewise.roc_auc(entropy, given)
                ends = [interval(statistic, given.patients, each, given.holding) for each in (evaluation, stricter)]
                with_lesion, without = (entropy[test.abnormal == each].mean() for each in (True, False))
                values = (ends[0].estimate, *(end for each in ends for end in (each.low, each.high)))
                counted = (int(given.holding.sum()), slicewise.compared(given)[1])
                rows.append((name, path.stem, head, matching, with_lesion, without, *values, *counted))
    HEADS.write(output, HEADS.frame(rows))
