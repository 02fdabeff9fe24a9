"""Tables are declared once: what is written and read is what the declaration and docs/tables.md say."""

import subprocess
import sys
import types
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffmech import declared, dictionary
from diffmech.config.further import further_sections
from diffmech.declared import every_table
from diffmech.errors import StoreError
from diffmech.interventions.tables import EFFECTS
from diffmech.mechanisms.tables import ACCOUNT
from diffmech.tables import Table, flag, interval, number, text, whole

TABLE = Table(
    name="tried",
    path="results/{model}/tried.csv",
    row="a head",
    about="Something.",
    columns={
        "head": text("head"),
        "n": whole("images"),
        "effect": number("effect", "%"),
        **interval("effect", "%"),
        "found": flag("found"),
    },
)
FRAME = pd.DataFrame(
    {"head": ["a", "b"], "n": [3, 4], "effect": [1.23456789, np.nan], "low": 0.0, "high": 2.0, "found": [True, False]}
)


def test_what_is_written_is_read_again(tmp_path) -> None:
    TABLE.write(tmp_path / "t.csv", FRAME)
    found = TABLE.read(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "a,3,1.23457,0,2,True"
    assert found["found"].tolist() == [True, False]
    assert found["found"].dtype == bool
    pd.testing.assert_frame_equal(
        found.drop(columns="effect"), FRAME.drop(columns="effect").astype(found.dtypes.drop("effect"))
    )


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.drop(columns="low"), "columns low other than declared"),
        (FRAME.assign(more=1), "columns more other than declared"),
        (FRAME[["n", "head", "effect", "low", "high", "found"]], "another order"),
    ],
)
def test_other_columns_than_declared_are_not_written(frame, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        TABLE.write(tmp_path / "t.csv", frame)
    assert not list(tmp_path.iterdir())


def test_a_row_with_another_key_is_no_row_of_the_table() -> None:
    assert TABLE.frame([{"head": "a"}])["n"].isna().all()
    with pytest.raises(ValueError, match="table tried: a row has m, which is no column"):
        TABLE.frame([{"head": "a", "m": 3}])


def test_reading_names_the_file_the_column_and_what_is_odd(tmp_path) -> None:
    path = tmp_path / "t.csv"
    FRAME.assign(effect=["much", "1"]).to_csv(path, index=False)
    with pytest.raises(StoreError, match=r"t\.csv: column effect holds 'much', .*; delete the file to have it made"):
        TABLE.read(path)
    FRAME.drop(columns="found").to_csv(path, index=False)
    with pytest.raises(StoreError, match=r"t\.csv: lacks the columns found"):
        TABLE.read(path)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("head", ["a", 1]),
        ("n", [3, 0.5]),
        ("n", [3, np.inf]),
        ("n", [True, False]),
        ("n", ["3", "4"]),
        ("effect", [1.0, "much"]),
        ("effect", [True, False]),
        ("found", [1, 0]),
        ("found", [True, None]),
        ("found", ["True", "False"]),
    ],
)
def test_cells_of_another_kind_than_declared_are_not_written(column, cells, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"table tried: column {column} holds .*, declared are"):
        TABLE.write(tmp_path / "t.csv", FRAME.assign(**{column: cells}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("column", "cell"), [("n", "0.5"), ("n", "True"), ("effect", "NA"), ("found", "7"), ("found", "yes"), ("found", "")]
)
def test_cells_of_another_kind_than_declared_are_not_read(column, cell, tmp_path) -> None:
    cells = {"head": "a", "n": "3", "effect": "1", "low": "0", "high": "2", "found": "True"} | {column: cell}
    for others in (0, 1):  # alone, and among cells that are right
        rows = [cells, *[cells | {column: "1"}] * others]
        pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(StoreError, match=rf"t\.csv: column {column} holds .*, expected"):
            TABLE.read(tmp_path / "t.csv")


def test_a_spreadsheet_may_have_written_flags_its_own_way(tmp_path) -> None:
    for first, second in (("TRUE", "FALSE"), ("1", "0"), ("true", "false")):
        FRAME.assign(found=[first, second]).to_csv(tmp_path / "t.csv", index=False)
        assert TABLE.read(tmp_path / "t.csv")["found"].tolist() == [True, False]


def test_whole_numbers_have_all_their_digits_and_may_be_missing(tmp_path) -> None:
    TABLE.write(tmp_path / "t.csv", FRAME.assign(n=[1234567.0, np.nan]))
    assert [line.split(",")[1] for line in (tmp_path / "t.csv").read_text().splitlines()] == ["n", "1234567", ""]
    assert TABLE.read(tmp_path / "t.csv")["n"].tolist()[0] == 1234567


@pytest.mark.parametrize("names", [["1", "2"], ["2019", "2020"], ["NA", "null"], ["True", "nan"], ["None", "1e3"]])
def test_names_that_look_like_numbers_or_like_nothing_stay_text(names, tmp_path) -> None:
    TABLE.write(tmp_path / "t.csv", FRAME.assign(head=names))
    assert TABLE.read(tmp_path / "t.csv")["head"].tolist() == names
    assert TABLE.read(tmp_path / "t.csv", ["head"])["head"].tolist() == names


def test_only_the_columns_that_are_asked_for_are_read_and_checked(tmp_path) -> None:
    FRAME[["n", "head"]].assign(other=1).to_csv(tmp_path / "t.csv", index=False)
    assert list(TABLE.read(tmp_path / "t.csv", ["head", "n"])) == ["head", "n"]
    with pytest.raises(StoreError, match=r"t\.csv: lacks the columns found"):
        TABLE.read(tmp_path / "t.csv", ["head", "found"])
    with pytest.raises(KeyError, match="other"):
        TABLE.read(tmp_path / "t.csv", ["other"])


def test_an_empty_table_and_one_without_numbers_are_read(tmp_path) -> None:
    TABLE.write(tmp_path / "none.csv", TABLE.frame())
    assert TABLE.read(tmp_path / "none.csv").empty
    TABLE.write(tmp_path / "nan.csv", FRAME.assign(effect=np.nan))
    assert TABLE.read(tmp_path / "nan.csv")["effect"].isna().all()


def test_names_and_paths_are_declared_once_and_every_column_says_what_it_is() -> None:
    tables = every_table()
    assert {"entropy", "effects", "circuit_edges", "recovery", "groups"} <= {table.name for table in tables}
    for what in ("name", "path"):
        assert [n for n, count in Counter(getattr(table, what) for table in tables).items() if count > 1] == []
    for table in tables:
        assert table.path.startswith("results/")
        assert table.about.endswith(".")
        for name, column in table.columns.items():
            assert column.meaning, f"{table.name}.{name}"
            assert "|" not in column.meaning + column.source, "it would end the cell of docs/tables.md"
            assert (column.values in ("text", "flag")) <= (column.unit == ""), f"{table.name}.{name} has a unit"
            # names and counts are what they are; a number and a verdict are by a definition, which is somebody's
            assert column.source or column.values in ("text", "whole"), f"{table.name}.{name} has no source"


def test_columns_of_one_name_hold_one_kind_of_cells() -> None:
    kinds: dict[tuple[str, str], set[str]] = {}
    for table in every_table():
        study = table.path.split("/")[1]  # a further study has words of its own
        for name, column in table.columns.items():
            kinds.setdefault((study if study in further_sections() else "", name), set()).add(column.values)
    # a timestep may be "all", an effect one of a kind, and pairs have a first and a second head, planted or not
    differ = {"timestep", "effect", "first", "second", "planted"}
    assert {name for name, found in kinds.items() if len(found) > 1} == {("", name) for name in differ}


def test_the_account_repeats_units_and_intervals_of_the_effects_that_it_repeats() -> None:
    for name in set(ACCOUNT.columns) & set(EFFECTS.columns):
        ours, theirs = ACCOUNT.columns[name], EFFECTS.columns[name]
        assert ours.unit == theirs.unit, name
        for how in ("quantiles", "range", "bootstrap"):
            assert (how in ours.meaning) == (how in theirs.meaning), name


def test_two_tables_of_one_name_are_refused_and_one_that_is_imported_again_is_not(monkeypatch) -> None:
    first, second = (types.ModuleType(f"diffmech_{name}") for name in ("one", "two"))
    for module in (first, second):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(declared, "_modules", lambda pattern: [first.__name__, second.__name__])
    first.TABLE = second.IMPORTED = TABLE
    second.OTHER = replace(TABLE, name="other")
    assert [table.name for table in every_table()] == ["tried", "other"]
    second.OTHER = replace(TABLE, path="results/other.csv")
    with pytest.raises(ValueError, match="diffmech_two: a table of diffmech_one is called tried too"):
        every_table()


def test_the_dictionary_is_what_is_declared() -> None:
    assert dictionary.PAGE.read_text(encoding="utf-8") == dictionary.page(), "run `make docs`"


def test_the_dictionary_is_ordered_by_where_tables_lie() -> None:
    paths = [line for line in dictionary.page().splitlines() if line.startswith("## ")]
    assert len(paths) == len(every_table())
    assert paths == sorted(paths)


def test_no_path_of_a_table_is_written_a_second_time() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "rules").glob("*.smk"), *(root / "src").rglob("*.py"), root / "Snakefile"]
    declaring = {*(root / "src").rglob("tables.py"), *(root / "src/diffmech/measures").glob("*.py")}
    paths = {table.path for table in every_table()}
    for file in files:
        lines = file.read_text(encoding="utf-8").replace("{study.model}", "{model}")
        if file not in declaring:
            assert [path for path in paths if path in lines] == [], f"{file}: take it from the declaration"


def test_declarations_import_nothing_heavy() -> None:
    heavy = ["torch", "diffusers", "xarray", "zarr", "pandas", "altair", "scipy", "numpy", "jaxtyping"]
    code = "import sys; from diffmech.declared import every_table; every_table(); "
    code += f"print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
