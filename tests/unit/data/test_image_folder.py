"""Folders of images: what is read, and what is answered with one line."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmech.config.images import ImageFolder, ImagesConfig
from diffmech.data.comparison import describe
from diffmech.data.draw import drawn_order
from diffmech.data.folder import ImageFolderSource
from diffmech.data.source import Sample, open_source
from diffmech.errors import DataError


def folder_of(path, **fields):
    return ImageFolder(kind="image_folder", path=str(path), **fields)


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def test_images_are_read_recursively_in_the_order_of_the_draw(photos, prepare):
    folder = photos(6)
    (folder / "a").mkdir()
    Image.new("L", (9, 9), 100).save(folder / "a" / "z.PNG")
    (folder / ".hidden.png").write_bytes(b"junk")
    (folder / "notes.txt").write_text("no image")
    images = prepare(folder_of(folder))
    names = ["00.png", "01.jpg", "02.bmp", "03.webp", "04.tif", "05.png", "a/z.PNG"]
    assert images.files == tuple(drawn_order(names, 0))
    assert images.files != tuple(sorted(names))
    assert images.ids.tolist() == list(range(7))
    assert images.image_shape == (1, 16, 16)


def test_count_takes_the_first_of_the_draw_and_the_seed_makes_another(photos, prepare):
    folder = photos(6)
    whole = prepare(folder_of(folder)).files
    assert prepare(folder_of(folder, count=4)).files == whole[:4]
    assert prepare(folder_of(folder, count=4, seed=1)).files != whole[:4]


def empty_files(folder: Path, names) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def drawn_files(folder: Path, **fields) -> list[str]:
    """Return which files a source would read, in order; none of them is decoded."""
    return ImageFolderSource(folder_of(folder, **fields), ImagesConfig())._files


def test_images_of_a_folder_of_persons_are_those_of_many_persons(tmp_path):
    """In sorted order 60 images were those of 6 persons."""
    names = [f"person_{person:03d}/{image}.png" for person in range(100) for image in range(10)]
    drawn = drawn_files(empty_files(tmp_path, names), count=60)
    # of 60 images drawn at random from 100 persons of 10 images each 46.6 persons are expected, give or take 2.8
    assert len({Path(name).parent for name in drawn}) >= 38


def test_a_folder_that_grows_or_shrinks_by_one_keeps_all_drawn_images_but_one(tmp_path):
    names = [f"{number:04d}.png" for number in range(1000)]
    folder = empty_files(tmp_path, names)
    before = drawn_files(folder, count=100)
    others = drawn_files(folder, count=None)[100:]
    for added in ("!first.png", "05005.png", "zz/last.png"):
        empty_files(folder, [added])
        assert len(set(before) - set(drawn_files(folder, count=100))) <= 1
        (folder / added).unlink()
    for removed, lost in ((before[0], 1), (before[57], 1), (others[0], 0), (others[-1], 0)):
        (folder / removed).unlink()
        now = drawn_files(folder, count=100)
        assert len(set(before) - set(now)) == lost
        assert [name for name in before if name != removed] == now[: 100 - lost]
        (folder / removed).touch()


def test_renaming_the_others_changes_the_place_of_no_image(tmp_path):
    names = [f"{number:04d}.png" for number in range(200)]
    order = drawn_order(names, 0)
    kept = set(order[::3])
    renamed = [name if name in kept else f"a{name}" for name in names]
    assert [name for name in drawn_order(renamed, 0) if name in kept] == [name for name in order if name in kept]
    assert drawn_order(reversed(names), 0) == order
    assert drawn_order(names, 1) != order


def test_each_image_is_drawn_as_often_as_any_other():
    # 4,000 draws of 10 from 40 names: each name 1,000 times, give or take 27; chi-square(39) is below 73 in 99.9 %
    names = [f"{number:02d}.png" for number in range(40)]
    counts = dict.fromkeys(names, 0)
    for seed in range(4000):
        for name in drawn_order(names, seed)[:10]:
            counts[name] += 1
    # drawing without replacement makes counts less variable by (1 - 10 / 40)
    assert sum((n - 1000) ** 2 for n in counts.values()) / (1000 * 0.75) < 73


def test_how_a_file_system_composes_an_accent_changes_no_place():
    composed, decomposed = "Andr\u00e9.png", "Andre\u0301.png"
    others = [f"{number}.png" for number in range(50)]
    assert drawn_order([*others, composed], 0).index(composed) == drawn_order([*others, decomposed], 0).index(
        decomposed
    )


def test_a_larger_count_changes_no_image_that_was_there(photos, prepare):
    folder = photos(10)
    few = prepare(folder_of(folder, count=5)).raw_images(range(5))
    many = prepare(folder_of(folder, count=10)).raw_images(range(5))
    np.testing.assert_array_equal(few, many)


def test_threads_change_nothing(photos, prepare, tmp_path):
    config = folder_of(photos(7))
    prepare(config, threads=1)
    first = (tmp_path / "stores" / "set.zarr.zip").read_bytes()
    prepare(config, threads=3)
    assert (tmp_path / "stores" / "set.zarr.zip").read_bytes() == first


def test_a_circle_of_links_ends(photos):
    folder = photos(3)
    (folder / "again").symlink_to(folder)
    assert len(ImageFolderSource(folder_of(folder), ImagesConfig())) == 3


def test_a_missing_folder_is_named(tmp_path, prepare):
    with pytest.raises(DataError) as error:
        prepare(folder_of(tmp_path / "nowhere"))
    assert_one_line(error, tmp_path / "nowhere", "no such folder; set `path` to the folder that holds the images")


def test_a_folder_that_cannot_be_opened_is_named(photos, prepare, monkeypatch):
    folder, scan = photos(3), os.scandir
    (folder / "closed").mkdir()

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"closed: cannot be opened \(Permission denied\); check your rights"):
        prepare(folder_of(folder))


def test_an_empty_folder_tells_what_is_looked_for(tmp_path, prepare):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        prepare(folder_of(tmp_path / "empty"))
    assert_one_line(error, "no images", ".jpg", ".npy")


def test_a_single_image_is_too_few(photos, prepare):
    with pytest.raises(DataError, match=r"photos: holds 1 usable image\(s\); at least 2 are needed"):
        prepare(folder_of(photos(1)))


def test_a_count_beyond_the_folder_is_an_error(photos, prepare):
    with pytest.raises(DataError, match="count is 2000 but there are 3 images"):
        prepare(folder_of(photos(3), count=2000))


def truncated_jpeg(folder: Path, name: str, **options) -> None:
    path = folder / name
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG", **options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_archive(path: Path) -> None:
    with path.open("wb") as stream:  # by its name numpy would add .npz
        np.savez(stream, np.zeros((8, 8)))


# name -> how it is written, and words of the answer
BAD_FILES = {
    "truncated.jpg": (lambda path: truncated_jpeg(path.parent, path.name), "truncated"),
    "progressive.jpg": (lambda path: truncated_jpeg(path.parent, path.name, progressive=True), "truncated"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "empty"),
    "text.png": (lambda path: path.write_text("<html>not found</html>"), "a web page"),
    "nan.npy": (lambda path: np.save(path, np.full((8, 8), np.nan)), "holds 64 NaN or infinite pixels; fill them"),
    "inf.npy": (lambda path: np.save(path, np.array([[0.0, np.inf], [0.0, 1.0]])), "holds 1 NaN or infinite pixels"),
    "range.npy": (
        lambda path: np.save(path, np.array([[-1.0, 0.0], [0.5, 1.0]])),
        "holds values from -1 to 1; scale floats to [0, 1] or save as uint8",
    ),
    "shape.npy": (
        lambda path: np.save(path, np.zeros((3, 8, 8, 3), dtype=np.uint8)),
        "has shape (3, 8, 8, 3); expected (height, width) or (height, width, 1, 3 or 4)",
    ),
    "channels.npy": (lambda path: np.save(path, np.zeros((8, 8, 2), dtype=np.uint8)), "has shape (8, 8, 2); expected"),
    "integers.npy": (
        lambda path: np.save(path, np.zeros((8, 8), dtype=np.int64)),
        "holds int64; save it as uint8, or as float in [0, 1]",
    ),
    "objects.npy": (
        lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
        "cannot be read as a .npy array (Object arrays",
    ),
    "cut.npy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "cannot be read as a .npy array ("),
    "archive.npy": (write_archive, "is an archive of arrays, not one array; save it with numpy.save"),
    "pages.tif": (
        lambda path: Image.new("L", (8, 8)).save(path, save_all=True, append_images=[Image.new("L", (8, 8))]),
        "holds 2 frames",
    ),
    "negative.tif": (
        lambda path: Image.fromarray(np.full((8, 8), -5, np.int32)).save(path),
        "holds integers from -5 to -5; save it with 8 or 16 bits",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_an_error_that_names_it_and_leaves_nothing(name, photos, prepare, tmp_path):
    folder = photos(4)
    write, reason = BAD_FILES[name]
    write(folder / name)
    with pytest.raises(DataError) as error:
        prepare(folder_of(folder))
    assert_one_line(error, folder / name, reason, "on_bad_file: skip")
    assert list((tmp_path / "stores").iterdir()) == []


def test_skipped_files_are_listed_and_ids_run_over_the_good_ones(photos, prepare):
    folder = photos(4)
    truncated_jpeg(folder, "01_cut.jpg")
    np.save(folder / "02_nan.npy", np.full((8, 8), np.nan))
    images = prepare(folder_of(folder, on_bad_file="skip"))
    assert images.files == tuple(drawn_order(["00.png", "01.jpg", "02.bmp", "03.webp"], 0))
    assert images.ids.tolist() == [0, 1, 2, 3]
    reasons = {entry["file"]: entry["reason"] for entry in images.attrs["skipped"]}
    assert set(reasons) == {"01_cut.jpg", "02_nan.npy"}
    assert "truncated" in reasons["01_cut.jpg"]
    assert "NaN" in reasons["02_nan.npy"]


def test_where_bad_files_are_skipped_the_next_of_the_draw_takes_their_place(photos, prepare):
    folder = photos(8)
    order = drawn_order([path.name for path in folder.iterdir()], 0)
    (folder / order[1]).write_bytes(b"")
    assert prepare(folder_of(folder, on_bad_file="skip", count=4)).files == (order[0], *order[2:5])
    (folder / order[7]).write_bytes(b"")  # beyond those that are used
    (folder / order[1]).unlink()
    assert prepare(folder_of(folder, count=4)).files == (order[0], *order[2:5])


def test_a_folder_of_bad_files_is_an_error_even_when_they_are_skipped(tmp_path, prepare):
    folder = tmp_path / "bad"
    folder.mkdir()
    for index in range(3):
        truncated_jpeg(folder, f"{index}.jpg")
    with pytest.raises(DataError) as error:
        prepare(folder_of(folder, on_bad_file="skip"))
    assert_one_line(
        error, folder, "0 usable image(s), 3 left out, for example ", ".jpg", "truncated", "; at least 2 are"
    )


def by_name(images):
    """Return the attributes of the images in the order of their names."""
    return images.attribute_values(np.argsort(images.files))


def write_labels(tmp_path, text):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    return str(table)


def test_labels_join_by_name_in_whatever_order_they_stand(photos, prepare, tmp_path):
    labels = write_labels(tmp_path, "file,smiling,age\n02.bmp,0,0.25\n00.png,1,0.5\n01.jpg,,1\n")
    images = prepare(folder_of(photos(3), labels=labels))
    assert images.attributes == ("smiling", "age")
    assert sorted(images.files) == ["00.png", "01.jpg", "02.bmp"]
    np.testing.assert_array_equal(by_name(images), [[1, 0.5], [np.nan, 1], [0, 0.25]])


def test_labels_stay_with_their_image_when_others_are_skipped(photos, prepare, tmp_path):
    folder = photos(3)
    truncated_jpeg(folder, "01.jpg")
    labels = write_labels(tmp_path, "file,smiling\n00.png,0.1\n01.jpg,0.2\n02.bmp,0.3\n")
    images = prepare(folder_of(folder, labels=labels, on_bad_file="skip"))
    assert sorted(images.files) == ["00.png", "02.bmp"]
    np.testing.assert_allclose(by_name(images)[:, 0], [0.1, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,smiling\n00.png,1\n01.jpg,0\n", "02.bmp: has no row"),
        ("file,smiling\n00.png,1\n01.jpg,-1\n02.bmp,0\n", "line 3 (01.jpg): smiling is -1, outside [0, 1]"),
        ("file,smiling\n00.png,yes\n01.jpg,0\n02.bmp,0\n", "line 2 (00.png): smiling is 'yes', not a number"),
        ("file,smiling\n00.png,1\n00.png,0\n01.jpg,0\n02.bmp,0\n", "a second time"),
        (
            "file,smiling\n00.png,1,1\n01.jpg,0\n02.bmp,0\n",
            "line 2 has 3 cells but the first line has 2; mend the line",
        ),
        ("file\n00.png\n", "at least one attribute"),
        ("", "at least one attribute"),
    ],
)
def test_a_wrong_label_table_is_one_line(text, expected, photos, prepare, tmp_path):
    with pytest.raises(DataError) as error:
        prepare(folder_of(photos(3), labels=write_labels(tmp_path, text)))
    assert_one_line(error, expected, "labels.csv")


def test_a_missing_label_table_is_one_line(photos, prepare, tmp_path):
    with pytest.raises(
        DataError, match=r"nolabels\.csv: cannot be read \(.*\); set `labels` to a CSV file, or to null"
    ):
        prepare(folder_of(photos(3), labels=str(tmp_path / "nolabels.csv")))


def test_images_without_labels_can_be_skipped(photos, prepare, tmp_path):
    labels = write_labels(tmp_path, "file,smiling\n00.png,1\n02.bmp,0\nghost.png,1\n")
    images = prepare(folder_of(photos(3), labels=labels, on_bad_file="skip"))
    assert sorted(images.files) == ["00.png", "02.bmp"]
    assert [entry["file"] for entry in images.attrs["skipped"]] == ["01.jpg"]


def write_masks(folder, names, size=(20, 24)):
    for part in ("mouth", "eyes"):
        (folder / part).mkdir(parents=True)
        for name in names:
            mask = Image.new("L", size, 0)
            mask.paste(255, (0, 0, size[0], size[1] // 2) if part == "eyes" else (0, size[1] // 2, *size))
            mask.save(folder / part / name)


def equal_photos(folder, count):
    folder.mkdir()
    for index in range(count):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (24, 20), dtype=np.uint8)).save(
            folder / f"{index}.png"
        )
    return folder


def test_masks_cover_what_they_mark(prepare, tmp_path):
    folder = equal_photos(tmp_path / "images", 3)
    masks = folder / "masks"  # inside the folder of the images, and still no images
    write_masks(masks, ["0.png", "1.bmp", "2.png"])
    images = prepare(folder_of(folder, masks=str(masks)))
    assert sorted(images.files) == ["0.png", "1.png", "2.png"]
    assert images.parts == ("eyes", "mouth")
    covered = images.masks([0, 1, 2])
    assert covered.shape == (3, 2, 16, 16)
    assert (covered[:, 0, :8] == 1).all()
    assert (covered[:, 0, 8:] == 0).all()
    np.testing.assert_allclose(covered.sum(axis=1), 1, atol=1 / 255)


def test_an_image_without_mask_and_a_mask_without_image_are_errors(prepare, tmp_path):
    folder = equal_photos(tmp_path / "images", 3)
    write_masks(tmp_path / "lacking", ["0.png", "1.png"])
    with pytest.raises(DataError) as error:
        prepare(folder_of(folder, masks=str(tmp_path / "lacking")))
    assert_one_line(error, folder / "2.png", "has no mask in", tmp_path / "lacking")
    write_masks(tmp_path / "excess", ["0.png", "1.png", "2.png", "3.png"])
    with pytest.raises(DataError) as error:
        prepare(folder_of(folder, masks=str(tmp_path / "excess")))
    assert_one_line(error, "3.png: is a mask without an image")


def test_a_mask_of_another_size_is_an_error(prepare, tmp_path):
    folder = equal_photos(tmp_path / "images", 2)
    write_masks(tmp_path / "masks", ["0.png", "1.png"], size=(10, 10))
    with pytest.raises(DataError, match=r"0\.png: its mask .* make them equal"):
        prepare(folder_of(folder, masks=str(tmp_path / "masks")))
    write_masks(tmp_path / "turned", ["0.png", "1.png"], size=(24, 20))
    with pytest.raises(DataError, match=r"height and width \(20, 24\) but the image has \(24, 20\); turn it as"):
        prepare(folder_of(folder, masks=str(tmp_path / "turned")))


def test_masks_without_subfolders_are_an_error(prepare, tmp_path):
    folder = equal_photos(tmp_path / "images", 2)
    with pytest.raises(DataError, match="flat: there is no such folder; set `masks` to the folder of the masks, or"):
        prepare(folder_of(folder, masks=str(tmp_path / "flat")))
    (tmp_path / "flat").mkdir()
    with pytest.raises(DataError, match="has no subfolder"):
        prepare(folder_of(folder, masks=str(tmp_path / "flat")))


def test_sources_are_found_by_the_name_in_their_section(photos):
    source = open_source(folder_of(photos(2)), ImagesConfig(size=8, channels=3))
    sample = source.read([1])[0]
    assert isinstance(sample, Sample)
    assert sample.image.shape == (3, 8, 8)


def test_what_the_square_crop_cuts_off_is_counted(prepare, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, size in {"wide.png": (30, 20), "tall.png": (20, 40), "square.png": (24, 24)}.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)).save(folder / name)
    images = prepare(folder_of(folder))
    kept = dict(zip(images.files, images.kept_area.tolist(), strict=True))
    assert kept == pytest.approx({"wide.png": 20 / 30, "tall.png": 20 / 40, "square.png": 1.0})
    described = describe(images)
    assert described["cropped"] == 2
    assert described["cut_area"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    half = describe(prepare(folder_of(folder, crop=0.5)))
    assert half["cropped"] == 3
    assert half["cut_area"] == pytest.approx(1 - (100 / 600 + 100 / 800 + 144 / 576) / 3)
