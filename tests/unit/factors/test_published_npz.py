"""dSprites and MPI3D in their published layouts: read by row, checked, and refused in one line where broken."""

import zipfile

import numpy as np
import pytest
from published import dsprites_arrays, pictures

from diffmech.data.factors.archive import NpzArray
from diffmech.data.factors.dsprites import DSprites
from diffmech.data.factors.mpi3d import MPI3D, PUBLISHED
from diffmech.errors import DataError
from diffmech.randomness import generator

SIZES = (2, 3, 2, 1, 1, 2, 2)
BOTH = pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])


@pytest.fixture
def sprites(tmp_path):
    """Write a small dSprites of which some arrays are replaced (None: left out) and return its path."""

    def write(save=np.savez_compressed, **replaced):
        arrays = {key: value for key, value in {**dsprites_arrays(), **replaced}.items() if value is not None}
        save(tmp_path / "dsprites.npz", **arrays)
        return tmp_path / "dsprites.npz"

    return write


@BOTH
def test_dsprites_gives_the_image_of_each_combination(sprites, save) -> None:
    arrays = dsprites_arrays()
    data = DSprites(sprites(save))
    assert [(factor.name, factor.size) for factor in data.factors] == [
        *[("shape", 3), ("scale", 2), ("orientation", 4), ("x", 2), ("y", 3)],
    ]
    assert data.factors[0].labels == ("square", "ellipse", "heart")
    assert (len(data), data.image_shape) == (144, (1, 16, 16))
    rows = np.array([100, 3, 3, 143, 0])
    np.testing.assert_array_equal(data.images_at(rows)[:, 0], arrays["imgs"][rows])
    np.testing.assert_array_equal(data.values_at(rows), arrays["latents_values"][rows, 1:])
    samples = data.sample(20, generator(0, "stored"))
    turned = data.change(samples, "orientation", 4.0)
    where = [int(np.flatnonzero((arrays["latents_values"][:, 1:] == row).all(axis=1))[0]) for row in turned.values]
    np.testing.assert_array_equal(turned.images[:, 0], arrays["imgs"][where])


def test_images_are_given_at_another_size(sprites) -> None:
    small = DSprites(sprites(), size=8)
    assert small.image_shape == (1, 8, 8)
    images = small.images_at(np.arange(144))
    # Lanczos keeps the mean, but for what it cuts off above white and below black
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), dsprites_arrays()["imgs"].mean(axis=(1, 2)), atol=0.02)


def test_a_value_between_those_that_are_stored_cannot_be_shown(sprites) -> None:
    data = DSprites(sprites())
    with pytest.raises(DataError, match=r"factor 'scale': 0.7 is none of its 2 values"):
        data.change(data.sample(2, generator(0, "between")), "scale", 0.7)


def test_a_file_of_another_version_or_order_is_refused(sprites) -> None:
    arrays = dsprites_arrays()
    values, images = arrays["latents_values"], arrays["imgs"]
    swapped = np.r_[1, 0, 2:144]
    off = values.copy()
    off[5, 2] = 1.0
    for replaced, message in (
        ({"imgs": None}, r"holds latents_classes, latents_values, metadata but no array 'imgs'"),
        ({"imgs": images[:, :8]}, r"'imgs' is uint8 of shape \(144, 8, 16\), expected uint8 \(image, size, size\)"),
        ({"imgs": images.astype(float)}, r"'imgs' is float64 of shape.*; get the archive as it was published"),
        (
            {"latents_values": values[:, 1:]},
            r"'latents_values' has shape \(144, 5\), expected \(144, 6\) .*; its table of latents is",
        ),
        ({"latents_values": values[:, ::-1]}, r"color goes from 0 to 1, expected 0.9 to 1.1; its latents are"),
        (
            {name: table[swapped] for name, table in arrays.items() if name.startswith("latents")},
            r"its factors do not enumerate: row 0 has the classes \[0, 0, 0, 0, 0, 1\] where \[0, 0, 0, 0, 0, 0\]",
        ),
        ({"latents_values": off}, r"row 5 has the values .* which are not those of its classes \[0, 0, 0, 0, 1, 2\]"),
        (
            {name: table[:-1] for name, table in arrays.items() if name != "metadata"},
            r"holds 143 images, but factors of 1 x 3 x 2 x 4 x 2 x 3 values have 144 combinations; the file is cut off",
        ),
    ):
        with pytest.raises(DataError, match=message):
            DSprites(sprites(**replaced))
    half = np.where((np.arange(6) == 1) & (values == 2), 1.5, values)  # in as good an order as the published shapes
    for replaced, message in (
        (
            {"imgs": images[:0], "latents_values": values[:0], "latents_classes": values[:0].astype(int)},
            r"dsprites.npz: 'imgs' has no rows, so there is no image to draw; get the whole archive",
        ),
        ({"latents_values": values.astype(str)}, r"'latents_values' holds <U32, expected whole or real numbers; get"),
        ({"latents_values": values.astype(complex)}, r"'latents_values' holds complex128, expected whole or real"),
        ({"latents_classes": values.astype("S4")}, r"'latents_classes' holds \|S4, expected whole or real numbers"),
        (
            {"latents_values": half},
            r"dsprites.npz: shape is 1.5 in 'latents_values', expected 1 \(square\), 2 \(ellipse\) or 3 \(heart\); its",
        ),
    ):
        with pytest.raises(DataError, match=message):
            DSprites(sprites(**replaced))
    grey = DSprites(sprites(imgs=images * np.uint8(200)))
    with pytest.raises(DataError, match=r"'imgs' holds pixels of 200, expected only 0 and 1"):
        grey.images_at([0])


@BOTH
def test_mpi3d_gives_the_image_of_each_combination(tmp_path, save) -> None:
    images = pictures(48)
    save(tmp_path / "mpi3d.npz", images=images)
    data = MPI3D(tmp_path / "mpi3d.npz", sizes=SIZES)
    assert (len(data), data.image_shape) == (48, (3, 16, 16))
    assert [factor.name for factor in data.factors if factor.kind == "discrete"] == [
        *["object_color", "object_shape", "background_color"],
    ]
    rows = np.array([47, 5, 5, 0])
    np.testing.assert_array_equal(np.rint(data.images_at(rows) * 255), np.moveaxis(images[rows], -1, 1))
    values = np.array([[1.0, 2, 0, 0, 0, 1, 0]])
    np.testing.assert_array_equal(np.rint(data.images_of(values)[0] * 255), np.moveaxis(images[24 + 2 * 8 + 2], -1, 0))
    grey = MPI3D(tmp_path / "mpi3d.npz", sizes=SIZES, channels=1).images_at(rows)[:, 0]
    np.testing.assert_allclose(grey, images[rows] @ [0.299, 0.587, 0.114] / 255, atol=0.501 / 255)


def test_the_published_sizes_of_mpi3d_follow_from_its_number_of_images() -> None:
    assert [int(np.prod(sizes)) for sizes in PUBLISHED] == [1_036_800, 460_800]


def test_an_mpi3d_of_another_kind_is_refused(tmp_path) -> None:
    np.savez(tmp_path / "mpi3d.npz", images=pictures(48))
    with pytest.raises(DataError, match=r"48 images are of no published MPI3D, which has 1,036,800 or 460,800"):
        MPI3D(tmp_path / "mpi3d.npz")
    with pytest.raises(DataError, match=r"3 numbers are given for the seven factors of MPI3D, object_color"):
        MPI3D(tmp_path / "mpi3d.npz", sizes=(4, 4, 3))
    with pytest.raises(DataError, match=r"holds 48 images, but factors of 2 x 3 x 2 x 1 x 1 x 2 x 3 values have 72"):
        MPI3D(tmp_path / "mpi3d.npz", sizes=(*SIZES[:-1], 3))
    np.savez(tmp_path / "none.npz", images=pictures(0))
    with pytest.raises(DataError, match=r"none.npz: 'images' has no rows, so there is no image to draw"):
        MPI3D(tmp_path / "none.npz", sizes=(0,) * 7)
    np.savez(tmp_path / "grey.npz", images=pictures(48)[..., 0])
    with pytest.raises(DataError, match=r"shape \(48, 16, 16\), expected uint8 \(image, size, size, 3\)"):
        MPI3D(tmp_path / "grey.npz", sizes=SIZES)


@BOTH
def test_rows_of_an_archive_are_those_of_numpy(tmp_path, save) -> None:
    whole = {"a": np.arange(3000.0).reshape(1000, 3), "long_name_of_an_array": np.arange(7)}
    save(tmp_path / "some.npz", **whole)
    for name, values in whole.items():
        array = NpzArray(tmp_path / "some.npz", name)
        numbers = np.array([len(values) - 1, 0, 3, 3])
        np.testing.assert_array_equal(array.rows(numbers), values[numbers])
        np.testing.assert_array_equal(array.whole(), values)
        assert array.compressed == (save is np.savez_compressed)


def test_an_archive_that_is_missing_cut_off_or_damaged_is_said_to_be(tmp_path) -> None:
    path = tmp_path / "images.npz"
    with pytest.raises(DataError, match=r"images.npz: there is no such file; put the published .npz there"):
        NpzArray(path, "images")
    np.savez_compressed(path, images=pictures(20), objects=np.array([{}, 1]), fortran=np.asfortranarray(np.eye(3)))
    for name in ("objects", "fortran"):
        with pytest.raises(DataError, match=f"'{name}' is no plain array of rows"):
            NpzArray(path, name)
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    with pytest.raises(DataError, match=r"cannot be read as .npz \(File is not a zip file\); it is cut off or damaged"):
        NpzArray(path, "images")
    path.write_bytes(good[:5000] + bytes(500) + good[5500:])
    array = NpzArray(path, "images")
    with pytest.raises(DataError, match=r"'images' cannot be unpacked .*; the file is damaged"):
        array.rows(np.arange(3))
    entry = good.index(b"PK\x01\x02")  # of the directory: what version of ZIP it needs is at 6, its flags at 8
    for at, changed, reason in ((6, 99, "zip file version 9.9"), (8, 1, ".* is encrypted, password required .*")):
        path.write_bytes(good[: entry + at] + bytes([changed]) + good[entry + at + 1 :])
        with pytest.raises(DataError, match=f"cannot be read as .npz \\({reason}\\); it is cut off or damaged"):
            NpzArray(path, "images")
    np.savez(path, images=pictures(20))
    path.write_bytes(path.read_bytes().replace(b"(20, 16", b"((0, 16"))
    with pytest.raises(DataError, match=r"cannot be read as .npz \(.*\); it is cut off or damaged, get it anew"):
        NpzArray(path, "images")
    with zipfile.ZipFile(path, "w") as archive:
        np.save(tmp_path / "short.npy", pictures(20))
        archive.writestr("images.npy", (tmp_path / "short.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"has 15487 bytes where its shape \(20, 16, 16, 3\) needs 15488"):
        NpzArray(path, "images")
