"""The LGG data set: channels, order and masks of slices, and what a patient must have."""

from pathlib import Path

import numpy as np
import pytest
from picture_folders import mri, save, save_lgg, spot
from PIL import Image

from diffmech.anomaly import lgg
from diffmech.anomaly.planes import lesion_pixels, shrink
from diffmech.anomaly.slices import Slices
from diffmech.config.anomaly_data import Lgg
from diffmech.errors import DataError

CASE = "TCGA_CS_4941_19960909"


def read(root: Path, **fields) -> Slices:
    return lgg.read(Lgg(kind="lgg", path=str(root), **{"size": 32, **fields}))


def test_slices_lie_from_the_bottom_up_with_their_masks(tmp_path: Path) -> None:
    save_lgg(tmp_path, slices=12, sick=(3, 10))  # as text, 10 comes before 2
    found = read(tmp_path)
    assert found.patients == ["TCGA_CS_4941"]
    np.testing.assert_allclose(found.position, np.arange(12) / 11)
    assert np.flatnonzero(found.abnormal).tolist() == [2, 9]
    np.testing.assert_array_equal(found.lesion[9], lesion_pixels(shrink(spot()[None].astype(float), 32))[0])
    lesion, brain = found.lesion[9], found.brain[9]
    assert found.images[9, 0][lesion].mean() > found.images[9, 0][brain & ~lesion].mean() + 0.1


def test_channels_are_the_sequences_that_are_asked_for(tmp_path: Path) -> None:
    save_lgg(tmp_path)
    found = read(tmp_path, modalities=["t1ce", "flair", "t1"])
    assert found.modalities == ("t1ce", "flair", "t1")
    np.testing.assert_array_equal(found.images[:, 1], read(tmp_path).images[:, 0])
    assert not np.array_equal(found.images[:, 0], found.images[:, 2])


def test_scans_of_one_patient_at_two_dates_stay_together(tmp_path: Path) -> None:
    save_lgg(tmp_path)
    save_lgg(tmp_path, "TCGA_CS_4941_19970101")
    save_lgg(tmp_path, "TCGA_DU_5849_19950405", sick=())
    found = read(tmp_path)
    assert found.patients == ["TCGA_CS_4941", "TCGA_DU_5849"]
    assert not found.of(["TCGA_DU_5849"]).abnormal.any()


def test_an_empty_slice_is_left_out(tmp_path: Path) -> None:
    case = save_lgg(tmp_path)
    save(case / f"{CASE}_1.tif", np.zeros((64, 64, 3), dtype=np.uint8))
    assert len(read(tmp_path)) == 5


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "no mask",
            rf"{CASE}_2\.tif: has no {CASE}_2_mask\.tif beside it; a slice without",
        ),
        ("mask of another shape", rf"{CASE}_2_mask\.tif: has height and width \(60, 64\) but its picture \(64, 64\)"),
        (
            "another shape",
            rf"{CASE}_2\.tif: has shape \(60, 64, 3\) but the first slice",
        ),
        ("grey", rf"{CASE}_2\.tif: is grey, expected three channels"),
        ("broken", rf"{CASE}_2\.tif: cannot be decoded"),
        ("no pictures", rf"{CASE}: has masks but no pictures NAME_1\.tif"),
        ("black", rf"{CASE}: cannot be used, since no slice has brain in 2% of its pixels"),
        ("no t1", rf"{CASE}: has no t1, for which FLAIR is repeated; leave it out of modalities"),
        ("nobody", r"holds no \*_mask\.tif; expected a folder per patient with NAME_1"),
    ],
)
def test_what_cannot_be_used_is_named(what: str, said: str, tmp_path: Path) -> None:
    case = save_lgg(tmp_path)
    picture, mask = case / f"{CASE}_2.tif", case / f"{CASE}_2_mask.tif"
    colour = np.stack([mri()] * 3, -1)
    if what == "no mask":
        mask.unlink()
    elif what == "mask of another shape":
        save(mask, np.zeros((60, 64), dtype=np.uint8))
    elif what == "another shape":
        save(picture, colour[:60])
    elif what == "grey":
        save(picture, mri())
    elif what == "broken":
        picture.write_bytes(picture.read_bytes()[:100])
    for path in list(case.glob("*.tif")):
        if what in ("no pictures", "nobody") and ("mask" not in path.name or what == "nobody"):
            path.unlink()
        elif what == "black" and "mask" not in path.name:
            save(path, colour * 0 + np.array([1, 0, 0], dtype=np.uint8))
        elif what == "no t1" and "mask" not in path.name:
            pixels = np.asarray(Image.open(path)).copy()
            pixels[..., 0] = pixels[..., 1]
            save(path, pixels)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, modalities=["flair", "t1"])
    assert "\n" not in str(caught.value)


def test_a_patient_who_lacks_a_sequence_may_be_left_out(tmp_path: Path) -> None:
    case = save_lgg(tmp_path)
    save_lgg(tmp_path, "TCGA_DU_5849_19950405")
    (case / f"{CASE}_2_mask.tif").unlink()
    assert read(tmp_path, on_bad_patient="skip").patients == ["TCGA_DU_5849"]
