"""Tables of labels as people have them: which image has which values, whatever program wrote the table. Ours.

Cells are separated by commas, semicolons, tabs or bars, which is found by looking, or said by a first line `sep=`.
UTF-8 and, with its mark, UTF-16 are read. Names of files meet however their accents are composed (Unicode NFC, NFD)
and whichever slash is used. What cannot be understood is answered by one line that says what was found.
"""

import codecs
import contextlib
import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmech.data.formats import SUFFIXES, UNREAD, suffix_of
from diffmech.data.source import attribute_row
from diffmech.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
LOOKED_AT = 200  # rows that tell the separator
CLASSES_NAMED = 4
_SAID = re.compile(r'^"?sep=(.|\\t)"?$', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_ODD = re.compile(r"\\|//|\./|/$")
_TRUTH = {"true": "1", "false": "0"}


@dataclass(frozen=True)
class LabelTable:
    """The columns of a table after its first and, per file named in the first, its line number and its cells."""

    path: Path
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[int, list[str]]]
    separator: str
    by_form: Mapping[str, str]

    def row(self, file: str) -> tuple[int, list[str]] | None:
        """Return the line number and the cells of an image, None where it has no row."""
        named = file if file in self.rows else self.by_form.get(_form(file))
        return None if named is None else self.rows[named]

    def without_image(self, files: Iterable[str]) -> list[str]:
        """Return the names in the table that are of none of `files`."""
        present = set(files)
        forms = {_form(file) for file in present}
        return [name for name in self.rows if name not in present and _form(name) not in forms]


def read_table(path: Path, images: Sequence[str] = ()) -> LabelTable:
    """Return the table at `path`; the names of the images tell whether it has a line of names.

    Raises DataError for a table that is missing, in another encoding, without a line of names or a second column, with
    rows of a wrong length, with a row that names no file, or with a file named twice.
    """
    text, skipped = _text(path), 0
    first, _, rest = text.partition("\n")
    said = _SAID.match(first.strip(" \r"))
    if said:
        text, skipped = rest, 1
    separator = said[1].replace("\\t", "\t") if said else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t")
    lines: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append((reader.line_num + skipped, row))
    except csv.Error as error:
        last = lines[-1][0] if lines else 0
        raise DataError(
            f"{path}: below line {last} it is not a CSV ({error}); look there for a quote that nothing closes, "
            "and save it as CSV in UTF-8"
        ) from error
    names, width = _columns(path, lines, separator, images)
    found: dict[str, tuple[int, list[str]]] = {}
    by_form: dict[str, str] = {}
    present = set(images)
    for line, row in lines[1:]:
        where = f"{path}: line {line}"
        while len(row) > width and not row[-1].strip():
            row = row[:-1]
        if len(row) != width:
            hint = "; write decimals with a point" if len(row) > width and separator == "," else ""
            raise DataError(f"{where} has {len(row)} cells but the first line has {width}; mend the line{hint}")
        file = row[0].strip()
        if not file:
            raise DataError(f"{where} has values but names no file; name it in the first cell, or take the line out")
        twin = by_form.setdefault(_form(file), file)
        if file in found or (twin != file and not {twin, file} <= present):
            raise DataError(f"{where} names {file} a second time; keep one row per image")
        found[file] = line, row[1 : len(names) + 1]
    return LabelTable(path, names, found, separator, by_form)


def read_labels(
    table: LabelTable, files: Iterable[str], *, without: str | None = None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the attribute names of a table and, per file that has a row, float32 values `(attribute,)`.

    The column `without`, where there is one, is no attribute. An empty cell is an unknown value; true and false are 1
    and 0. Raises DataError for a value that is no number in [0, 1], and offers one column per value for text.
    """
    kept = [place for place, name in enumerate(table.columns) if name != without]
    names = tuple(table.columns[place] for place in kept)
    rows = {file: row for file in files if (row := table.row(file)) is not None}
    numbers = {
        file: (line, [_number(cells[place], table.separator) for place in kept]) for file, (line, cells) in rows.items()
    }
    for index, name in enumerate(names):
        _refuse_text(table.path, name, {file: (line, cells[index]) for file, (line, cells) in numbers.items()})
    return names, {
        file: attribute_row(names, cells, f"{table.path}: line {line} ({file})")
        for file, (line, cells) in numbers.items()
    }


def why_none_fits(table: LabelTable, files: Sequence[str], folder: Path) -> str:
    """Return the message for a table of which no row names one of the images `files` of `folder`."""
    if not table.rows:
        return f"{table.path}: has a line of names and no row; give a row to each image"
    named = next(iter(table.rows))
    said = f"{table.path}: none of its {len(table.rows)} rows names one of the {len(files)} images of {folder}: "
    found = f"it names {named!r}, images are named like {files[0]!r}; "
    forms = {_form(file) for file in files}
    for place, column in enumerate(table.columns):
        if any(_form(cells[place].strip()) in forms for _, cells in table.rows.values()):
            return f"{said}its column {column!r} does; make that the first"
    ways = {
        "add the suffix to each name": {posixpath.splitext(form)[0] for form in forms},
        "write names as the files have them, in the same case": {form.lower() for form in forms},
    }
    for advice, ways_to_name in ways.items():
        if {_form(name) for name in table.rows} & ways_to_name or _form(named).lower() in ways_to_name:
            return f"{said}{found}{advice}"
    return f"{said}{found}its first column must hold the path of each image relative to {folder}"


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); set `labels` to a CSV file, or to null") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if what := _instead(content):
        raise DataError(f"{path}: is no table but {what}")
    try:
        return content.decode("utf-16" if wide else "utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        workbook = content.startswith(b"PK\x03\x04")
        found = "is a workbook or an archive" if workbook else f"is not a CSV in UTF-8 ({error})"
        raise DataError(f"{path}: {found}; save it as CSV in UTF-8") from error


def _instead(content: bytes) -> str:
    """Return what a file is that was downloaded or written in the place of a table, "" where it may be one."""
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; run git lfs pull in its repository"
    if start[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page (HTML); download the table itself, by the link that is named raw or download"
    if start.startswith((b"{", b"[")):
        for text in (start, start.partition(b"\n")[0]):  # one text, or one a line
            with contextlib.suppress(ValueError):
                json.loads(text)
                return "a JSON text; save it as CSV in UTF-8, with a line of names and a row for each image"
    return ""


def _separator(text: str) -> str:
    """Return the separator by which most of the first rows have as many cells as the first, and at least two."""
    lines = [line for line in text.split("\n", LOOKED_AT)[:LOOKED_AT] if line.strip()]

    def fitting(separator: str) -> int:
        try:
            lengths = [len(row) for row in csv.reader(lines, delimiter=separator)]
        except csv.Error:
            return 0
        return lengths.count(lengths[0]) if lengths and lengths[0] > 1 else 0

    return max(SEPARATORS, key=fitting)


def _columns(
    path: Path, lines: Sequence[tuple[int, list[str]]], separator: str, images: Sequence[str]
) -> tuple[tuple[str, ...], int]:
    """Return the names of the columns after the first, and how many cells a row has.

    Empty columns at the end, which spreadsheets write, are no columns.
    """
    example = "for example 'file,smiling'"
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    bare = len(header) > 1 and _is_an_image_without_suffix(header, images)
    if header and (bare or _names_an_image(header[0], images)):
        suffix = ", and add the suffix to each name" if bare else ""
        raise DataError(
            f"{path}: its first line is that of an image, {header[0]}, so that no line names its columns; put one "
            f"above it, {example}{suffix}"
        )
    while len(header) > 1 and not header[-1] and all(not "".join(row[len(header) - 1 :]).strip() for _, row in lines):
        header.pop()
    names = tuple(header[1:])
    if not names:
        looked = ", ".join(SEPARATORS.values())
        blank = ", and is separated by blanks as it seems" if len(" ".join(header).split()) > 1 else ""
        raise DataError(
            f"{path}: its first line must name the file column and at least one attribute, {example}; it has "
            f"{len(header)} cells by any of {looked}{blank}"
        )
    if len(set(names)) != len(names) or not all(names):
        raise DataError(
            f"{path}: its first line must name the file column and at least one attribute, each once, {example}; "
            f"it reads {separator.join(header)!r}"
        )
    return names, len(header)


def _names_an_image(cell: str, images: Sequence[str]) -> bool:
    return suffix_of(cell) in (*SUFFIXES, *UNREAD) or cell in images or _form(cell) in {_form(name) for name in images}


def _is_an_image_without_suffix(header: Sequence[str], images: Sequence[str]) -> bool:
    """Return whether a first line has the name of an image without its suffix, and then numbers."""
    numbers = all(_is_number(_number(cell, ";")) for cell in header[1:] if cell)
    return numbers and _form(header[0]) in {posixpath.splitext(_form(name))[0] for name in images}


def _form(name: str) -> str:
    """Return the one form of the ways in which a path can be written."""
    if name.isascii() and not _ODD.search(name):  # nearly all, and a table may have 200,000
        return name
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def _number(cell: str, separator: str) -> str:
    """Return a cell with what stands for a number in it written as one."""
    cell = cell.strip()
    if separator != "," and _DECIMAL_COMMA.fullmatch(cell):
        return cell.replace(",", ".")
    return _TRUTH.get(cell.lower(), cell)


def _refuse_text(path: Path, name: str, cells: Mapping[str, tuple[int, str]]) -> None:
    """Raise DataError where a column holds text and no number at all: classes, or what says what belongs together."""
    filled = {file: (line, cell) for file, (line, cell) in cells.items() if cell}
    texts = sorted({cell for _, cell in filled.values()})
    if not texts or any(_is_number(text) for text in texts):
        return
    file, (line, cell) = next(iter(filled.items()))
    few = texts[:CLASSES_NAMED]
    more = f" and {len(texts) - len(few)} others" if len(texts) > len(few) else ""
    raise DataError(
        f"{path}: line {line} ({file}): {name} is {cell!r}, not a number, as in all of its column ("
        f"{', '.join(few)}{more}); write it one-hot, with a column of 0 and 1 for each value ("
        f"{', '.join(f'{name}_{text}' for text in few[:2])} ...), take it out, or give group: {name} if it says which "
        "images belong together"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
