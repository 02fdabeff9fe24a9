"""Stores of scores and predictions of one round: equal ones give equal bytes. Ours."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.anomaly.scores import Scored
from diffmech.anomaly.uncertainty import Prediction
from diffmech.artifacts import open_store, provenance, write_store
from diffmech.errors import StoreError

VALIDATION, TEST = "validation", "test"
CHUNK = 64  # slices


def write_scores(path: Path | str, parts: Mapping[str, Mapping[str, Scored]], **about: Any) -> None:
    """Write scores by name of each of the parts `validation` and `test`, with `about` in the provenance."""
    import xarray as xr

    tree, encoding = {}, {}
    for part, scores in parts.items():
        mapped = {name: each.pixel for name, each in scores.items() if each.pixel is not None}
        arrays: dict[str, Any] = {"score": (("name", "slice"), np.stack([each.slice for each in scores.values()]))}
        coords: dict[str, Any] = {"name": ("name", np.array(list(scores)))}
        if mapped:
            arrays["map"] = (("mapped", "slice", "y", "x"), np.stack(list(mapped.values())).astype(np.float32))
            coords["mapped"] = ("mapped", np.array(list(mapped)))
            _, count, *plane = arrays["map"][1].shape
            encoding[f"/{part}"] = {"map": {"chunks": (1, min(CHUNK, count), *plane)}}
        tree[part] = xr.Dataset(arrays, coords=coords)
    root = xr.Dataset(attrs={"provenance": provenance(**about)})
    write_store(path, xr.DataTree.from_dict({"/": root, **tree}), encoding=encoding or None)


def read_scores(
    path: Path | str, names: Collection[str] | None = None, *, maps: bool = True
) -> dict[str, dict[str, Scored]]:
    """Return the scores by part and name: those of `names` alone where they are given, without maps where these are not
    asked for; nothing else is read. Raises StoreError where the store is missing, not whole, or of another."""
    store = open_store(path)
    if missing := [part for part in (VALIDATION, TEST) if part not in store.children]:
        raise StoreError(f"{path}: has scores of no {missing[0]} slices; delete the file to score them anew")
    found: dict[str, dict[str, Scored]] = {}
    for part in (VALIDATION, TEST):
        data = store[part].to_dataset()
        mapped = [str(name) for name in data["mapped"].values] if maps and "map" in data else []
        found[part] = {
            name: Scored(data["score"].values[row], data["map"][mapped.index(name)].values if name in mapped else None)
            for row, name in enumerate(map(str, data["name"].values))
            if names is None or name in names
        }
    return found


def write_prediction(path: Path | str, prediction: Prediction, **about: Any) -> None:
    """Write what a model expects of test slices."""
    import xarray as xr

    dims = ("slice", "modality", "y", "x")
    arrays = {field.name: (dims, getattr(prediction, field.name)) for field in fields(Prediction)}
    count, *rest = prediction.mean.shape
    encoding = {name: {"chunks": (min(CHUNK, count), *rest)} for name in arrays}
    write_store(path, xr.Dataset(arrays, attrs={"provenance": provenance(**about)}), encoding=encoding)


def read_prediction(path: Path | str) -> Prediction:
    """Return what a model expects of test slices. Raises StoreError as `read_scores`."""
    data = open_store(path).dataset
    if missing := [field.name for field in fields(Prediction) if field.name not in data]:
        raise StoreError(f"{path}: predicts no {missing[0]}, so it is no store of predictions; let it be made anew")
    return Prediction(**{field.name: data[field.name].values for field in fields(Prediction)})
