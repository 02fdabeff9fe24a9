"""Splits of patients: nobody is in two, nobody moves when others come, and shares are met on average."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from diffmech.anomaly.splits import (
    NAMES,
    TEST,
    VALIDATION,
    fold_patients,
    patients_of,
    read_folds,
    read_splits,
    split_of,
    split_patients,
    splits_of_fold,
    write_folds,
    write_splits,
)
from diffmech.config.anomaly_data import SplitConfig
from diffmech.errors import DataError

MANY = [f"patient_{number}" for number in range(2000)]
NAME = st.text(min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.sets(NAME, max_size=30), st.sets(NAME, max_size=30), st.integers(0, 9))
def test_no_patient_is_in_two_splits_and_none_moves_when_others_come(first, more, seed) -> None:
    config = SplitConfig(seed=seed)
    base = {*first, *MANY[:60]}  # enough that no split is empty
    before, after = split_patients(base, config), split_patients(base | more, config)
    assert {patient: after[patient] for patient in before} == before
    members = [set(patients_of(after, name)) for name in NAMES]
    assert set().union(*members) == base | more
    assert sum(map(len, members)) == len(base | more)


def test_the_order_and_the_repeats_of_names_do_not_matter() -> None:
    config = SplitConfig()
    assert split_patients(MANY[::-1] + MANY, config) == split_patients(MANY, config)


def test_shares_are_met_on_average_and_seeds_differ() -> None:
    for seed in (0, 1):
        config = SplitConfig(validation=0.2, test=0.3, seed=seed)
        found = split_patients(MANY, config)
        for name, share in ((VALIDATION, 0.2), (TEST, 0.3)):
            spread = np.sqrt(share * (1 - share) / len(MANY))
            assert abs(len(patients_of(found, name)) / len(MANY) - share) < 4 * spread
    same = np.mean([split_of(p, SplitConfig(seed=0)) == split_of(p, SplitConfig(seed=1)) for p in MANY])
    assert abs(same - (0.5**2 + 0.15**2 + 0.35**2)) < 0.05


def test_a_published_split_stands() -> None:
    published = dict.fromkeys(MANY[:50], "train")
    found = split_patients(MANY, SplitConfig(), published)
    assert {found[patient] for patient in published} == {"train"}
    assert found[MANY[60]] == split_of(MANY[60], SplitConfig())


def test_every_patient_tests_in_just_one_fold_and_never_trains_there() -> None:
    fold_of = fold_patients(MANY[:28], 5, seed=0)
    rounds = [splits_of_fold(fold_of, fold) for fold in range(5)]
    assert sorted(patient for splits in rounds for patient in patients_of(splits, TEST)) == sorted(MANY[:28])
    for splits in rounds:
        assert set(splits) == set(MANY[:28])
        assert all(patients_of(splits, name) for name in NAMES)
    grown = fold_patients(MANY[:60], 5, seed=0)
    assert {patient: grown[patient] for patient in fold_of} == fold_of


def test_splits_and_folds_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(DataError, match=r"splits of 1 patients: \w+ has none .*; add patients, or give other shares"):
        split_patients(["only"], SplitConfig())
    with pytest.raises(DataError, match="folds of 3 patients: no patient falls into fold"):
        fold_patients(MANY[:3], 5, seed=0)
    with pytest.raises(ValueError, match="leave nothing to train on"):
        splits_of_fold({"a": 0, "b": 1}, 0)
    with pytest.raises(ValidationError, match="of the patients leave none to train on"):
        SplitConfig(validation=0.5, test=0.5)


def test_tables_of_splits_are_read_as_written_and_doubtful_ones_named(tmp_path) -> None:
    found = split_patients([*MANY[:40], "007", "NA"], SplitConfig())
    write_splits(tmp_path / "s.csv", found)
    assert read_splits(tmp_path / "s.csv") == found
    fold_of = fold_patients(["007", *MANY[:30]], 3, seed=0)
    write_folds(tmp_path / "f.csv", fold_of)
    assert read_folds(tmp_path / "f.csv") == fold_of
    (tmp_path / "s.csv").write_text("patient,split\na,train\na,test\n")
    with pytest.raises(DataError, match=r"s\.csv: patient a stands in it more than once"):
        read_splits(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("patient,split\na,training\n")
    with pytest.raises(DataError, match=r"s\.csv: holds the split 'training'; write one of train"):
        read_splits(tmp_path / "s.csv")
