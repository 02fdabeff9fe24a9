"""Stores of scores and predictions."""

import numpy as np
import pytest

from diffmech.anomaly.scores import Scored
from diffmech.anomaly.stores import TEST, VALIDATION, read_prediction, read_scores, write_scores
from diffmech.artifacts import write_store
from diffmech.errors import StoreError


def test_scores_are_read_as_they_were_written(tmp_path) -> None:
    maps = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    scores = {"a": Scored(np.array([1.0, 2.0, 3.0]), maps), "b": Scored(np.array([0.5, 0.1, 0.2]))}
    write_scores(tmp_path / "s.zarr.zip", {VALIDATION: scores, TEST: scores})
    found = read_scores(tmp_path / "s.zarr.zip")[TEST]
    assert np.array_equal(found["a"].pixel, maps)
    assert found["b"].pixel is None
    assert np.array_equal(found["b"].slice, scores["b"].slice)
    assert list(read_scores(tmp_path / "s.zarr.zip", ["b", "c"])[TEST]) == ["b"]
    without = read_scores(tmp_path / "s.zarr.zip", maps=False)[VALIDATION]
    assert {name: each.pixel for name, each in without.items()} == {"a": None, "b": None}
    write_scores(tmp_path / "t.zarr.zip", {VALIDATION: scores, TEST: scores})
    assert (tmp_path / "s.zarr.zip").read_bytes() == (tmp_path / "t.zarr.zip").read_bytes()


def test_another_store_is_refused(tmp_path) -> None:
    import xarray as xr

    write_store(tmp_path / "o.zarr.zip", xr.Dataset({"x": ("y", [1.0])}))
    with pytest.raises(StoreError, match="has scores of no validation slices; delete the file to score them anew"):
        read_scores(tmp_path / "o.zarr.zip")
    with pytest.raises(StoreError, match="predicts no mean, so it is no store of predictions"):
        read_prediction(tmp_path / "o.zarr.zip")
