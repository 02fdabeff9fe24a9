"""What the page of the study of anomalies is written from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from diffmech.anomaly.tables import OF_PAGE

PREFIX = "anomaly_"


@dataclass(frozen=True)
class Tables:
    """All tables of the study."""

    data: pd.DataFrame
    trainings: pd.DataFrame
    slice_measures: pd.DataFrame
    curves: pd.DataFrame
    pixel_measures: pd.DataFrame
    ablations: pd.DataFrame
    heads: pd.DataFrame
    calibration: pd.DataFrame
    coverage: pd.DataFrame
    deviations: pd.DataFrame
    reliability: pd.DataFrame
    risk: pd.DataFrame
    risk_curve: pd.DataFrame
    review: pd.DataFrame


def read_tables(inputs: Mapping[str, Any]) -> Tables:
    """Read all tables, by their names. Raises StoreError for what is missing or not whole."""
    return Tables(**{table.name.removeprefix(PREFIX): table.read(inputs[table.name]) for table in OF_PAGE})


def one(frame: pd.DataFrame, **values: Any) -> dict[str, Any] | None:
    """Return the one row of `frame` with these values, None where there is none."""
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return None if frame.empty else dict(frame.iloc[0])
