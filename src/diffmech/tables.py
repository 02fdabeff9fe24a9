"""A table of results is declared once, beside what computes it: its path, its rows, its columns and what they mean.

Declarations stand in the `tables` module of each room, those of one more measure in its own module of `measures`
(`diffmech.declared` finds them); all of them import nothing heavy, since rules take paths from them. What is written is
checked against the declaration, and so is what is read. Ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffmech.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd

# What the cells of a column hold: text, whole numbers and numbers (empty where there is none), true or false.
Values = Literal["text", "whole", "number", "flag"]
OURS = "ours"
ALL = "all"  # in the column of timesteps or windows, of a row that is of all of them
FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}  # spreadsheets write 1 and 0
EXPECTED = {"text": "text", "whole": "whole numbers", "number": "numbers", "flag": "True or False"}


@dataclass(frozen=True)
class Column:
    """One column: what it means, what its cells hold, its unit ("" without one, "1" of a pure number), its source."""

    meaning: str
    values: Values
    unit: str = ""
    source: str = OURS


def text(meaning: str, source: str = "") -> Column:
    """Return a column of names or words."""
    return Column(meaning, "text", "", source)


def whole(meaning: str, unit: str = "1", source: str = "") -> Column:
    """Return a column of counts or other whole numbers, empty where there is none."""
    return Column(meaning, "whole", unit, source)


def number(meaning: str, unit: str = "1", source: str = OURS) -> Column:
    """Return a column of numbers, empty where there is none."""
    return Column(meaning, "number", unit, source)


def flag(meaning: str, source: str = OURS) -> Column:
    """Return a column of true and false."""
    return Column(meaning, "flag", "", source)


def interval(of: str, unit: str = "1", prefix: str = "", how: str = "bootstrap over images") -> dict[str, Column]:
    """Return the columns `low` and `high` of an interval, with `prefix` before their names."""
    return {
        f"{prefix}{end}": number(f"{word} end of the interval of {of} ({how})", unit)
        for end, word in (("low", "lower"), ("high", "upper"))
    }


@dataclass(frozen=True)
class Table:
    """One table of results, a CSV file.

    `path` is that of its file, with the wildcards of the rule that makes it; `row` says what one row is, `about` what
    the table answers. Where `more` names a kind of further columns, a file may have any others behind those that are
    declared. `name` is how rules, charts and docs call it.
    """

    name: str
    path: str
    row: str
    about: str
    columns: Mapping[str, Column]
    more: str = ""

    def at(self, **wildcards: str) -> str:
        """Return the path of the file for these values of its wildcards."""
        return self.path.format(**wildcards)

    def write(self, path: Path | str, frame: "pd.DataFrame", *, digits: int = 6) -> None:
        """Write `frame` so that equal numbers give equal bytes: significant `digits`, whole numbers with all of theirs.

        Raises ValueError where its columns, or what their cells hold, are not what is declared.
        """
        from diffmech.artifacts import write_csv

        found, declared = list(map(str, frame.columns)), list(self.columns)
        found = found[: len(declared)] if self.more else found
        if found != declared:
            odd = [name for name in found if name not in declared] + [name for name in declared if name not in found]
            what = f"columns {', '.join(odd)}" if odd else f"columns in another order ({', '.join(found)})"
            raise ValueError(f"table {self.name}: {what} other than declared; mend its declaration or what computes it")
        if odd_cell := self._odd_cell(frame):
            name, cell = odd_cell
            raise ValueError(
                f"table {self.name}: column {name} holds {cell!r}, declared are {EXPECTED[self.columns[name].values]}; "
                "mend its declaration or what computes it"
            )
        whole_numbers = [name for name, column in self.columns.items() if column.values == "whole"]
        write_csv(path, frame.astype(dict.fromkeys(whole_numbers, "Int64")), digits=digits)

    def read(self, path: Path | str, only: Iterable[str] = ()) -> "pd.DataFrame":
        """Read the table, or of its declared columns `only` these; text as it stands, flags as bool.

        StoreError names the file, and the column that is missing or odd.
        """
        from diffmech.artifacts import read_csv

        wanted = list(only) or list(self.columns)
        as_text = [name for name in wanted if self.columns[name].values in ("text", "flag")]
        frame = read_csv(path, wanted, text=as_text)
        frame = frame[wanted] if only else frame
        for name in as_text:
            if self.columns[name].values == "flag":
                known = frame[name].str.lower().map(FLAGS)
                frame = frame.assign(**{name: known.where(known.notna(), frame[name]).infer_objects()})
        if odd_cell := self._odd_cell(frame):
            name, cell = odd_cell
            column = self.columns[name]
            raise StoreError(
                f"{path}: column {name} holds {cell!r}, expected {EXPECTED[column.values]} ({column.meaning}); delete "
                "the file to have it made anew"
            )
        return frame

    def _odd_cell(self, frame: "pd.DataFrame") -> tuple[str, Any] | None:
        """Return the first column of `frame` with a cell that is not what is declared, and that cell."""
        for name, column in self.columns.items():
            if name in frame and not (odd := _odd(frame[name], column.values)).empty:
                return name, odd.iloc[0]
        return None

    def frame(self, rows: Iterable[Any] = ()) -> "pd.DataFrame":
        """Return a table of `rows`, mappings or sequences in the order of the columns; what a mapping lacks is empty.

        Raises ValueError for a mapping with a key that is no column, which pandas would drop without a word.
        """
        import pandas as pd

        found = list(rows)
        for row in found:
            if isinstance(row, Mapping) and not row.keys() <= self.columns.keys():
                odd = ", ".join(str(key) for key in row if key not in self.columns)
                raise ValueError(f"table {self.name}: a row has {odd}, which is no column; mend what computes it")
        return pd.DataFrame(found, columns=list(self.columns))

    def in_order(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """Return the declared columns of `frame`, in the order of the declaration."""
        return frame[list(self.columns)]


def layout(declared: Any) -> Any:
    """Return what of a declaration decides what is written and read: names of columns, their order and their kinds."""
    if isinstance(declared, Table):
        return layout(declared.columns), bool(declared.more)
    if isinstance(declared, Mapping):
        return [(name, layout(column)) for name, column in declared.items()]
    return declared.values if isinstance(declared, Column) else declared


def _odd(cells: "pd.Series", values: Values) -> "pd.Series":
    """Return the cells that do not hold `values`; all but flags may be empty."""
    from pandas.api.types import is_bool, is_bool_dtype, is_numeric_dtype

    found = (cells if values == "flag" else cells.dropna()).infer_objects()
    if is_bool_dtype(found):
        return found.iloc[: 0 if values == "flag" else None]
    if is_numeric_dtype(found):
        return found[found % 1 != 0] if values == "whole" else found.iloc[: 0 if values == "number" else None]
    if values == "flag":
        return found[[not is_bool(cell) for cell in found]]
    return found[[not isinstance(cell, str if values == "text" else Real) or is_bool(cell) for cell in found]]
