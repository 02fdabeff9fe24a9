"""The scores of all rounds together, in units that rounds share, beside the labels: where judging begins. Ours.

Networks of different folds have scores of different sizes. Each score is therefore counted from the threshold that
healthy validation slices of its own round fix, in standard deviations of theirs: 0 is the threshold everywhere. Within
a round that changes no order.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffmech.anomaly.pixels import healthy_threshold
from diffmech.anomaly.review import slice_threshold
from diffmech.anomaly.rounds import splits_in
from diffmech.anomaly.scores import LEAST, Scale, Scored, beyond_position, scale
from diffmech.anomaly.slices import Slices, joined, read_slices
from diffmech.anomaly.splits import TEST, VALIDATION, patients_of
from diffmech.anomaly.stores import read_scores
from diffmech.config.anomaly import AnomalyEvaluationConfig


@dataclass(frozen=True)
class Pooled:
    """Test slices of all rounds with labels, `fold` `(slice,)` the number of their round, and their scores by name;
    and validation slices likewise, without maps. `adjusted` are slice scores beyond what healthy slices of their
    position have."""

    slices: Slices
    fold: np.ndarray
    scores: dict[str, Scored]
    adjusted: dict[str, Scored]
    validation: Slices
    validation_fold: np.ndarray
    validation_scores: dict[str, Scored]


def by_round(paths: Iterable[Path | str]) -> dict[str, list[Path]]:
    """Return files `.../{round}/{folder}/{name}` by their round."""
    found: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        found.setdefault(path.parent.parent.name, []).append(path)
    return found


def pool(
    slices: Path | str,
    table: Path | str,
    stores: Sequence[Path | str],
    config: AnomalyEvaluationConfig,
    *,
    names: Collection[str] | None = None,
    maps: bool = True,
) -> Pooled:
    """Return what stores of scores of all rounds hold: all of it, or the scores of `names`, with or without their maps.

    Raises StoreError for a store that is not whole.
    """
    whole = read_slices(slices)
    tests, validations, scores, adjusted, known_scores = [], [], [], [], []
    for name, paths in by_round(stores).items():
        splits = splits_in(table, name)
        test, validation = (whole.of(patients_of(splits, split)) for split in (TEST, VALIDATION))
        parts = [read_scores(path, names, maps=maps) for path in paths]
        own = {key: each for part in parts for key, each in part[TEST].items()}
        known = {key: each for part in parts for key, each in part[VALIDATION].items()}
        tests.append(test)
        validations.append(validation)
        scores.append({key: in_units(own[key], known[key], validation, config) for key in own})
        alone = {key: Scored(known[key].slice) for key in own}
        known_scores.append({key: in_units(each, each, validation, config) for key, each in alone.items()})
        adjusted.append(
            {
                key: Scored(
                    own[key].slice
                    if key == "position"
                    else beyond_position(own[key].slice, test, known[key].slice, validation)
                )
                for key in own
            }
        )
    return Pooled(
        slices=joined(tests),
        fold=_numbers(tests),
        scores=_together(scores),
        adjusted=_together(adjusted),
        validation=joined(validations),
        validation_fold=_numbers(validations),
        validation_scores=_together(known_scores),
    )


def in_units(score: Scored, known: Scored, validation: Slices, config: AnomalyEvaluationConfig) -> Scored:
    """Return a score from its threshold on, in standard deviations over healthy validation slices and their pixels."""
    limit = slice_threshold(known.slice, validation, config.false_alarms)
    own = Scale(limit, max(float(known.slice[~validation.abnormal].std()), LEAST)).of(score.slice)
    if score.pixel is None or known.pixel is None:
        return Scored(own)
    limit = healthy_threshold(known.pixel, validation, config.false_positives)
    return Scored(own, replace(scale(known.pixel, validation), mean=limit).of(score.pixel))


def _numbers(parts: Sequence[Slices]) -> np.ndarray:
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _together(rounds: Sequence[Mapping[str, Scored]]) -> dict[str, Scored]:
    found = {}
    for name in rounds[0]:
        parts = [each[name] for each in rounds]
        pixels = [part.pixel for part in parts if part.pixel is not None]
        pixel = np.concatenate(pixels) if len(pixels) == len(parts) else None
        found[name] = Scored(np.concatenate([part.slice for part in parts]), pixel)
    return found
