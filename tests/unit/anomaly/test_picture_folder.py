"""Folders of normal and abnormal pictures: whose they are, what is marked in them, and what is no slice of MRI."""

import logging
from pathlib import Path

import numpy as np
import pytest
from picture_folders import ct, mri, save, spot
from pydantic import ValidationError

from diffmech.anomaly import pictures
from diffmech.anomaly.ct import bone_ring
from diffmech.anomaly.slices import Slices
from diffmech.config.anomaly_data import PictureFolder
from diffmech.errors import DataError


def read(root: Path, **fields) -> Slices:
    return pictures.read(PictureFolder(kind="picture_folder", path=str(root), **{"size": 32, **fields}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("p1_1", "p1_2", "p2_10", "p2_9")):
        save(tmp_path / "normal" / f"{name}.png", mri(number))
    for number, name in enumerate(("p1_3", "p3_1")):
        save(tmp_path / "abnormal" / f"{name}.png", mri(10 + number, lesion=True))
    return tmp_path


def marked(folder: Path) -> Path:
    for name in ("p1_3", "p3_1"):
        save(folder / "masks" / f"{name}.png", spot().astype(np.uint8) * 255)
    return folder


def test_without_masks_a_slice_is_abnormal_and_no_pixel_is(folder: Path) -> None:
    found = read(folder)
    assert found.abnormal.sum() == 2
    assert not found.lesion.any()
    assert (~found.marked).tolist() == found.abnormal.tolist()


def test_with_masks_pixels_are_marked(folder: Path) -> None:
    found = read(marked(folder))
    assert found.marked.all()
    sick = found.take(found.abnormal)
    assert sick.images[:, 0][sick.lesion].mean() > sick.images[:, 0][sick.brain & ~sick.lesion].mean() + 0.1
    assert abs(sick.lesion.sum() * 4 / (2 * spot().sum()) - 1) < 0.25  # where just half of a pixel is covered it counts


def test_names_tell_patients_and_places_by_the_regular_expressions_of_the_settings(folder: Path) -> None:
    found = read(folder, patient=r"^(p\d+)_", position=r"_(\d+)\.")
    assert found.patients == ["p1", "p2", "p3"]
    assert found.of(["p1"]).position.tolist() == [0, 0.5, 1]
    assert found.of(["p1"]).abnormal.tolist() == [False, False, True]
    assert np.isnan(found.of(["p3"]).position).all()  # one slice alone has no place among others


def test_without_a_rule_each_picture_is_a_patient_of_its_own_and_that_is_said(folder: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(read(folder).patients) == 6
    assert "each of its 6 pictures counts as a patient of its own" in caplog.text


def test_folders_are_patients(tmp_path: Path, caplog) -> None:
    for patient in ("a", "b"):
        save(tmp_path / "normal" / patient / "1.png", mri(1))
        save(tmp_path / "abnormal" / patient / "2.png", mri(2, lesion=True))
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path)
    assert found.patients == ["a", "b"]
    assert "patient of its own" not in caplog.text


def test_a_ct_is_told_from_mri(folder: Path) -> None:
    assert all(bone_ring(ct(seed) / 255) for seed in range(5))
    assert not any(bone_ring(mri(seed, lesion=bool(seed % 2)) / 255) for seed in range(5))
    opened = ct()
    opened[:, 30:34] = 0  # a ring with a gap encloses nothing
    assert not bone_ring(opened / 255)
    assert not bone_ring(np.zeros((64, 64)))
    save(folder / "normal" / "p4_1.png", ct())
    with pytest.raises(
        DataError, match=r"p4_1\.png: looks like CT, since a closed ring .*refuse_ct: false if it is MRI"
    ):
        read(folder)
    assert len(read(folder, refuse_ct=False)) == 7


def test_sixteen_bits_and_floats_show_the_same_picture(tmp_path: Path) -> None:
    deep = mri(1).astype(np.uint16) * 257
    save(tmp_path / "normal" / "eight.png", mri(1))
    save(tmp_path / "normal" / "sixteen.png", deep)
    np.save(tmp_path / "normal" / "float.npy", mri(1) / 255)
    save(tmp_path / "abnormal" / "a.png", mri(2, lesion=True))
    found = read(tmp_path)
    first = found.of(["eight"]).images
    for name in ("sixteen", "float"):
        np.testing.assert_allclose(found.of([name]).images, first, atol=1e-5)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no abnormal", r"has no folder abnormal/; sort the pictures of slices into"),
        ("colours", r"p1_1\.png: is in colours, but slices of MRI are grey"),
        ("hounsfield", r"ct\.npy: holds int16; save it as uint8"),
        ("no mask", r"p3_1\.png: has no mask .*masks/p3_1\.\*; add it, or take masks/ away"),
        ("stray mask", r"p1_1\.png: belongs to no picture in abnormal/; name it like its picture"),
        ("mask of another shape", r"masks/p3_1\.png: has height and width \(64, 60\) but its picture \(64, 64\)"),
        ("empty mask", r"masks/p3_1\.png: marks nothing, though its picture is abnormal"),
        ("black", r"p1_1\.png: cannot be used, since no slice has brain"),
    ],
)
def test_what_cannot_be_used_is_named(what: str, said: str, folder: Path) -> None:
    marked(folder)
    mask = folder / "masks" / "p3_1.png"
    if what == "no abnormal":
        (folder / "abnormal").rename(folder / "sick")
    elif what == "colours":
        save(folder / "normal" / "p1_1.png", np.stack([mri(), mri() // 2, mri()], -1))
    elif what == "hounsfield":
        np.save(folder / "normal" / "ct.npy", ct().astype(np.int16) * 10 - 1000)
    elif what == "no mask":
        mask.unlink()
    elif what == "stray mask":
        save(folder / "masks" / "p1_1.png", spot().astype(np.uint8) * 255)
    elif what == "mask of another shape":
        save(mask, spot()[:, :60].astype(np.uint8) * 255)
    elif what == "empty mask":
        save(mask, np.zeros((64, 64), dtype=np.uint8))
    elif what == "black":
        save(folder / "normal" / "p1_1.png", np.zeros((64, 64), dtype=np.uint8))
    with pytest.raises(DataError, match=said) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_names_that_the_regular_expressions_do_not_fit_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"p1_1\.png: the regular expression .* finds nothing in 'p1_1\.png'"):
        read(folder, patient=r"^(q\d+)")
    with pytest.raises(DataError, match=r"p1_1\.png: position finds 'p' there; it must find a whole number"):
        read(folder, patient=r"^(p\d+)_", position=r"^(.)")
    with pytest.raises(ValidationError, match="has 2 groups in brackets; give it one"):
        PictureFolder(kind="picture_folder", path="x", patient=r"(a)(b)")
    with pytest.raises(ValidationError, match="is no regular expression"):
        PictureFolder(kind="picture_folder", path="x", position="(")
