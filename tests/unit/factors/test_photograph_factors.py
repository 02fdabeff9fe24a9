"""Photographs with attributes as factors: they are drawn by attribute, and none is taken again with another."""

import numpy as np
import pytest
from PIL import Image

from diffmech.config.images import CelebA, ImagesConfig
from diffmech.data.factors.photographs import CelebAPhotographs
from diffmech.errors import DataError
from diffmech.randomness import generator

ROWS = {"000001.png": (1, -1), "000002.png": (-1, -1), "000003.png": (1, -1), "000004.png": (-1, -1)}


@pytest.fixture
def photographs(tmp_path):
    """Open four grey photographs of brightness 10, 20, 30 and 40; the first and the third smile, none has a hat."""
    (tmp_path / "img_align_celeba").mkdir()
    for row, name in enumerate(ROWS):
        Image.new("L", (20, 20), 10 * row + 10).save(tmp_path / "img_align_celeba" / name)
    lines = [f"{name} {' '.join(map(str, values))}" for name, values in ROWS.items()]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["4", "Smiling Wearing_Hat", *lines, ""]))

    def open_them():
        return CelebAPhotographs(CelebA(kind="celeba", path=str(tmp_path)), ImagesConfig(size=16, match=None))

    return open_them


def test_each_photograph_comes_with_its_attributes(photographs) -> None:
    data = photographs()
    assert [(factor.name, factor.kind, factor.size) for factor in data.factors] == [
        *[("Smiling", "discrete", 2), ("Wearing_Hat", "discrete", 2)],
    ]
    samples = data.sample(60, generator(0, "photographs"))
    brightness = np.rint(samples.images.mean(axis=(1, 2, 3)) * 255)
    assert set(brightness) == {10, 20, 30, 40}
    np.testing.assert_array_equal(samples.values[:, 0], np.isin(brightness, [10, 30]))
    assert not samples.values[:, 1].any()


def test_an_attribute_is_fixed_by_choosing_among_those_that_have_it(photographs) -> None:
    data = photographs()
    smiling = data.sample_fixed(30, "Smiling", generator(0, "smiling"), value=1)
    assert set(np.rint(smiling.images.mean(axis=(1, 2, 3)) * 255)) == {10, 30}
    drawn, _ = data.draw_fixed(5, "Smiling", generator(1, "any"))
    assert len(np.unique(drawn[:, 0])) == 1
    with pytest.raises(DataError, match=r"none of its 4 photographs has Wearing_Hat 1"):
        data.sample_fixed(2, "Wearing_Hat", generator(0, "hat"), value=1)


def test_a_photograph_is_not_taken_again(photographs, tmp_path) -> None:
    data = photographs()
    samples = data.sample(3, generator(0, "again"))
    with pytest.raises(DataError, match=r"has Wearing_Hat 0, and cannot be taken again with 1; change factors of a"):
        data.change(samples, "Wearing_Hat", 1.0)
    for name in ROWS:
        (tmp_path / "img_align_celeba" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"img_align_celeba: the photograph 00000\d.png cannot be decoded"):
        photographs().sample(1, generator(0, "bad"))
