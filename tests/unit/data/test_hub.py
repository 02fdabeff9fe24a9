"""Data sets of the `datasets` library, on this machine and without a network."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from diffmech.config.images import HuggingFace
from diffmech.data import hub
from diffmech.data.draw import drawn_order
from diffmech.data.grouping import image_groups
from diffmech.data.groups import read_groups
from diffmech.errors import DataError

datasets = pytest.importorskip("datasets", reason="the optional dependency `datasets` is not installed")


def png(index):
    pixels = np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def table(cells, **columns):
    rows = {"image": [{"bytes": cell, "path": None} for cell in cells], **columns}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def section(path, **fields):
    return HuggingFace(kind="huggingface", name=str(path), **fields)


def test_a_saved_data_set_is_read_with_its_attributes(tmp_path, prepare):
    table([png(0), png(1), png(2)], smile=[True, False, True], age=[0.25, None, 1.0]).save_to_disk(tmp_path / "saved")
    images = prepare(section(tmp_path / "saved", attributes=["smile", "age"]), channels=3)
    assert len(images) == 3
    assert images.files == tuple(f"row {row}" for row in drawn_order(["0", "1", "2"], 0))
    values = images.attribute_values(np.argsort(images.files))
    np.testing.assert_array_equal(values, [[1, 0.25], [0, np.nan], [1, 1]])
    assert len(np.unique(images.raw_images([0, 1, 2]), axis=0)) == 3


def test_a_column_says_which_images_belong_together(tmp_path, prepare):
    saved = table([png(0), png(1), png(2)], person=["ann", "bob", "ann"], scene=[1, None, 2])
    saved.save_to_disk(tmp_path / "saved")
    config, output = section(tmp_path / "saved", group="person"), tmp_path / "groups.csv"
    images = prepare(config, channels=3)
    image_groups(config, images.path, output)
    persons = {"row 0": "ann", "row 1": "bob", "row 2": "ann"}
    assert read_groups(output) == {k: persons[file] for k, file in enumerate(images.files)}
    with pytest.raises(DataError, match=r"saved:train: row 1 has no group in the column 'scene'"):
        image_groups(section(tmp_path / "saved", group="scene"), images.path, output)
    with pytest.raises(DataError, match=r"has no column 'persons', .* did you mean 'person'"):
        image_groups(section(tmp_path / "saved", group="persons"), images.path, output)


def test_the_split_is_chosen(tmp_path, prepare):
    splits = {"train": table([png(0), png(1)]), "test": table([png(2), png(3), png(4)])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert len(prepare(section(tmp_path / "saved", split="test"))) == 3
    with pytest.raises(DataError, match="set `split` to one of train, test"):
        prepare(section(tmp_path / "saved", split="validation"))


def test_a_plain_folder_of_images_is_loaded_by_the_library(tmp_path, prepare, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for index in range(3):
        (tmp_path / "plain").mkdir(exist_ok=True)
        (tmp_path / "plain" / f"{index}.png").write_bytes(png(index))
    assert len(prepare(section(tmp_path / "plain"))) == 3


def test_columns_of_arrays_are_images_too(tmp_path, prepare):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 10, 10), dtype=np.uint8)
    datasets.Dataset.from_dict({"pixels": pixels.tolist()}).save_to_disk(tmp_path / "saved")
    images = prepare(section(tmp_path / "saved", image_column="pixels"), size=10, match=None)
    np.testing.assert_array_equal(images.raw_images(np.argsort(images.files))[:, 0], pixels)


def test_rows_are_drawn_by_their_number_and_a_seed(tmp_path, prepare):
    table([png(index) for index in range(8)]).save_to_disk(tmp_path / "saved")
    for seed in (0, 1):
        images = prepare(section(tmp_path / "saved", count=3, seed=seed))
        assert images.files == tuple(f"row {row}" for row in drawn_order(map(str, range(8)), seed)[:3])


def test_a_truncated_image_is_named_by_its_row(tmp_path, prepare):
    table([png(0), png(1)[:600], png(2)]).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"saved:train/row 1: cannot be decoded"):
        prepare(section(tmp_path / "saved"))
    images = prepare(section(tmp_path / "saved", on_bad_file="skip"))
    assert sorted(images.files) == ["row 0", "row 2"]
    assert images.attrs["skipped"][0]["file"] == "row 1"


def test_unknown_columns_and_values_that_are_no_attributes_are_errors(tmp_path, prepare):
    table([png(0), png(1)], age=[30, 40], name=["a", "b"]).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"has no column 'img'.* did you mean 'image'"):
        prepare(section(tmp_path / "saved", image_column="img"))
    with pytest.raises(DataError, match=r"row [01]: age is [34]0, outside \[0, 1\]"):
        prepare(section(tmp_path / "saved", attributes=["age"]))
    with pytest.raises(DataError, match=r"row [01]: name is '[ab]', not a number"):
        prepare(section(tmp_path / "saved", attributes=["name"]))


def test_a_broken_saved_data_set_is_one_line(tmp_path, prepare):
    table([png(0), png(1)]).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(b"junk")
    with pytest.raises(DataError) as error:
        prepare(section(tmp_path / "saved"))
    assert "\n" not in str(error.value)
    assert "saved: cannot be loaded (" in str(error.value)
    assert str(error.value).endswith("); write it anew with save_to_disk")


def test_a_folder_that_the_library_does_not_load_is_one_line(tmp_path, prepare, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"empty: cannot be loaded \(.*\); check `name` and `revision`, or give"
    ) as error:
        prepare(section(tmp_path / "empty"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ([None, {"bytes": png(1), "path": None}], "has no image"),
        ([[[0, 1], [2]], [[0, 1], [2, 3]]], "is no image, since its rows differ in length; give each"),
    ],
)
def test_a_cell_that_is_no_image_is_named_by_its_row(column, reason, tmp_path, prepare):
    cells = datasets.Dataset.from_dict({"image": column})
    cells.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=rf"saved:train/row 0: {reason}"):
        prepare(section(tmp_path / "saved"))


def test_a_name_that_the_hub_cannot_have_is_taken_for_a_mistyped_folder(prepare):
    """It is refused before the network is asked."""
    with pytest.raises(
        DataError, match=r"data/mine/faces: the hub has no such data set, or .*no such folder here; check"
    ):
        prepare(section("data/mine/faces"))


def test_without_a_network_the_answer_is_quick_and_one_line(tmp_path, prepare, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_args, **_kwargs):
        raise ConnectionError("name or service\nnot known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    started = time.monotonic()
    with pytest.raises(DataError) as error:
        prepare(section("somebody/some_faces"))
    assert time.monotonic() - started < hub.HUB_TIMEOUT
    message = str(error.value)
    assert "\n" not in message
    assert "somebody/some_faces: is no local folder and the hub could not be reached" in message
    assert "save_to_disk" in message


def test_without_the_library_the_install_command_is_given(tmp_path, prepare, monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DataError, match=r"pip install 'diffmech\[huggingface\]'"):
        prepare(section(tmp_path))
