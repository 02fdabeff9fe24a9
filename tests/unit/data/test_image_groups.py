"""Which images belong together: from the user's table to the small table that analyses read, and what is refused."""

import csv

import numpy as np
import pytest

from diffmech.config.images import CelebA, ImageFolder, ImagesConfig, SyntheticFaces
from diffmech.data.folder import ImageFolderSource
from diffmech.data.grouping import image_groups
from diffmech.data.groups import groups_of, read_groups
from diffmech.data.reference_images import choose_references, read_references
from diffmech.errors import DataError, StoreError
from diffmech.statistics.halves import finding

NAMES = ["00.png", "01.jpg", "02.bmp", "03.webp"]
PERSONS = {"00.png": "007", "01.jpg": " NA ", "02.bmp": "007", "03.webp": "7"}


@pytest.fixture
def table(photos, tmp_path):
    """Four photos, and a function that writes their table: a column of numbers, and one of persons."""
    folder = photos(4)

    def write(persons=PERSONS, column="person", **fields):
        path = tmp_path / "labels.csv"
        with path.open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["file", column, "smiling"])
            rows.writerows([name, person, index / 4] for index, (name, person) in enumerate(persons.items()))
        return ImageFolder(kind="image_folder", path=str(folder), labels=str(path), **{"group": "person", **fields})

    return write


def refused(config, images, output, *parts, error=DataError):
    with pytest.raises(error) as found:
        image_groups(config, images.path, output)
    assert "\n" not in str(found.value)
    assert all(part in str(found.value) for part in parts)
    assert not output.exists()


def test_each_image_has_the_group_of_its_row(table, prepare, tmp_path):
    config = table()
    images = prepare(config)
    image_groups(config, images.path, tmp_path / "groups.csv")
    assert read_groups(tmp_path / "groups.csv") == {k: PERSONS[file].strip() for k, file in enumerate(images.files)}
    tables, wanted = {"real": tmp_path / "groups.csv"}, [images.files.index(file) for file in ("02.bmp", "01.jpg")]
    assert groups_of(tables, "real", wanted).tolist() == ["007", "NA"]
    assert groups_of(tables, "synthetic", wanted) is None


def test_the_group_is_no_attribute_and_no_part_of_the_data_set(table, prepare):
    config = table()
    images = prepare(config)
    assert images.attributes == ("smiling",)
    smiling = [NAMES.index(file) / 4 for file in images.files]
    np.testing.assert_array_equal(images.attribute_values(range(4))[:, 0], smiling)
    other = config.model_copy(update={"group": "scene"})
    assert config.canonical() == other.canonical()
    assert "group" not in config.canonical()
    assert "person" not in str(images.attrs)


def test_a_table_may_hold_groups_alone(photos, tmp_path):
    folder = photos(4)
    (tmp_path / "l.csv").write_text("file,person\n" + "".join(f"{name},p{name[1]}\n" for name in NAMES))
    config = ImageFolder(kind="image_folder", path=str(folder), labels=str(tmp_path / "l.csv"), group="person")
    assert ImageFolderSource(config, ImagesConfig(size=16)).attribute_names == ()


def test_an_image_without_a_group_is_named(table, prepare, tmp_path):
    images, output = prepare(table()), tmp_path / "groups.csv"
    refused(table(PERSONS | {"02.bmp": " "}), images, output, "labels.csv: 02.bmp has no group", "'person'")
    refused(table(dict.fromkeys(NAMES[:2], "x") | {NAMES[2]: "y"}), images, output, "03.webp has no group")
    refused(table(dict.fromkeys(NAMES, "x")), images, output, "all 4 images are of one group, 'x'")
    refused(table(group="persons"), images, output, "no column 'persons'", "did you mean 'person'")


def test_images_of_one_group_alone_cannot_be_studied(table, prepare, tmp_path):
    config = table({"00.png": "a", "01.jpg": "a", "02.bmp": "b", "03.webp": "c"})
    images = prepare(config)
    image_groups(config, images.path, tmp_path / "groups.csv")
    tables = {"real": tmp_path / "groups.csv"}
    alike = sorted(images.files.index(file) for file in ("00.png", "01.jpg"))
    numbers = rf"numbers {alike[0]} to {alike[1]}"
    with pytest.raises(
        StoreError,
        match=rf"the 2 real images that are studied \({numbers}\) are of 1 group, and statistics need at least 2",
    ):
        groups_of(tables, "real", alike)
    with pytest.raises(StoreError, match=r"has no group of image 9"):
        groups_of(tables, "real", [0, 9])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, r"cannot be read as a table of groups \(.*\); delete it and let the workflow make it anew"),
        ("sample,person\n0,a\n", "cannot be read as a table of groups"),
        ("group,sample\na\n", "cannot be read as a table of groups"),
        ("sample,group\n0,a\n0,b\n", "does not give each image one group; delete it"),
        ("sample,group\n0,\n", "does not give each image one group; delete it"),
    ],
)
def test_a_table_of_groups_that_is_not_whole_is_to_be_made_anew(text, reason, tmp_path):
    if text is not None:
        (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(StoreError, match=rf"groups\.csv: {reason}"):
        read_groups(tmp_path / "groups.csv")


def test_persons_of_celeba_come_from_its_own_file(tmp_path, photos, prepare):
    folder = photos(4)
    root = tmp_path / "celeba"
    root.mkdir()
    folder.rename(root / "img_align_celeba")
    (root / "list_attr_celeba.txt").write_text("4\nSmiling\n" + "".join(f"{name} 1\n" for name in NAMES))
    config = CelebA(kind="celeba", path=str(root), group="identity")
    images, output = prepare(config), tmp_path / "groups.csv"
    missing = "identity_CelebA.txt: cannot be read (No such file or directory); put the original file there, or set"
    refused(config, images, output, missing)
    (root / "identity_CelebA.txt").write_text("".join(f"{name} {5 + index // 2}\n" for index, name in enumerate(NAMES)))
    image_groups(config, images.path, output)
    assert read_groups(output) == {k: str(5 + NAMES.index(file) // 2) for k, file in enumerate(images.files)}


def test_only_data_sets_with_a_table_have_groups():
    with pytest.raises(ValueError, match="group"):
        SyntheticFaces(kind="synthetic_faces", group="person")
    with pytest.raises(ValueError, match="is a column of the table `labels`, which is null"):
        ImageFolder(kind="image_folder", path="x", group="person")


def test_reference_images_are_the_first_of_groups_that_are_not_studied(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("sample,group\n" + "".join(f"{k},{group}\n" for k, group in enumerate("abcaadbeeffg")))
    tables, out = {"real": path}, tmp_path / "references.csv"
    choose_references(tables, ["real", "synthetic"], out, studied=3, tested=7, first=4, stop=20, count=3)
    assert read_references(out) == {"real": [5, 7, 8], "synthetic": [4, 5, 6]}
    choose_references(tables, ["real"], tmp_path / "more.csv", studied=3, tested=7, first=4, stop=200, count=3)
    assert read_references(tmp_path / "more.csv")["real"] == [5, 7, 8]
    with pytest.raises(DataError, match=r"only 6 of the real images from number 4 on are of groups that none of the 3"):
        choose_references(tables, ["real"], tmp_path / "none.csv", studied=3, tested=7, first=4, stop=20, count=7)
    assert not (tmp_path / "none.csv").exists()


def test_reference_images_are_of_the_half_that_tests_where_there_are_enough(tmp_path):
    """Twenty persons at random: clusters are found on none of the images that replace outputs."""
    rng = np.random.default_rng(0)
    persons = rng.integers(0, 20, 100).tolist()
    path = tmp_path / "groups.csv"
    path.write_text("sample,group\n" + "".join(f"{k},{person}\n" for k, person in enumerate(persons)))
    choose_references({"real": path}, ["real"], tmp_path / "r.csv", studied=6, tested=16, first=6, stop=100, count=10)
    chosen = read_references(tmp_path / "r.csv")["real"]
    finds = finding(range(100), 16, persons)
    assert not any(finds[sample] for sample in chosen)
    assert not {persons[sample] for sample in chosen} & set(persons[:6])
    assert sum(finds) > 10
