"""SmallNORB in its published layout: three files per split, toys in two splits, plain or gzipped."""

import numpy as np
import pytest
from published import matrix, norb_split, write_norb

from diffmech.data.factors.smallnorb import STEMS, SmallNORB, read_matrix
from diffmech.errors import DataError
from diffmech.randomness import generator

TRAINING, TESTING = norb_split((4, 6), seed=0), norb_split((1, 2, 3), seed=1)


@pytest.fixture
def folder(tmp_path):
    write_norb(tmp_path, STEMS["training"], TRAINING, packed=True)
    write_norb(tmp_path, STEMS["testing"], TESTING)
    return tmp_path


def test_each_toy_is_found_in_each_pose_in_whichever_split_it_is(folder) -> None:
    data = SmallNORB(folder, size=None)
    assert [(factor.name, factor.size) for factor in data.factors] == [
        *[("category", 2), ("elevation", 2), ("azimuth", 3), ("lighting", 2)],
    ]
    assert data.factors[1].values == (30.0, 70.0)  # 8 steps of 5 degrees above the lowest
    assert data.factors[2].values == (0.0, 20.0, 40.0)
    assert data.factors[0].labels == ("animal", "human")
    assert (data.identities, data.image_shape, len(data)) == (5, (1, 12, 12), 24)
    samples = data.sample(60, generator(0, "toys"))
    images = np.concatenate([TRAINING["dat"], TESTING["dat"]])[:, 0]
    for image, (category, elevation, azimuth, lighting), toy in zip(
        np.rint(samples.images[:, 0] * 255), samples.values, samples.identity, strict=True
    ):
        instance = (1, 2, 3, 4, 6)[toy] + int(category)
        sought = (category, instance, (elevation - 30) / 5, azimuth / 10, lighting)
        table = np.concatenate([np.column_stack([split["cat"], split["info"]]) for split in (TRAINING, TESTING)])
        [row] = np.flatnonzero((table == sought).all(axis=1))
        np.testing.assert_array_equal(image, images[row])


def test_one_split_and_the_other_camera_can_be_asked_for(folder) -> None:
    data = SmallNORB(folder, size=None, splits=("testing",), camera=1)
    assert data.identities == 3
    image = np.rint(data.images_of(np.array([[1.0, 70, 20, 5]]), np.array([2]))[0, 0] * 255)
    [row] = np.flatnonzero((TESTING["cat"] == 1) & (TESTING["info"] == (4, 8, 2, 5)).all(axis=1))
    np.testing.assert_array_equal(image, TESTING["dat"][row, 1])
    assert SmallNORB(folder).image_shape == (1, 64, 64)


def test_a_toy_stays_the_same_where_its_pose_changes(folder) -> None:
    data = SmallNORB(folder, size=None)
    samples = data.sample(4, generator(0, "pose"))
    turned = data.change(samples, "azimuth", samples.values[:, 2] + 360)  # once around
    np.testing.assert_array_equal(turned.images, samples.images)
    assert (data.change(samples, "azimuth", samples.values[:, 2] + 20 - 60 * (samples.values[:, 2] == 40)).images
            != samples.images).any(axis=(1, 2, 3)).all()  # fmt: skip


def test_files_that_are_missing_cut_off_or_do_not_belong_together_are_refused(folder, tmp_path) -> None:
    stem = STEMS["testing"]

    def broken(part: str, content: bytes) -> None:
        (tmp_path / f"{stem}-{part}.mat").write_bytes(content)

    info = matrix(TESTING["info"])
    for content, message in (
        (info[:-4], r"testing-info.mat: is 1168 bytes long, its header of shape \(72, 4\) says 1172; it is cut off"),
        (matrix(TESTING["info"].astype(float)), r"does not start as a file of NORB with bytes or integers"),
        (b"\x54", r"does not start as a file of NORB"),
        (
            matrix(TESTING["info"][:-1]),
            r"have shapes \(72,\) and \(71, 4\), its 72 images need \(72,\) and \(72, 4\); get its three files",
        ),
    ):
        broken("info", content)
        with pytest.raises(DataError, match=message):
            SmallNORB(folder)
    twice = TESTING["info"].copy()
    a, b = np.flatnonzero((TESTING["cat"] == 0) & (twice[:, 0] == 1))[:2]
    twice[a] = twice[b]
    broken("info", matrix(twice))
    with pytest.raises(DataError, match=r"elevation, azimuth and lighting \[0, 1, .*\] are there more than once"):
        SmallNORB(folder)
    other = TESTING["info"].copy()
    other[TESTING["cat"] == 0, 0] = 9
    broken("info", matrix(other))
    with pytest.raises(DataError, match=r"its categories have from 3 to 5 toys, all must have as many"):
        SmallNORB(folder)
    broken("info", info)
    broken("dat", matrix(TESTING["dat"][:, 0]))
    with pytest.raises(DataError, match=r"holds uint8 of shape \(72, 12, 12\), expected bytes \(image, 2, size"):
        SmallNORB(folder)
    (folder / f"{stem}-dat.mat").unlink()
    with pytest.raises(DataError, match=r"holds neither smallnorb-.*-testing-dat.mat nor .*.mat.gz; put one of them"):
        SmallNORB(folder)
    zipped = folder / f"{STEMS['training']}-cat.mat.gz"
    zipped.write_bytes(zipped.read_bytes()[:30])
    with pytest.raises(
        DataError, match=r"training-cat.mat.gz: cannot be read or unpacked .* get the file of NORB anew"
    ):
        SmallNORB(folder)


def test_a_vector_is_written_with_three_lengths(tmp_path) -> None:
    (tmp_path / "cat.mat").write_bytes(matrix(np.array([3, 1, 4, 1], dtype=np.int32)))
    assert (tmp_path / "cat.mat").stat().st_size == 8 + 12 + 16
    assert read_matrix(tmp_path / "cat.mat").tolist() == [3, 1, 4, 1]
