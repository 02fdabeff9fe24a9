"""The account of a mechanism claims what its tables show, and no more."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffmech.errors import StoreError
from diffmech.mechanisms.account import CAUSAL, COLUMNS, HELPS, NOT_BEYOND, NOTHING, account, mechanism_account

HEADS = pd.DataFrame(
    {
        "head": ["a.h00", "a.h01", "b.h00"],
        "mechanism": ["self-1", "self-1", "self-2"],
        "label": ["edge", "edge", "sink"],
    }
)


def effect(target: str, percent: float, p_zero: float, p_control: float, domain: str = "real") -> dict[str, object]:
    return {
        **{"domain": domain, "group": "mechanisms", "target": target, "method": "mean", "timestep": "all"},
        **{"effect_percent": percent, "low": percent - 1, "high": percent + 1, "p_zero_holm": p_zero},
        **{"control_mean": 1.0, "control_low": 0.5, "control_high": 2.0, "p_control_adjusted": p_control},
        **{"heads": 2, "n": 16},
    }


def window(target: str, span: str, percent: float, p_max: float) -> dict[str, object]:
    return effect(target, percent, p_max, 0.2) | {"window": span, "p_zero_max": p_max}


def change(target: str, measure: str, value: float, p: float, domain: str = "synthetic") -> dict[str, object]:
    return {
        **{"domain": domain, "group": "mechanisms", "target": target, "window": "all", "measure": measure},
        **{"effect": value, "low": value - 0.1, "high": value + 0.1, "p_zero_holm": p},
        **{"control_low": -0.1, "control_high": 0.1, "p_control_adjusted": 0.3},
    }


def told(effects: list, windows: list = (), changes: list = ()) -> pd.DataFrame:
    columns = [*effect("x", 0, 1, 1), "window", "p_zero_max"]
    return account(
        HEADS,
        pd.DataFrame(effects),
        pd.DataFrame(windows, columns=columns),
        pd.DataFrame(changes, columns=[*change("x", "m", 0, 1)]),
        method="mean",
        alpha=0.05,
    )


@pytest.mark.parametrize(
    ("percent", "p_zero", "p_control", "expected"),
    [
        (9.0, 0.001, 0.01, CAUSAL),
        (9.0, 0.001, 0.2, NOT_BEYOND),
        (9.0, 0.001, np.nan, NOT_BEYOND),  # without controls nothing is claimed of function
        (-3.0, 0.001, 0.01, HELPS),
        (9.0, 0.2, 0.01, NOTHING),
        (9.0, np.nan, 0.01, NOTHING),
    ],
)
def test_a_mechanism_is_causal_only_with_all_of_its_evidence(percent, p_zero, p_control, expected) -> None:
    assert told([effect("self-1", percent, p_zero, p_control)])["verdict"].tolist() == [expected]


def test_when_is_the_window_with_the_largest_effect_that_can_be_told_from_zero() -> None:
    windows = [
        window("self-1", "0-99", 5, 0.01),
        window("self-1", "100-199", 8, 0.02),
        window("self-1", "200-299", 30, 0.4),
    ]
    table = told([effect("self-1", 9, 0.01, 0.01), effect("self-2", 9, 0.01, 0.01)], windows)
    assert table["window"].tolist() == ["100-199", ""]
    assert table.loc[0, ["window_effect", "window_low", "window_high"]].tolist() == [8, 7, 9]


def test_attributes_are_those_that_changed_whatever_the_sign_strongest_first() -> None:
    changes = [
        change("self-1", "attribute:glasses", 0.3, 0.01),
        change("self-1", "attribute:hat", -0.5, 0.01),
        change("self-1", "attribute:smile", 0.9, 0.3),
        change("self-1", "asked:glasses", -0.2, 0.02),
        change("self-1", "ssim", 0.9, 0.001),
        change("self-2", "attribute:hat", 0.5, 0.9),
    ]
    effects = [effect("self-1", 9, 0.01, 0.01, domain) for domain in ("real", "synthetic")]
    table = told([*effects, effect("self-2", 9, 0.01, 0.01, "synthetic")], [], changes)
    # only synthetic images were sampled
    assert table["attributes"].tolist() == ["not measured", "hat glasses", "none"]
    assert table.loc[1, ["attribute", "attribute_measure", "attribute_change"]].tolist() == ["hat", "attribute", -0.5]


def test_an_attribute_may_be_lost_only_where_it_was_asked_for() -> None:
    changes = [change("self-1", "attribute:hat", 0.01, 0.8), change("self-1", "asked:hat", -0.4, 0.01)]
    table = told([effect("self-1", 9, 0.01, 0.01, "synthetic")], [], changes)
    assert table.loc[0, ["attributes", "attribute_measure", "attribute_change"]].tolist() == ["hat", "asked", -0.4]


def test_without_a_judge_the_account_says_that_attributes_were_not_measured() -> None:
    table = told([effect("self-1", 9, 0.01, 0.01)], [], [change("self-1", "ssim", 0.9, 0.001)])
    assert table["attributes"].tolist() == ["not measured"]


def test_without_mechanisms_the_table_is_empty_and_whole(tmp_path: Path) -> None:
    single = effect("a.h00", 9, 0.01, 0.01) | {"group": "heads"}
    files = [tmp_path / f"{name}.csv" for name in ("heads", "effects", "windows", "resampled", "account")]
    HEADS.to_csv(files[0], index=False)
    pd.DataFrame([single]).to_csv(files[1], index=False)
    pd.DataFrame(columns=[*single, "window", "p_zero_max"]).to_csv(files[2], index=False)
    pd.DataFrame(columns=[*change("x", "m", 0, 1)]).to_csv(files[3], index=False)
    mechanism_account(*files, method="mean", alpha=0.05)
    table = pd.read_csv(files[4])
    assert table.empty
    assert list(table) == COLUMNS
    files[2].write_text("domain\n")
    with pytest.raises(StoreError, match=r"windows\.csv: lacks the columns group"):
        mechanism_account(*files, method="mean", alpha=0.05)
