"""What the page of VAEs is written from, data set by data set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from diffmech.tables import Table
from diffmech.vae.tables import (
    EDGES,
    EFFECTS,
    FAMILIES,
    GRAPHS,
    LATENTS,
    LINKS,
    MEDIATION,
    MODELS,
    MODULARITY,
    MOTIFS,
    PATCHING,
    RELATION,
    SCORES,
    SWAPS,
    UNITS,
)

BETWEEN = "__"  # between the name of a data set and that of a table
OF_ALL = {
    table.name.removeprefix("vae_"): table
    for table in (
        MODELS,
        LATENTS,
        EFFECTS,
        UNITS,
        PATCHING,
        MEDIATION,
        MODULARITY,
        MOTIFS,
        LINKS,
        GRAPHS,
        SWAPS,
        FAMILIES,
        RELATION,
    )
}
OF_ONE = {"scores": SCORES, "edges": EDGES}


@dataclass(frozen=True)
class Tables:
    """All tables of one data set; `scores` and `edges` are of all VAEs, with `family` and `vae_seed` before each row.

    `codes` are the stores of codes, whose pictures are shown.
    """

    models: pd.DataFrame
    latents: pd.DataFrame
    effects: pd.DataFrame
    units: pd.DataFrame
    patching: pd.DataFrame
    mediation: pd.DataFrame
    modularity: pd.DataFrame
    motifs: pd.DataFrame
    links: pd.DataFrame
    graphs: pd.DataFrame
    swaps: pd.DataFrame
    families: pd.DataFrame
    relation: pd.DataFrame
    scores: pd.DataFrame
    edges: pd.DataFrame
    codes: tuple[Path, ...]


def by_data(inputs: Mapping[str, Any], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return, for each data set of `names`, its inputs by the name of the table.

    `inputs` has them side by side, as `sprites__models`: one path per table, lists of paths as `scores`, `edges` and
    `codes`. A list that a data set has not is empty.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in inputs.items():
        name, between, table = key.rpartition(BETWEEN)
        if between and name in found:
            found[name][table] = value
    return found


def read_tables(inputs: Mapping[str, Any]) -> Tables:
    """Read the tables of one data set. Raises StoreError for what is missing or not whole."""
    return Tables(
        **{name: table.read(inputs[name]) for name, table in OF_ALL.items()},
        **{name: _of_vaes(table, _paths(inputs, name)) for name, table in OF_ONE.items()},
        codes=tuple(_paths(inputs, "codes")),
    )


def _paths(inputs: Mapping[str, Any], name: str) -> list[Path]:
    given = inputs.get(name, [])
    return [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]


def _of_vaes(table: Table, paths: list[Path]) -> pd.DataFrame:
    """Return the rows of all VAEs, each told by the folders of its file: data set, family, seed."""
    parts = [_told(table.read(path), path) for path in paths]
    if not parts:
        return pd.DataFrame(columns=["family", "vae_seed", *table.columns])
    return pd.concat(parts, ignore_index=True)


def _told(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    family, seed = path.parts[-3:-1]
    rows.insert(0, "vae_seed", int(seed))
    rows.insert(0, "family", family)
    return rows
