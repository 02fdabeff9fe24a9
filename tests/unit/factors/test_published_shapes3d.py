"""3D Shapes in its published layout, an HDF5 file of images and labels."""

import itertools

import numpy as np
import pytest
from published import pictures

from diffmech.data.factors import shapes3d
from diffmech.data.factors.shapes3d import Shapes3D
from diffmech.errors import DataError

VALUES = ((0.0, 0.5), (0.0, 0.1, 0.2), (0.3,), (0.75, 1.25), (0, 1), (-30, 0.0, 30))
LABELS = np.array(list(itertools.product(*VALUES)), dtype=float)


@pytest.fixture
def write(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the optional dependency `h5py` is not installed")

    def save(**replaced):
        arrays = {"images": pictures(len(LABELS)), "labels": LABELS, **replaced}
        with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
            for name, values in arrays.items():
                if values is not None:
                    file.create_dataset(name, data=values, compression="gzip")
        return tmp_path / "3dshapes.h5"

    return save


def test_each_combination_has_its_image(write) -> None:
    path = write()
    data = Shapes3D(path)
    assert [factor.name for factor in data.factors if factor.kind == "circular"] == [
        *["floor_hue", "wall_hue", "object_hue"],
    ]
    assert data.sizes == (2, 3, 1, 2, 2, 3)
    assert data.factors[4].labels == ("cube", "cylinder")
    rows = np.array([71, 5, 5, 0, 30])
    np.testing.assert_array_equal(np.rint(data.images_at(rows) * 255), np.moveaxis(pictures(72)[rows], -1, 1))
    np.testing.assert_array_equal(data.values_at(rows), LABELS[rows])
    np.testing.assert_array_equal(data.images_of(LABELS[rows]), data.images_at(rows))
    assert Shapes3D(path, size=8, channels=1).images_at([3]).shape == (1, 1, 8, 8)


def test_a_file_of_another_version_is_refused(write) -> None:
    swapped = LABELS[np.r_[0, 2, 1, 3 : len(LABELS)]]
    for replaced, message in (
        ({"labels": None}, r"3dshapes.h5: has images but no 'labels'; get 3dshapes.h5 as it was published"),
        ({"labels": LABELS[:, :5]}, r"its labels have shape \(72, 5\), expected \(72, 6\) \(floor_hue, wall_hue"),
        ({"images": pictures(72)[..., :1]}, r"its images are uint8 of shape \(72, 16, 16, 1\), expected uint8 \(image"),
        ({"labels": swapped}, r"its factors do not enumerate: row 1 has the classes \[0, 0, 0, 0, 0, 2\]"),
        ({"labels": LABELS[:-1], "images": pictures(71)}, r"holds 71 images, but factors of 2 x 3 x 1 x 2 x 2 x 3"),
    ):
        with pytest.raises(DataError, match=message):
            Shapes3D(write(**replaced))


def test_a_file_that_is_missing_or_cut_off_is_refused(write) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"cannot be opened as HDF5 \(.*\); it is cut off or no .h5"):
        Shapes3D(path)
    path.unlink()
    with pytest.raises(DataError, match=r"there is no such file; put 3dshapes.h5 there"):
        Shapes3D(path)


def test_what_to_install_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(shapes3d.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        DataError, match=r"3D Shapes is read with the package h5py; run: pip install 'diffmech\[hdf5\]'"
    ):
        Shapes3D(tmp_path / "3dshapes.h5")
