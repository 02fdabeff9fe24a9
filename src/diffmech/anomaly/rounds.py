"""What each round of the study trains on, chooses by and is tested on, and digests that tell what of it changed. Ours.

Labels of test slices are taken away as their round is read: no network and no score can see them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmech.anomaly.reading import read_brains, splits_of
from diffmech.anomaly.slices import Slices, read_slices, write_slices
from diffmech.anomaly.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    fold_patients,
    patients_of,
    read_folds,
    read_splits,
    splits_of_fold,
    write_folds,
    write_splits,
)
from diffmech.artifacts import atomic_path
from diffmech.config.anomaly_data import AnyBrains, SplitConfig

FOLD = "fold"


@dataclass(frozen=True)
class Parts:
    """The slices of one round; `test` has no labels."""

    training: Slices
    validation: Slices
    test: Slices


def splits_in(table: Path | str, name: str) -> dict[str, str]:
    """Return the split of each patient in the round `name`, fold0 and so on, or the only one of a table of splits."""
    if name.startswith(FOLD):
        return splits_of_fold(read_folds(table), int(name.removeprefix(FOLD)))
    return read_splits(table)


def parts_of(slices: Slices, splits: Mapping[str, str]) -> Parts:
    """Return the slices of a round by what they are for."""
    training, validation, test = (slices.of(patients_of(splits, name)) for name in (TRAIN, VALIDATION, TEST))
    return Parts(training, validation, test.unlabelled())


def read_parts(slices: Path | str, table: Path | str, name: str) -> Parts:
    """Return the slices of the round `name`. Raises StoreError for a store that is not whole."""
    return parts_of(read_slices(slices), splits_in(table, name))


def prepare_brains(config: AnyBrains, output: Path | str, digest: Path | str) -> None:
    """Write all slices, and the digest of everything in them. Raises DataError naming the file that cannot be used."""
    slices = read_brains(config)
    write_slices(output, slices, data=config.canonical())
    _write(digest, digest_of(slices))


def tabulate_splits(config: AnyBrains, splits: SplitConfig, slices: Path | str, output: Path | str) -> None:
    """Write the table of who trains, validates and tests. Raises DataError for a split without a patient."""
    write_splits(output, splits_of(config, read_slices(slices), splits))


def tabulate_folds(folds: int, seed: int, slices: Path | str, output: Path | str) -> None:
    """Write the table of who tests in which fold. Raises DataError for a fold without a patient."""
    write_folds(output, fold_patients(read_slices(slices).patients, folds, seed))


def digest_round(slices: Path | str, table: Path | str, name: str, *, seen: Path | str, tested: Path | str) -> None:
    """Write the digests of a round: `seen` of training and validation slices with their labels, `tested` of test slices
    without: jobs depend on these, so that patients who come to one split rerun what is of it."""
    parts = read_parts(slices, table, name)
    _write(seen, digest_of(parts.training, parts.validation))
    _write(tested, digest_of(parts.test))


def digest_of(*parts: Slices) -> str:
    """Return the SHA-256 of everything in slices."""
    found = hashlib.sha256()
    for part in parts:
        found.update(repr((part.modalities, part.images.shape, part.patient.tolist(), part.kind.tolist())).encode())
        for array in (part.images, part.brain, part.lesion, part.position):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _write(path: Path | str, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
