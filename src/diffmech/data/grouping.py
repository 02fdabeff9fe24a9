"""Which images of a data set belong together, from the table that says so. Ours.

Every image of the data set store must have a group: an image without one stops the study with its name, since to guess
that it stands alone, or to leave it out, would change the units without a word. An image that is alone in its group is
given a group of its own in the table. Text is compared as it is, without blanks around it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from diffmech.config.images import IDENTITIES, AnyDataset, CelebA, HuggingFace, ImageFolder
from diffmech.data.groups import FEWEST
from diffmech.data.labels import read_table
from diffmech.data.store import open_dataset
from diffmech.data.tables import GROUPS
from diffmech.errors import DataError

GroupOf = Callable[[str], str]
_ROW = re.compile(r"row (\d+)")  # how `HuggingFaceSource` names an image


def image_groups(config: AnyDataset, dataset: Path | str, output: Path | str) -> None:
    """Write the group of each image of the store `dataset`: columns sample and group, sorted by sample.

    Raises DataError where the table or its column is missing, where an image has no group, and for fewer than 2 groups.
    """
    files = open_dataset(Path(dataset)).files
    where, group_of = _reader(config, files)
    groups = []
    for file in files:
        group = group_of(file)
        if not group:
            raise DataError(
                f"{where}: {file} has no group in the column {_column(config)!r}; give it one, a name of its own if it "
                "belongs to no other image, or set group: null"
            )
        groups.append(group)
    if len(set(groups)) < FEWEST:
        raise DataError(
            f"{where}: all {len(files)} images are of one group, {groups[0]!r}; statistics need at least {FEWEST}, so "
            "give another column, or set group: null"
        )
    GROUPS.write(output, pd.DataFrame({"sample": range(len(files)), "group": groups}))


def _column(config: Any) -> str:
    return str(config.group)


def _reader(config: AnyDataset, files: Sequence[str]) -> tuple[str, GroupOf]:
    """Return what says which images belong together, and the function from the name of an image to its group."""
    readers: Mapping[type, Callable[[Any, Sequence[str]], tuple[str, GroupOf]]] = {
        ImageFolder: _of_folder,
        CelebA: _of_celeba,
        HuggingFace: _of_hub,
    }
    return readers[type(config)](config, files)


def _of_folder(config: ImageFolder, files: Sequence[str]) -> tuple[str, GroupOf]:
    table = read_table(Path(str(config.labels)).expanduser(), files)
    if config.group not in table.columns:
        near = get_close_matches(str(config.group), table.columns, n=1, cutoff=0.0)[0]
        there = ", ".join(table.columns)
        raise DataError(f"{table.path}: has no column {config.group!r}, only {there}; did you mean {near!r}?")
    place = table.columns.index(config.group)

    def group_of(file: str) -> str:
        row = table.row(file)
        return "" if row is None else row[1][place].strip()

    return str(table.path), group_of


def _of_celeba(config: CelebA, files: Sequence[str]) -> tuple[str, GroupOf]:
    table = Path(config.path).expanduser() / IDENTITIES
    try:
        lines = [line.split() for line in table.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{table}: cannot be read ({reason}); put the original file there, or set group: null"
        ) from error
    known = {line[0]: line[1] for line in lines if len(line) == 2}
    return str(table), lambda file: known.get(file, "")


def _of_hub(config: HuggingFace, files: Sequence[str]) -> tuple[str, GroupOf]:
    from diffmech.data.hub import load_table

    table = load_table(config)
    if config.group not in table.column_names:
        near = get_close_matches(str(config.group), table.column_names, n=1, cutoff=0.0)[0]
        there = ", ".join(table.column_names)
        raise DataError(f"{config.name}: has no column {config.group!r}, only {there}; did you mean {near!r}?")
    values = table[config.group]

    def group_of(file: str) -> str:
        found = _ROW.match(file)
        value = values[int(found[1])] if found else None
        return "" if value is None else str(value).strip()

    return f"{config.name}:{config.split}", group_of
