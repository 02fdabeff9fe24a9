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


def test_labels_that_are_no_numbers_or_no_shapes_are_refused(write) -> None:
    def with_shape(*values: float) -> np.ndarray:
        return np.column_stack([LABELS[:, :4], np.array(values)[LABELS[:, 4].astype(int)], LABELS[:, 5]])

    for replaced, message in (
        ({"labels": LABELS.astype("S5")}, r"3dshapes.h5: its labels are \|S5, expected real numbers; get 3dshapes.h5"),
        ({"labels": LABELS.astype(complex)}, r"its labels are complex128, expected real numbers"),
        ({"labels": np.where(LABELS == 30, np.nan, LABELS)}, r"row 2 of its labels holds NaN or an infinite value"),
        (
            {"labels": with_shape(0, 1.5)},
            r"shape is 1.5 in its labels, expected 0 \(cube\), 1 \(cylinder\), 2 \(sphere",
        ),
        ({"labels": with_shape(1, 4)}, r"shape is 4 in its labels, expected .* 3 \(capsule\); get the published 3d"),
        (
            {"images": pictures(0), "labels": LABELS[:0]},
            r"3dshapes.h5: 'images' is an array without rows; get the whole",
        ),
        ({"labels": LABELS[:0]}, r"3dshapes.h5: 'labels' is an array without rows"),
    ):
        with pytest.raises(DataError, match=message):
            Shapes3D(write(**replaced))
    assert Shapes3D(write(labels=with_shape(1, 3))).factors[4].labels == ("cylinder", "capsule")


@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_group_or_nothing_in_place_of_an_array_is_refused(write, name) -> None:
    path = write(**{name: None})
    import h5py

    with h5py.File(path, "a") as file:
        file.create_group(name)
    with pytest.raises(DataError, match=f"3dshapes.h5: '{name}' is a group and no array of rows; get 3dshapes.h5 as"):
        Shapes3D(path)
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = h5py.Empty("u1")
    with pytest.raises(DataError, match=f"'{name}' is an array without rows; get the whole 3dshapes.h5"):
        Shapes3D(path)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_part_that_is_damaged_is_said_to_be_where_it_is_read(write, name) -> None:
    path = write()
    import h5py

    with h5py.File(path) as file:
        start = file[name].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[start + 2 : start + 40] = b"\xff" * 38  # behind the header of gzip
    path.write_bytes(content)
    message = f"3dshapes.h5: rows of '/{name}' cannot be read from it .*; a part of it is damaged, get it anew"
    with pytest.raises(DataError, match=message) as raised:
        Shapes3D(path).images_at([0])
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_or_cut_off_is_refused(write) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"cannot be opened as HDF5 \(.*\); it is cut off or no .h5"):
        Shapes3D(path)
    path.unlink()
    with pytest.raises(DataError, match=r"there is no such file; put 3dshapes.h5 there"):
        Shapes3D(path)


@pytest.mark.parametrize("part", [b"HEAP", b"TREE", b"SNOD"])
def test_a_table_of_contents_that_is_damaged_is_said_to_be(write, part) -> None:
    path = write()
    path.write_bytes(path.read_bytes().replace(part, b"????", 1))
    with pytest.raises(DataError, match=r"3dshapes.h5: 'images' cannot be found in it \(.*\); it is damaged, get it"):
        Shapes3D(path)


def test_what_to_install_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(shapes3d.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        DataError, match=r"3D Shapes is read with the package h5py; run: pip install 'diffmech\[hdf5\]'"
    ):
        Shapes3D(tmp_path / "3dshapes.h5")
