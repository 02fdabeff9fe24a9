"""What the page of VAEs is written from, data set by data set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from diffmech.tables import Table
from diffmech.vae.stores import which_vae
from diffmech.vae.tables import EDGES, SCORES, TABULATED

BETWEEN = "__"  # between the name of a data set and that of a table
OF_ALL = {table.name.removeprefix("vae_"): table for table in TABULATED}
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

    def of_learned(self) -> "Tables":
        """Return the same without VAEs that have not learned their images, in all tables that name a VAE."""
        models = self.models[self.models["learned"].astype(bool)]
        learned = set(zip(models["family"], models["vae_seed"], strict=True))

        def kept(table: pd.DataFrame) -> pd.DataFrame:
            of = zip(table["family"], table["vae_seed"], strict=True)
            return table[[each in learned for each in of]].reset_index(drop=True)

        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "codes"}
        changed: dict[str, Any] = {name: kept(table) for name, table in named.items() if "vae_seed" in table}
        return replace(self, **changed)


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
    _, family, seed = which_vae(path.parent)
    rows.insert(0, "vae_seed", seed)
    rows.insert(0, "family", family)
    return rows
