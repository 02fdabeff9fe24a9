"""Which patients train, which choose epochs and thresholds, and which test: never one patient in two. Ours.

A patient's place is a hash (SHA-256) of the seed and the patient's own name, so that nobody moves when others come or
go. What that costs: shares are met on average only, within about `sqrt(share * (1 - share) * patients)`, so that a
small study may want another seed, chosen by the counts and before any result is seen.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from diffmech.anomaly.tables import FOLDS, SPLITS
from diffmech.config.anomaly_data import SplitConfig
from diffmech.errors import DataError

TRAIN, VALIDATION, TEST = NAMES = ("train", "validation", "test")
_STEPS = 2**64


def place(patient: str, seed: int, purpose: str = "split") -> float:
    """Return where in [0, 1) the hash of (seed, purpose, patient) lies, the same on every machine."""
    text = unicodedata.normalize("NFC", f"{int(seed)}\x1f{purpose}\x1f{patient}")
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / _STEPS


def split_of(patient: str, config: SplitConfig) -> str:
    """Return the split of one patient: train, validation or test."""
    where = place(patient, config.seed)
    if where < config.test:
        return TEST
    return VALIDATION if where < config.test + config.validation else TRAIN


def split_patients(
    patients: Iterable[str], config: SplitConfig, published: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the split of each patient, sorted by name: the `published` one where there is one.

    Raises DataError for a split without a patient, since nothing could be trained, chosen or tested.
    """
    given = published or {}
    found = {patient: given.get(patient) or split_of(patient, config) for patient in sorted(set(patients))}
    counts = Counter(found.values())
    if empty := [name for name in NAMES if not counts[name]]:
        raise DataError(
            f"splits of {len(found)} patients: {empty[0]} has none ({_counted(counts)}); add patients, or give other "
            "shares or another seed of the splits"
        )
    return found


def fold_patients(patients: Iterable[str], folds: int, seed: int) -> dict[str, int]:
    """Return the fold, 0 to `folds` - 1, of each patient, sorted by name; a patient's fold is by hash like the splits.

    Raises DataError for a fold without a patient.
    """
    found = {patient: int(place(patient, seed, "fold") * folds) for patient in sorted(set(patients))}
    if empty := sorted(set(range(folds)) - set(found.values())):
        raise DataError(
            f"folds of {len(found)} patients: no patient falls into fold {empty[0]} of {folds}; ask for fewer folds, "
            "or give another seed of the splits"
        )
    return found


def splits_of_fold(fold_of: Mapping[str, int], fold: int) -> dict[str, str]:
    """Return the splits of one round of a cross-validation: `fold` tests, the next one validates, the others train.

    Every patient tests once. ValueError for fewer than three folds.
    """
    folds = max(fold_of.values()) + 1
    if folds < 3:
        raise ValueError(f"{folds} folds leave nothing to train on beside one to test and one to validate")
    names = {fold: TEST, (fold + 1) % folds: VALIDATION}
    return {patient: names.get(own, TRAIN) for patient, own in fold_of.items()}


def patients_of(splits: Mapping[str, str], split: str) -> list[str]:
    """Return the patients of one split, sorted."""
    return sorted(patient for patient, own in splits.items() if own == split)


def write_splits(path: Path | str, splits: Mapping[str, str]) -> None:
    """Write the table of splits, a row per patient, sorted by name."""
    SPLITS.write(path, pd.DataFrame(sorted(splits.items()), columns=list(SPLITS.columns)))


def read_splits(path: Path | str) -> dict[str, str]:
    """Read a table of splits. Raises DataError for a patient in it twice, and for a split of another name."""
    frame = SPLITS.read(path)
    if twice := [patient for patient, count in Counter(frame["patient"]).items() if count > 1]:
        raise DataError(f"{path}: patient {twice[0]} stands in it more than once; leave one row for each patient")
    if odd := [split for split in frame["split"] if split not in NAMES]:
        raise DataError(f"{path}: holds the split {odd[0]!r}; write one of {', '.join(NAMES)} for each patient")
    return dict(zip(frame["patient"], frame["split"], strict=True))


def write_folds(path: Path | str, fold_of: Mapping[str, int]) -> None:
    """Write the table of folds, a row per patient, sorted by name."""
    FOLDS.write(path, pd.DataFrame(sorted(fold_of.items()), columns=list(FOLDS.columns)))


def read_folds(path: Path | str) -> dict[str, int]:
    """Read a table of folds."""
    frame = FOLDS.read(path)
    return {str(patient): int(fold) for patient, fold in zip(frame["patient"], frame["fold"], strict=True)}


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {counts.get(name, 0)}" for name in NAMES)
