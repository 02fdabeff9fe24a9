"""Slices and their store: what is written is read again, and what cannot be slices is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffmech.anomaly.slices import UNMARKED, Slices, joined, read_slices, write_slices
from diffmech.artifacts import open_store, write_store
from diffmech.errors import StoreError


def some(count: int = 5, size: int = 16) -> Slices:
    """Return slices of two patients, the second of which has a lesion in its last slice."""
    random = np.random.default_rng(0)
    lesion = np.zeros((count, size, size), dtype=bool)
    lesion[-1, 4:6, 4:7] = True
    return Slices(
        images=random.random((count, 2, size, size), dtype=np.float32),
        brain=np.ones((count, size, size), dtype=bool),
        lesion=lesion,
        patient=np.array(["b"] * 2 + ["a"] * (count - 2)),
        position=np.linspace(0, 1, count),
        kind=np.array([""] * (count - 1) + ["bright+iso"]),
        modalities=("flair", "t1"),
    )


def assert_equal(first: Slices, second: Slices) -> None:
    assert first.modalities == second.modalities
    for name in ("images", "brain", "lesion", "patient", "position", "kind"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype.kind == getattr(second, name).dtype.kind


def test_what_is_written_is_read_again_and_equal_slices_give_equal_bytes(tmp_path) -> None:
    slices = some()
    for name in ("one.zarr.zip", "two.zarr.zip"):
        write_slices(tmp_path / name, slices, seed=3)
    assert_equal(read_slices(tmp_path / "one.zarr.zip"), slices)
    assert (tmp_path / "one.zarr.zip").read_bytes() == (tmp_path / "two.zarr.zip").read_bytes()
    assert json.loads(open_store(tmp_path / "one.zarr.zip").dataset.attrs["provenance"])["seed"] == 3


def test_slices_of_patients_stay_in_order_and_joining_them_gives_all_back() -> None:
    slices = some()
    assert slices.patients == ["a", "b"]
    assert slices.of(["a"]).position.tolist() == [0.5, 0.75, 1.0]
    assert_equal(joined([slices.of(["b"]), slices.of(["a"])]), slices)
    assert_equal(slices.take(slices.abnormal), slices.take(np.array([4])))
    with pytest.raises(ValueError, match="none of patient c"):
        slices.of(["a", "c"])
    with pytest.raises(ValueError, match="only those of the same modalities"):
        joined([slices, replace(slices, modalities=("flair", "t2"))])


def test_a_lesion_that_is_not_marked_makes_a_slice_abnormal_all_the_same() -> None:
    slices = replace(some(), kind=np.array([UNMARKED, "", "", "", "bright+iso"]))
    assert slices.abnormal.tolist() == [True, False, False, False, True]
    assert slices.marked.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("images", np.zeros((5, 2, 16, 16)), "images are float64"),
        ("images", np.full((5, 2, 16, 16), np.nan, dtype=np.float32), r"outside \[0, 1\]"),
        ("images", np.full((5, 2, 16, 16), 1.5, dtype=np.float32), r"outside \[0, 1\]"),
        ("images", np.zeros((5, 1, 16, 16), dtype=np.float32), "with 2 modalities"),
        ("brain", np.ones((5, 16, 15), dtype=bool), "brain is bool of shape"),
        ("lesion", np.ones((5, 16, 16), dtype=np.uint8), "lesion is uint8"),
        ("patient", np.array(["a"] * 4), "patient is <U1 of shape"),
        ("patient", np.array(["a", "a", "", "a", "a"]), "a patient has no name"),
        ("position", np.array([0, 0.5, 1, 2, np.nan]), "positions lie outside"),
        ("kind", np.zeros(5), "kind is float64"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_no_slices(name, array, said) -> None:
    with pytest.raises(ValueError, match=said):
        replace(some(), **{name: array})


def test_a_position_may_be_unknown() -> None:
    assert np.isnan(replace(some(), position=np.full(5, np.nan)).position).all()


def test_a_store_that_holds_no_slices_is_named(tmp_path) -> None:
    import xarray as xr

    write_store(tmp_path / "other.zarr.zip", xr.Dataset({"image": ("x", np.zeros(3))}))
    with pytest.raises(StoreError, match=r"other\.zarr\.zip: is no store of slices \(no brain, lesion"):
        read_slices(tmp_path / "other.zarr.zip")
    write_slices(tmp_path / "s.zarr.zip", some())
    from diffmech.artifacts import open_store

    data = open_store(tmp_path / "s.zarr.zip").dataset.load()
    write_store(tmp_path / "broken.zarr.zip", data.assign(position=data["position"] + 3).drop_encoding())
    with pytest.raises(StoreError, match=r"broken\.zarr\.zip: holds no valid slices: positions lie"):
        read_slices(tmp_path / "broken.zarr.zip")
