"""The digest of the user's files: what changes it, what does not, and that files are looked at once."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from diffmech.config.images import CelebA, HuggingFace, ImageFolder, LfwSubset, Prompts
from diffmech.workflow import watched as module
from diffmech.workflow.watched import ENVIRONMENT, forget_watched, watched


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def faces(tmp_path):
    """A folder of three images with a table, masks inside it, and a text file."""
    folder = tmp_path / "faces"
    (folder / "masks" / "eyes").mkdir(parents=True)
    for index in range(3):
        image = Image.fromarray(np.full((4, 4), index, np.uint8))
        image.save(folder / f"{index}.png")
        image.save(folder / "masks" / "eyes" / f"{index}.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "faces.csv").write_text("file,person,age\n0.png,a,0\n1.png,b,1\n2.png,b,0.5\n")
    return folder


def config_of(folder, **fields):
    masks, labels = str(folder / "masks"), str(folder / "faces.csv")
    return ImageFolder(**{"kind": "image_folder", "path": str(folder), "masks": masks, "labels": labels, **fields})


def digest(folder, **fields) -> str:
    forget_watched()
    return watched("faces", config_of(folder, **fields))


def later(path) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


EDITS = {
    "an image is added": lambda folder: shutil.copy(folder / "0.png", folder / "3.png"),
    "an image is added in a folder": lambda folder: shutil.copytree(folder / "masks", folder / "more"),
    "an image is removed": lambda folder: (folder / "1.png").unlink(),
    "an image is renamed": lambda folder: (folder / "1.png").rename(folder / "9.png"),
    "an image is replaced": lambda folder: later(folder / "1.png"),
    "an image grows": lambda folder: (folder / "1.png").write_bytes((folder / "1.png").read_bytes() + b"x"),
    "a picture that is not read is added": lambda folder: (folder / "a.heic").touch(),
    "a file without suffix is added": lambda folder: (folder / "IMG_1").touch(),
    "a mask is replaced": lambda folder: later(folder / "masks" / "eyes" / "2.png"),
    "a label is edited": lambda folder: edit(folder, "1.png,b,1", "1.png,b,0"),
    "a row is added": lambda folder: edit(folder, "1.png,b,1", "1.png,b,1\n3.png,b,1"),
    "a column is renamed": lambda folder: edit(folder, "age", "old"),
    "the table is gone": lambda folder: (folder / "faces.csv").unlink(),
    "the table is broken": lambda folder: edit(folder, "1.png,b,1", "1.png,b"),
    "the folder is gone": shutil.rmtree,
}
SAME = {
    "nothing": lambda folder: None,
    "another file is added": lambda folder: (folder / "more.txt").touch(),
    "another file is edited": lambda folder: (folder / "notes.txt").write_text("other"),
    "a hidden file is added": lambda folder: (folder / ".DS_Store").touch(),
    "the table is touched": lambda folder: later(folder / "faces.csv"),
    "a group is edited": lambda folder: edit(folder, "1.png,b,1", "1.png,c,1"),
    "rows are in another order": lambda folder: edit(folder, "0.png,a,0\n1.png,b,1", "1.png,b,1\n0.png,a,0"),
    "empty rows are added": lambda folder: edit(folder, "2.png", ",,\n2.png"),
}


def edit(folder, before: str, after: str) -> None:
    text = (folder / "faces.csv").read_text()
    assert before in text
    (folder / "faces.csv").write_text(text.replace(before, after))


@pytest.mark.parametrize("change", EDITS)
def test_what_may_change_the_data_set_changes_its_digest(change, faces):
    before = digest(faces, group="person")
    EDITS[change](faces)
    assert digest(faces, group="person") != before


@pytest.mark.parametrize("change", SAME)
def test_what_cannot_change_the_data_set_leaves_its_digest(change, faces):
    before = digest(faces, group="person")
    SAME[change](faces)
    assert digest(faces, group="person") == before


def test_a_column_that_is_no_group_counts(faces):
    before = digest(faces, group="age")
    edit(faces, "1.png,b,1", "1.png,c,1")
    assert digest(faces, group="age") != before


def test_files_are_looked_at_once_until_they_are_forgotten(faces, monkeypatch):
    walks = []
    scan = module.scan
    monkeypatch.setattr(module, "scan", lambda *given, **named: walks.append(given) or scan(*given, **named))
    config = config_of(faces, masks=None)
    first = watched("faces", config)
    later(faces / "1.png")
    assert watched("faces", config) == first  # in this process, and in those that inherit its environment
    assert len(walks) == 1
    forget_watched()
    assert watched("faces", config) != first
    assert len(walks) == 2
    assert watched("faces", config_of(faces, masks=None, seed=1)) != ""
    assert len(walks) == 3


def test_celeba_a_saved_data_set_and_a_file_of_prompts_are_watched_too(tmp_path):
    celeba = CelebA(kind="celeba", path=str(tmp_path))
    (tmp_path / "img_align_celeba").mkdir()
    table, prompts = tmp_path / "list_attr_celeba.txt", tmp_path / "prompts.txt"
    table.write_text("0\n")
    prompts.write_text("a face")
    saved = HuggingFace(kind="huggingface", name=str(tmp_path))
    for config, edited in (
        (celeba, lambda: (tmp_path / "img_align_celeba" / "1.jpg").touch()),
        (celeba, lambda: later(table)),
        (saved, lambda: later(tmp_path / "img_align_celeba" / "1.jpg")),
        (Prompts(kind="prompts", file=str(prompts)), lambda: prompts.write_text("another face")),
    ):
        forget_watched()
        before = watched("set", config)
        edited()
        forget_watched()
        assert watched("set", config) != before
    forget_watched()
    before = watched("set", saved)
    (tmp_path / "cache-1.arrow").touch()  # which the library writes itself
    forget_watched()
    assert watched("set", saved) == before


def test_data_that_is_nobodys_files_is_not_watched():
    for config in (
        LfwSubset(kind="lfw_subset"),
        Prompts(kind="prompts", prompts=["a face"]),
        HuggingFace(kind="huggingface", name="nobody/nothing"),
    ):
        assert watched("set", config) == ""
