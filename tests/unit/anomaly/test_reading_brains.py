"""Any kind of data set becomes slices with splits, by its settings alone."""

from pathlib import Path

import numpy as np
from phantom_heads import save_case
from picture_folders import mri, save, save_lgg, spot
from pydantic import TypeAdapter

from diffmech.anomaly import published
from diffmech.anomaly.reading import read_brains, splits_of
from diffmech.anomaly.splits import NAMES, split_patients
from diffmech.config.anomaly_data import AnyBrains, SplitConfig

ANY = TypeAdapter(AnyBrains)


def test_each_kind_is_read_by_its_name(tmp_path: Path) -> None:
    save_case(tmp_path / "brats")
    save_lgg(tmp_path / "lgg")
    save(tmp_path / "picture_folder/normal/a.png", mri(1))
    save(tmp_path / "picture_folder/abnormal/b.png", mri(2, lesion=True))
    for kind in ("brats", "lgg", "picture_folder"):
        found = read_brains(ANY.validate_python({"kind": kind, "path": str(tmp_path / kind), "size": 24}))
        assert found.images.shape[1:] == (1, 24, 24)
        assert found.abnormal.any()
        assert not found.abnormal.all()


def test_splits_are_by_hash_unless_they_were_published(tmp_path: Path, monkeypatch) -> None:
    for number in range(40):
        save(tmp_path / f"pictures/normal/p{number}.png", mri(number))
    save(tmp_path / "pictures/abnormal/p40.png", mri(40, lesion=True))
    config = ANY.validate_python({"kind": "picture_folder", "path": str(tmp_path / "pictures"), "size": 16})
    slices = read_brains(config)
    assert splits_of(config, slices, SplitConfig()) == split_patients(slices.patients, SplitConfig())

    small = tuple(part._replace(published=1) for part in published.PARTS["bmad"])
    monkeypatch.setitem(published.PARTS, "bmad", small)
    for number, part in enumerate(small):
        save(tmp_path / "bmad" / part.folder / f"{number:05d}_60.png", mri(number, lesion=not part.normal))
        if part.masks:
            save(tmp_path / "bmad" / part.masks / f"{number:05d}_60.png", spot().astype(np.uint8) * 255)
    config = ANY.validate_python({"kind": "bmad", "path": str(tmp_path / "bmad"), "size": 16})
    splits = splits_of(config, read_brains(config), SplitConfig())
    assert splits == {f"{number:05d}": part.split for number, part in enumerate(small)}
    assert set(splits.values()) == set(NAMES)
