"""Tables of labels from whatever program: what they hold is read, or one line says what was found and what to do."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from diffmech.config.images import ImageFolder
from diffmech.data.grouping import image_groups
from diffmech.data.groups import read_groups
from diffmech.data.labels import read_table
from diffmech.errors import DataError

NAMES = ("00.png", "01.png", "02.png")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def labelled(tmp_path):
    """Three images, and a function that gives the data set of them with a table of the given bytes or text."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate(NAMES):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (9, 9), dtype=np.uint8)).save(folder / name)

    def build(content, **fields) -> ImageFolder:
        table = tmp_path / "labels.csv"
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
        return ImageFolder(kind="image_folder", path=str(folder), labels=str(table), **fields)

    return build


def values(images):
    return images.attribute_values(np.argsort(images.files)).tolist()


def refusal(prepare, config) -> str:
    with pytest.raises(DataError) as error:
        prepare(config)
    assert "\n" not in str(error.value)
    assert "labels.csv" in str(error.value)
    return str(error.value)


PLAIN = "file,smiling,age\n00.png,1,0.5\n01.png,0,0.25\n02.png,1,1\n"
SAME = {
    "commas": PLAIN,
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "semicolons and decimal commas": PLAIN.replace(",", ";").replace(".5", ",5").replace(".25", ",25"),
    "tabs and decimal commas": PLAIN.replace(",", "\t").replace(".5", ",5").replace(".25", ",25"),
    "a first line sep=;": "sep=;\n" + PLAIN.replace(",", ";"),
    "a first line sep=,": "sep=,\r\n" + PLAIN.replace("\n", "\r\n"),
    'a first line "SEP=|"': '"SEP=|"\n' + PLAIN.replace(",", "|"),
    "a mark of UTF-8": b"\xef\xbb\xbf" + PLAIN.encode(),
    "a mark and sep=": b"\xef\xbb\xbfsep=;\r\n" + PLAIN.replace(",", ";").encode(),
    "UTF-16, as spreadsheets write text": PLAIN.replace(",", "\t").encode("utf-16"),
    "lines of Windows": PLAIN.replace("\n", "\r\n"),
    "lines of old Macs": PLAIN.replace("\n", "\r"),
    "no end of the last line": PLAIN.rstrip("\n"),
    "empty rows": "\n" + PLAIN.replace("01.png", "\n,,\n  , ,\n01.png") + ",,\n,,\n\n",
    "empty columns at the end": PLAIN.replace("\n", ",,\n"),
    "ends of rows with a comma": PLAIN.replace("0.5\n", "0.5,\n"),
    "blanks around cells": PLAIN.replace(",", " , "),
    "quotes": '"file","smiling","age"\n"00.png","1","0.5"\n"01.png","0","0.25"\n"02.png","1","1"\n',
    "true and false": PLAIN.replace(",1,", ",True,").replace(",0,", ",FALSE,"),
    "paths from here": PLAIN.replace("01.png", "./01.png"),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_table_says_the_same_however_it_is_written(kind, labelled, prepare):
    images = prepare(labelled(SAME[kind]))
    assert images.attributes == ("smiling", "age")
    assert values(images) == [[1, 0.5], [0, 0.25], [1, 1]]
    assert images.attrs["skipped"] == []


def test_backslashes_of_paths_are_slashes(labelled, prepare, tmp_path):
    (tmp_path / "images" / "a").mkdir()
    (tmp_path / "images" / "02.png").rename(tmp_path / "images" / "a" / "02.png")
    assert len(prepare(labelled(PLAIN.replace("02.png", r"a\02.png")))) == 3


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_meet_however_their_accents_are_composed(on_disk, in_table, labelled, prepare, tmp_path):
    name = "André.png"
    (tmp_path / "images" / "01.png").rename(tmp_path / "images" / unicodedata.normalize(on_disk, name))
    text = PLAIN.replace("01.png", unicodedata.normalize(in_table, name))
    assert len(prepare(labelled(text))) == 3
    config = labelled(text, group="age")
    images = prepare(config)
    image_groups(config, images.path, tmp_path / "groups.csv")
    assert sorted(read_groups(tmp_path / "groups.csv").values()) == ["0.25", "0.5", "1"]


def test_masks_meet_their_images_however_their_accents_are_composed(labelled, prepare, tmp_path):
    (tmp_path / "masks" / "eyes").mkdir(parents=True)
    (tmp_path / "images" / "01.png").rename(tmp_path / "images" / unicodedata.normalize("NFC", "é.png"))
    for name in ("00.png", unicodedata.normalize("NFD", "é.png"), "02.png"):
        Image.new("L", (9, 9), 255).save(tmp_path / "masks" / "eyes" / name)
    config = ImageFolder(kind="image_folder", path=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    assert len(prepare(config)) == 3


def test_two_files_whose_names_differ_in_composition_alone_have_a_row_each(tmp_path):
    twins = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    path = tmp_path / "labels.csv"
    path.write_text(f"file,age\n{twins[0]},0\n{twins[1]},1\n", encoding="utf-8")
    table = read_table(path, twins)
    assert [table.row(name) for name in twins] == [(2, ["0"]), (3, ["1"])]
    with pytest.raises(DataError, match="a second time"):
        read_table(path, twins[:1])


def test_more_rows_than_images_are_a_note_and_change_nothing(labelled, prepare, tmp_path, caplog):
    prepare(labelled(PLAIN))
    store = tmp_path / "stores" / "set.zarr.zip"
    before = store.read_bytes()
    assert caplog.text == ""
    images = prepare(labelled(PLAIN + "ghost.png,7,none\nother.png,,\n"))  # not even their values matter
    assert "2 of its 5 rows name no image of" in caplog.text
    assert "for example ghost.png" in caplog.text
    assert images.attrs["skipped"] == []
    assert store.read_bytes() == before


def test_images_without_a_row_are_counted(labelled, prepare):
    message = refusal(prepare, labelled("file,age\n00.png,1\n"))
    assert "01.png: has no row in" in message
    assert "(and 1 more such files)" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("00.png,1\n01.png,0\n02.png,1\n", ["00.png", "no line names its columns"], id="no header"),
        pytest.param("lost.png,1\n00.png,0\n", ["lost.png", "put one above it"], id="no header, no such image"),
        pytest.param(
            "file,\n00.png,\n",
            ["at least one attribute", "it has 1 cells by any of comma, semicolon, tab, bar"],
            id="no attribute",
        ),
        pytest.param("file smiling\n00.png 1\n", ["separated by blanks"], id="blanks"),
        pytest.param(
            "file,a,a\n00.png,1,1\n",
            ["one attribute, each once, for example", "it reads 'file,a,a'"],
            id="a column twice",
        ),
        pytest.param("file,age\n,1\n00.png,1\n", ["line 2", "names no file"], id="no file"),
        pytest.param(
            "file,age\n00.png,0,5\n01.png,0,25\n",
            ["line 2 has 3 cells but the first line has 2; mend the line; write decimals with"],
            id="comma",
        ),
        pytest.param("file,age\n", ["no row"], id="no row"),
        pytest.param(
            'file,age\n00.png,1\n"01.png,0\n' + "02.png,1\n" * 20_000,
            ["labels.csv: below line 2 it is not a CSV (field larger", "look there for a quote that nothing closes"],
            id="an open quote",
        ),
        pytest.param(b"file,age\n\xe9.png,1\n", ["UTF-8"], id="Latin-1"),
        pytest.param(
            "00,1\n01,0\n02,1\n", ["that of an image, 00,", "add the suffix to each name"], id="bare, no header"
        ),
        pytest.param(LFS, ["is no table but a pointer of Git LFS; run git lfs pull"], id="a pointer"),
        pytest.param("\n<!DOCTYPE html>\n<p>a, b</p>\n", ["is no table but a web page (HTML)"], id="a page"),
        pytest.param('[{"file": "00.png", "age": 1}]', ["is no table but a JSON text"], id="JSON"),
        pytest.param(
            '{"file": "00.png", "age": 1}\n{"file": "01.png"}\n', ["is no table but a JSON text"], id="JSON lines"
        ),
        pytest.param(b"PK\x03\x04\xff\xfe", ["a workbook", "save it as CSV"], id="a workbook"),
    ],
)
def test_what_cannot_be_a_table_is_told_in_one_line(text, parts, labelled, prepare):
    message = refusal(prepare, labelled(text))
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("file,age\n00,1\n01,1\n02,1\n", "add the suffix"),
        ("file,age\n00.PNG,1\n01.PNG,1\n", "in the same case"),
        ("file,age\nimages/00.png,1\nimages/01.png,1\n", "path of each image relative to"),
        ("number,file,age\n0,00.png,1\n1,01.png,1\n", "its column 'file' does; make that the first"),
        (",file,age\n0,00.png,1\n1,01.png,1\n", "its column 'file' does; make that the first"),
    ],
)
def test_a_table_of_no_image_tells_how_both_are_named(text, advice, labelled, prepare):
    for on_bad_file in ("error", "skip"):
        message = refusal(prepare, labelled(text, on_bad_file=on_bad_file))
        assert "names one of the 3 images of" in message
        assert advice in message


def test_text_labels_are_offered_one_hot(labelled, prepare):
    text = "file,sex,age\n00.png,female,1\n01.png,male,0\n02.png,,1\n"
    message = refusal(prepare, labelled(text))
    for part in ("line 2 (00.png): sex is 'female'", "one-hot", "female, male", "sex_female, sex_male", "group: sex"):
        assert part in message
    assert values(prepare(labelled(text, group="sex"))) == [[1], [0], [1]]
    numbers = refusal(prepare, labelled("file,digit\n00.png,3\n01.png,0\n02.png,9\n"))
    assert "digit is 3, outside [0, 1]" in numbers
    assert "one-hot" in numbers
    mixed = refusal(prepare, labelled("file,age\n00.png,NA\n01.png,1\n02.png,0\n"))
    assert "line 2 (00.png): age is 'NA', not a number; give a number in [0, 1], or nothing for unknown" in mixed
