"""Stores of scores and of predictions give back what was written, and say what is missing."""

import numpy as np
import pytest
import xarray as xr

from diffmech.anomaly.scores import Scored
from diffmech.anomaly.stores import TEST, VALIDATION, read_prediction, read_scores, write_scores
from diffmech.artifacts import write_store
from diffmech.errors import StoreError


def test_scores_are_read_as_they_were_written(tmp_path) -> None:
    maps = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    written = {"model": Scored(np.arange(3.0), maps), "position": Scored(-np.arange(3.0), None)}
    write_scores(tmp_path / "s.zarr.zip", {VALIDATION: written, TEST: written})
    found = read_scores(tmp_path / "s.zarr.zip")
    assert set(found) == {VALIDATION, TEST}
    np.testing.assert_array_equal(found[TEST]["model"].pixel, maps)
    np.testing.assert_array_equal(found[TEST]["position"].slice, -np.arange(3.0))
    assert found[TEST]["position"].pixel is None


def test_what_a_store_lacks_is_said(tmp_path) -> None:
    write_store(tmp_path / "x.zarr.zip", xr.Dataset({"mean": ("slice", np.zeros(3))}))
    with pytest.raises(StoreError, match=r"has scores of no \w+ slices; delete the file to score them anew"):
        read_scores(tmp_path / "x.zarr.zip")
    with pytest.raises(StoreError, match=r"predicts no \w+, so it is no store of predictions; let it be made anew"):
        read_prediction(tmp_path / "x.zarr.zip")
