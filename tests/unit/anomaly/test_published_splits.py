"""Benchmarks: the splits are those that were published, with their counts, and no patient is in two."""

import logging
from pathlib import Path

import numpy as np
import pytest
from picture_folders import mri, save, spot

from diffmech.anomaly import published
from diffmech.anomaly.splits import TEST, TRAIN, VALIDATION, patients_of, split_patients
from diffmech.config.anomaly_data import Bmad, MedIAnomaly, SplitConfig
from diffmech.errors import DataError


def counts(kind: str) -> dict[tuple[str, bool], int]:
    return {(part.split, part.normal): part.published for part in published.PARTS[kind]}


def test_the_counts_are_those_of_the_papers() -> None:
    assert counts("medianomaly") == {(TRAIN, True): 4211, (TEST, True): 828, (TEST, False): 1948}
    bmad = counts("bmad")
    assert bmad[TRAIN, True] == 7500
    assert bmad[VALIDATION, True] + bmad[VALIDATION, False] == 83
    assert bmad[TEST, True] + bmad[TEST, False] == 3715


@pytest.fixture
def bmad(tmp_path: Path, monkeypatch) -> Path:
    small = tuple(part._replace(published=2) for part in published.PARTS["bmad"])
    monkeypatch.setitem(published.PARTS, "bmad", small)
    patients = iter(("00003", "00025", "00124", "00000", "00002"))
    for part, patient in zip(small, patients, strict=True):
        for plane in (60, 77):
            save(tmp_path / part.folder / f"{patient}_{plane}.png", mri(plane, lesion=not part.normal))
            if part.masks:
                save(tmp_path / part.masks / f"{patient}_{plane}.png", spot().astype(np.uint8) * 255)
    return tmp_path


@pytest.fixture
def medianomaly(tmp_path: Path, monkeypatch) -> Path:
    small = tuple(part._replace(published=8 if part.split == TRAIN else 2) for part in published.PARTS["medianomaly"])
    monkeypatch.setitem(published.PARTS, "medianomaly", small)
    for number in range(8):
        save(tmp_path / "train" / f"BraTS2021_{number:05d}_flair_{60 + number}.png", mri(number))
    for number in (20, 21):
        save(tmp_path / "test/normal" / f"BraTS2021_{number:05d}_flair_50.png", mri(number))
        save(tmp_path / "test/tumor" / f"BraTS2021_{number:05d}_flair_70.png", mri(number, lesion=True))
        mask = spot().astype(np.uint8) * 255
        save(tmp_path / "test/annotation" / f"BraTS2021_{number:05d}_seg_70.png", mask)
    return tmp_path


def of_bmad(root: Path, **fields) -> Bmad:
    return Bmad(kind="bmad", path=str(root), size=32, **fields)


def test_bmad_is_read_with_its_splits_masks_and_places(bmad: Path) -> None:
    found = published.read(of_bmad(bmad))
    assert len(found) == 10
    assert found.of(["00003"]).position.tolist() == [60 / 154, 77 / 154]
    assert sorted(set(found.patient[found.abnormal].tolist())) == ["00002", "00124"]
    assert found.lesion[found.abnormal].any((1, 2)).all()
    assert published.published_splits(of_bmad(bmad), SplitConfig()) == {
        "00003": TRAIN,
        "00025": VALIDATION,
        "00124": VALIDATION,
        "00000": TEST,
        "00002": TEST,
    }


def test_pictures_may_lie_in_img_of_the_training_too(bmad: Path) -> None:
    before = published.read(of_bmad(bmad))
    (bmad / "train/good").rename(bmad / "img")
    (bmad / "train/good").mkdir()
    (bmad / "img").rename(bmad / "train/good/img")
    np.testing.assert_array_equal(published.read(of_bmad(bmad)).images, before.images)


def test_medianomaly_is_read_and_some_who_train_validate(medianomaly: Path) -> None:
    config = MedIAnomaly(kind="medianomaly", path=str(medianomaly), size=32)
    found = published.read(config)
    assert len(found) == 12
    assert found.lesion[found.abnormal].any((1, 2)).sum() == 2
    splits = published.published_splits(config, SplitConfig(validation=0.4, test=0.3))
    assert patients_of(splits, TEST) == ["00020", "00021"]
    assert patients_of(splits, VALIDATION)
    assert {*patients_of(splits, TRAIN), *patients_of(splits, VALIDATION)} == {f"{number:05d}" for number in range(8)}
    assert split_patients(found.patients, SplitConfig(), splits) == dict(sorted(splits.items()))


def test_a_patient_in_two_splits_is_refused_or_kept_out_of_the_first(bmad: Path, caplog) -> None:
    (bmad / "train/good/00003_60.png").rename(bmad / "train/good/00002_61.png")
    with pytest.raises(DataError, match="1 patients are in more than one of its splits, for example 00002"):
        published.read(of_bmad(bmad))
    with caplog.at_level(logging.WARNING):
        config = of_bmad(bmad, on_shared_patient="drop")
        found, splits = published.read(config), published.published_splits(config, SplitConfig())
    assert "1 slices of 1 patients in two splits are dropped" in caplog.text
    assert len(found) == 9
    assert splits["00002"] == TEST
    assert set(splits) == set(found.patients)


def test_names_that_tell_nothing_stand_for_themselves_and_that_is_said(bmad: Path, caplog) -> None:
    (bmad / "train/good/00003_60.png").rename(bmad / "train/good/slice.png")
    with caplog.at_level(logging.WARNING):
        found = published.read(of_bmad(bmad))
    assert "the names of 1 pictures tell neither patient nor plane" in caplog.text
    assert np.isnan(found.of(["slice"]).position).all()


def test_what_is_not_as_published_is_named(bmad: Path) -> None:
    mask = bmad / "test/Ungood/label/00002_60.png"
    mask.rename(mask.with_name("00002_61.png"))
    with pytest.raises(DataError, match=r"img/00002_60\.png: has no mask of its name in .*label; get the"):
        published.read(of_bmad(bmad))
    mask.with_name("00002_61.png").rename(mask)
    (bmad / "train/good/00003_77.png").rename(bmad / "train/good/00003_177.png")
    with pytest.raises(DataError, match=r"00003_177\.png: would be plane 177 of 155; check what data set it is"):
        published.read(of_bmad(bmad))
    (bmad / "train/good/00003_177.png").unlink()
    with pytest.raises(DataError, match=r"train/good: holds 1 pictures, but 2 were published there; get"):
        published.read(of_bmad(bmad))
