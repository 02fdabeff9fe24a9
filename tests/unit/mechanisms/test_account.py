"""The account of a mechanism claims what its tables show, and no more."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffmech.errors import StoreError
from diffmech.interventions.decisions import CAUSAL, NOT_BEYOND, NOTHING, UNFAIR, UNTOLD
from diffmech.interventions.tables import EFFECTS, WINDOWS
from diffmech.mechanisms.account import BEYOND, account, mechanism_account
from diffmech.mechanisms.tables import ACCOUNT, MECHANISMS
from diffmech.resampling.tables import RESAMPLING

HEADS = pd.DataFrame(
    {
        "head": ["a.h00", "a.h01", "b.h00"],
        "mechanism": ["self-1", "self-1", "self-2"],
        "label": ["unassigned", "unassigned", "sink"],
        **{"domain_first": "real", "label_first": ["edge", "edge", "sink"], "confirmed_first": True},
        **{"domain_second": "synthetic", "label_second": ["texture", "texture", "sink"], "confirmed_second": True},
    }
)


def effect(target: str, percent: float, p_zero: float, verdict: str, domain: str = "real") -> dict[str, object]:
    return {
        **{"domain": domain, "group": "mechanisms", "target": target, "method": "mean", "timestep": "all"},
        **{"effect_percent": percent, "low": percent - 1, "high": percent + 1, "p_zero_max": p_zero},
        **{"control_mean": 1.0, "control_low": 0.5, "control_high": 2.0, "p_control_adjusted": 0.2},
        **{"smallest_effect": 2.0, "smallest_effect_control": 4.0, "controls": 20, "controls_fair": True},
        **{"verdict": verdict, "heads": 2, "n": 16},
    }


def window(target: str, span: str, percent: float, p_max: float, verdict: str = NOT_BEYOND) -> dict[str, object]:
    return effect(target, percent, p_max, verdict) | {"window": span}


def change(target: str, measure: str, value: float, p: float, domain: str = "synthetic") -> dict[str, object]:
    return {
        **{"domain": domain, "group": "mechanisms", "target": target, "window": "all", "measure": measure},
        **{"effect": value, "low": value - 0.1, "high": value + 0.1, "p_zero_holm": p},
        **{"control_low": -0.1, "control_high": 0.1, "p_control_adjusted": 0.3},
        **{"control_ratio": 1.0, "controls": 20, "controls_fair": True, "flipped": 0.25},
    }


def told(effects: list, windows: list = (), changes: list = ()) -> pd.DataFrame:
    columns = [*effect("x", 0, 1, NOTHING), "window"]
    return account(
        HEADS,
        pd.DataFrame(effects),
        pd.DataFrame(windows, columns=columns),
        pd.DataFrame(changes, columns=[*change("x", "m", 0, 1)]),
        method="mean",
        alpha=0.05,
    )


def test_the_verdict_over_all_timesteps_stands_beside_that_of_the_window() -> None:
    """They are of two families: what is not found over all timesteps may be found in one window."""
    row = told([effect("self-1", 9, 0.2, NOTHING)], [window("self-1", "0-99", 5, 0.01, CAUSAL)]).iloc[0]
    assert (row["verdict"], row["window"], row["window_verdict"]) == (NOTHING, "0-99", CAUSAL)


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        ({"p_control_adjusted": 0.05}, BEYOND),
        ({"p_control_adjusted": 0.2}, NOT_BEYOND),
        ({"p_control_adjusted": 0.01, "controls_fair": False, "controls": np.nan}, UNFAIR),
        ({"p_control_adjusted": 0.2, "controls": 4}, UNTOLD),
        ({"p_control_adjusted": np.nan, "controls": np.nan, "controls_fair": False, "control_ratio": np.nan}, UNTOLD),
    ],
)
def test_an_attribute_is_the_mechanisms_only_beyond_enough_fair_controls(controls, expected) -> None:
    changed = change("self-1", "asked:hat", -0.4, 0.01) | controls
    row = told([effect("self-1", 9, 0.01, CAUSAL, "synthetic")], [], [changed])
    assert row.loc[0, "attribute_verdict"] == expected
    assert row.loc[0, "attributes_beyond"] == ("hat" if expected == BEYOND else "")
    assert row.loc[0, "attributes"] == "hat"


def test_a_change_of_next_to_nothing_stands_beside_the_verdicts_that_it_flips() -> None:
    small = change("self-1", "asked:hat", -6e-8, 0.05) | {"flipped": 0.0}
    row = told([effect("self-1", 9, 0.01, CAUSAL, "synthetic")], [], [small]).iloc[0]
    assert (row["attributes"], row["attributes_flipped"], row["attribute_flipped"]) == ("hat", "", 0.0)
    both = [small, change("self-1", "asked:glasses", -0.2, 0.01)]
    row = told([effect("self-1", 9, 0.01, CAUSAL, "synthetic")], [], both).iloc[0]
    assert (row["attributes"], row["attributes_flipped"], row["attribute_flipped"]) == ("glasses hat", "glasses", 0.25)


def test_when_is_the_window_with_the_largest_effect_that_can_be_told_from_zero() -> None:
    windows = [
        window("self-1", "0-99", 5, 0.01),
        window("self-1", "100-199", 8, 0.02),
        window("self-1", "200-299", 30, 0.4),
    ]
    table = told([effect("self-1", 9, 0.01, CAUSAL), effect("self-2", 9, 0.01, CAUSAL)], windows)
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
    effects = [effect("self-1", 9, 0.01, CAUSAL, domain) for domain in ("real", "synthetic")]
    table = told([*effects, effect("self-2", 9, 0.01, CAUSAL, "synthetic")], [], changes)
    # only synthetic images were sampled
    assert table["attributes"].tolist() == ["not measured", "hat glasses", "none"]
    assert table.loc[1, ["attribute", "attribute_measure", "attribute_change"]].tolist() == ["hat", "attribute", -0.5]


def test_an_attribute_may_be_lost_only_where_it_was_asked_for() -> None:
    changes = [change("self-1", "attribute:hat", 0.01, 0.8), change("self-1", "asked:hat", -0.4, 0.01)]
    table = told([effect("self-1", 9, 0.01, CAUSAL, "synthetic")], [], changes)
    assert table.loc[0, ["attributes", "attribute_measure", "attribute_change"]].tolist() == ["hat", "asked", -0.4]


def test_without_a_judge_the_account_says_that_attributes_were_not_measured() -> None:
    table = told([effect("self-1", 9, 0.01, CAUSAL)], [], [change("self-1", "ssim", 0.9, 0.001)])
    assert table["attributes"].tolist() == ["not measured"]


def written(folder: Path, heads: pd.DataFrame, effects: list, windows: list, changes: list) -> list[Path]:
    """Write the four tables, empty where nothing is said, and return their paths and that of the account."""
    files = [folder / f"{name}.csv" for name in ("heads", "effects", "windows", "resampled", "account")]
    frames = (heads, *map(pd.DataFrame, (effects, windows, changes)))
    for path, table, frame in zip(files, (MECHANISMS, EFFECTS, WINDOWS, RESAMPLING), frames, strict=False):
        flags = [name for name, column in table.columns.items() if column.values == "flag"]
        whole = frame.reindex(columns=list(table.columns))
        table.write(path, whole.assign(**{name: whole[name].eq(True) for name in flags}))
    return files


@pytest.mark.parametrize("names", [("1", "2"), ("2019", "2020"), ("True", "1"), ("NA", "null"), ("nan", "None")])
def test_domains_may_have_any_name(names: tuple[str, str], tmp_path: Path) -> None:
    """Read from files, 1 is no number and NA is not missing: the account is that of domains with other names."""
    other = dict(zip(("real", "synthetic"), names, strict=True))
    effects = [effect("self-1", 9, 0.01, CAUSAL, domain) for domain in other]
    windows = [window("self-1", "0-99", 5, 0.01) | {"domain": domain} for domain in other]
    changes = [change("self-1", "asked:hat", -0.4, 0.01, domain) for domain in other]
    accounts = []
    for naming in ({}, other):
        folder = tmp_path / str(len(naming))
        rows = [
            [row | {"domain": naming.get(row["domain"], row["domain"])} for row in kind]
            for kind in (effects, windows, changes)
        ]
        files = written(folder, HEADS.replace(naming), *rows)
        mechanism_account(*files, method="mean", alpha=0.05)
        accounts.append(ACCOUNT.read(files[-1]))
    assert accounts[1]["domain"].tolist() == sorted(names)
    found, expected = (each.sort_values("label", ignore_index=True) for each in (accounts[1], accounts[0]))
    assert expected["window"].tolist() == ["0-99", "0-99"]
    assert expected["attributes"].tolist() == ["hat", "hat"]
    pd.testing.assert_frame_equal(found, expected.assign(domain=expected["domain"].map(other)))


def test_without_mechanisms_the_table_is_empty_and_whole(tmp_path: Path) -> None:
    single = effect("a.h00", 9, 0.01, CAUSAL) | {"group": "heads"}
    files = written(tmp_path, HEADS, [single], [], [])
    mechanism_account(*files, method="mean", alpha=0.05)
    table = pd.read_csv(files[4])
    assert table.empty
    assert list(table) == list(ACCOUNT.columns)
    files[2].write_text("domain\n")
    with pytest.raises(StoreError, match=r"windows\.csv: lacks the columns group, target"):
        mechanism_account(*files, method="mean", alpha=0.05)
