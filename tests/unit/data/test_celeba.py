"""CelebA in its own layouts, made small."""

import numpy as np
import pytest
from PIL import Image

from diffmech.config.images import CelebA
from diffmech.data.draw import drawn_order
from diffmech.errors import ConfigError, DataError

NAMES = ("Eyeglasses", "Male", "Smiling")
VALUES = {"000001.jpg": (-1, 1, 1), "000002.jpg": (1, -1, 1), "000003.jpg": (-1, -1, -1)}


def write_celeba(root, *, table="txt", nested=False, images=("000001.jpg", "000002.jpg", "000003.jpg"), values=None):
    values = VALUES if values is None else values
    folder = root / "img_align_celeba"
    if nested:
        folder = folder / "img_align_celeba"
    folder.mkdir(parents=True)
    for index, name in enumerate(images):
        pixels = np.random.default_rng(index).integers(0, 256, (218, 178, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    if table == "txt":
        rows = [f"{name} " + " ".join(f"{v:2d}" for v in row) for name, row in values.items()]
        text = "\n".join([str(len(values)), " ".join(NAMES), *rows]) + "\n"
    else:
        rows = [",".join([name, *map(str, row)]) for name, row in values.items()]
        text = "\n".join([",".join(["image_id", *NAMES]), *rows]) + "\n"
    (root / f"list_attr_celeba.{table}").write_text(text)
    return root


@pytest.mark.parametrize("table", ["txt", "csv"])
@pytest.mark.parametrize("nested", [False, True])
def test_both_tables_and_both_layouts_give_zeros_and_ones(table, nested, tmp_path, prepare):
    root = write_celeba(tmp_path / "celeba", table=table, nested=nested)
    images = prepare(CelebA(kind="celeba", path=str(root)), channels=3)
    assert images.attributes == NAMES
    assert images.files == tuple(drawn_order(VALUES, 0))
    values = images.attribute_values(np.argsort(images.files))
    np.testing.assert_array_equal(values, [[0, 1, 1], [1, 0, 1], [0, 0, 0]])
    assert images.image_shape == (3, 16, 16)


def test_chosen_attributes_come_in_the_chosen_order(tmp_path, prepare):
    root = write_celeba(tmp_path / "celeba")
    images = prepare(CelebA(kind="celeba", path=str(root), attributes=["Smiling", "Eyeglasses"]))
    assert images.attributes == ("Smiling", "Eyeglasses")
    values = images.attribute_values(np.argsort(images.files))
    np.testing.assert_array_equal(values, [[1, 0], [1, 1], [0, 0]])


def test_count_takes_the_first_of_the_draw(tmp_path, prepare):
    root = write_celeba(tmp_path / "celeba")
    for seed in (0, 1, 2):
        images = prepare(CelebA(kind="celeba", path=str(root), count=2, seed=seed))
        assert images.files == tuple(drawn_order(VALUES, seed)[:2])


def test_part_of_the_images_is_enough(tmp_path, prepare):
    root = write_celeba(tmp_path / "celeba", images=("000001.jpg", "000003.jpg"))
    images = prepare(CelebA(kind="celeba", path=str(root)))
    np.testing.assert_array_equal(images.attribute_values([images.files.index("000003.jpg")]), [[0, 0, 0]])


def test_an_unknown_attribute_is_answered_with_the_nearest(tmp_path, prepare):
    root = write_celeba(tmp_path / "celeba")
    with pytest.raises(ConfigError, match="did you mean 'Smiling'"):
        prepare(CelebA(kind="celeba", path=str(root), attributes=["Smilling"]))


def test_an_image_without_attributes_is_named(tmp_path, prepare):
    root = write_celeba(tmp_path / "celeba", images=(*VALUES, "000004.jpg"))
    with pytest.raises(DataError, match=r"000004\.jpg: has no row in .*list_attr_celeba\.txt"):
        prepare(CelebA(kind="celeba", path=str(root)))


def test_a_table_that_is_cut_off_is_noticed(tmp_path, prepare):
    root = write_celeba(tmp_path / "celeba")
    table = root / "list_attr_celeba.txt"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(DataError, match="holds 2 rows where 3 are expected; the file is cut off, get it anew"):
        prepare(CelebA(kind="celeba", path=str(root)))
    table.write_text(table.read_text().rstrip()[:-3] + "\n")
    with pytest.raises(DataError, match=r"000002\.jpg has 2 values for 3 names; the file is cut off or was changed"):
        prepare(CelebA(kind="celeba", path=str(root)))


def test_values_that_are_no_attributes_are_an_error(tmp_path, prepare):
    root = write_celeba(tmp_path / "celeba", values={**VALUES, "000003.jpg": (5, 1, 1)})
    with pytest.raises(DataError, match=r"000003\.jpg has the value '5'; expected -1, 0 or 1"):
        prepare(CelebA(kind="celeba", path=str(root)))


def test_what_is_missing_is_named(tmp_path, prepare):
    config = CelebA(kind="celeba", path=str(tmp_path / "celeba"))
    with pytest.raises(
        DataError, match="celeba: there is no such folder; set `path` to the folder that holds img_align"
    ):
        prepare(config)
    (tmp_path / "celeba").mkdir()
    with pytest.raises(DataError, match=r"unpack img_align_celeba\.zip"):
        prepare(config)
    (tmp_path / "celeba" / "img_align_celeba").mkdir()
    with pytest.raises(DataError, match=r"holds neither list_attr_celeba\.txt nor .*\.csv; put one of them there"):
        prepare(config)
