"""Masks are read as the shares that they say; colours and numbers that say none are refused, empty parts are told."""

import logging

import numpy as np
import pytest
from PIL import Image

from diffmech.config.images import ImageFolder
from diffmech.data.masks import read_mask
from diffmech.data.preparation import prepare_mask
from diffmech.errors import DataError

PART = np.zeros((8, 8), np.uint8)
PART[:, :4] = 1


def palette(*colours: tuple[int, int, int], indices: np.ndarray = PART) -> Image.Image:
    image = Image.fromarray(indices, "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


BLACK, RED, WHITE, GREEN = (0, 0, 0), (128, 0, 0), (255, 255, 255), (0, 128, 0)
SHARES = {
    "grey": Image.fromarray(255 * PART),
    "label image": Image.fromarray(PART),
    "black and white": Image.fromarray(PART.astype(bool)),
    "colours of grey": Image.fromarray(np.stack([255 * PART] * 3, -1)),
    "palette of labels": palette(BLACK, RED),
    "palette of greys": palette(WHITE, BLACK, indices=1 - PART),
    "16 bits": Image.fromarray(PART.astype(np.uint16) * 65535),
    "labels in 16 bits": Image.fromarray(PART.astype(np.uint16)),
    "white behind transparency": Image.fromarray(np.stack([0 * PART + 255] * 3 + [255 * PART], -1)),
}
REFUSED = {
    "red": (Image.fromarray(np.stack([255 * PART, 0 * PART, 0 * PART], -1)), "is in colours, which say no share"),
    "three labels": (Image.fromarray(3 * PART), r"nothing above 3 of 255, as a label image of several parts"),
    "palette": (palette(BLACK, RED, GREEN, indices=2 * PART), "is a palette of 2 colours; save the mask of each part"),
    "8 bits in 16": (
        Image.fromarray(PART.astype(np.uint16) * 255),
        "up to 255 in 16 bits, where 65535 is white",
    ),
    "black": (Image.fromarray(np.stack([0 * PART] * 3 + [255 * PART], -1)), "black everywhere and says by its transp"),
}


@pytest.mark.parametrize("kind", SHARES)
def test_a_mask_marks_the_same_part_however_it_is_saved(kind, tmp_path):
    SHARES[kind].save(tmp_path / "mask.png")
    np.testing.assert_array_equal(prepare_mask(read_mask(tmp_path / "mask.png"), 8), 255 * PART)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_mask_that_says_no_share_is_refused(kind, tmp_path):
    image, message = REFUSED[kind]
    image.save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=message):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("empty", [0, 255])
def test_jpegs_and_empty_masks_are_masks(empty, tmp_path):
    soft = Image.fromarray(np.stack([np.clip(40 * np.arange(8, dtype=np.uint8)[None] + 0 * PART, 0, 255)] * 3, -1))
    soft.save(tmp_path / "mask.jpg", quality=60)
    assert 60 < prepare_mask(read_mask(tmp_path / "mask.jpg"), 8).mean() < 190
    Image.fromarray(0 * PART + np.uint8(empty)).save(tmp_path / "mask.png")
    assert (prepare_mask(read_mask(tmp_path / "mask.png"), 8) == empty).all()


def test_a_part_that_no_mask_marks_is_told(tmp_path, prepare, caplog):
    for name in ("0.png", "1.png"):
        for part, value in (("images", 100), ("masks/eyes", 0), ("masks/hair", 255)):
            (tmp_path / part).mkdir(parents=True, exist_ok=True)
            pixels = 100 * PART if part == "images" else 0 * PART + np.uint8(value)
            Image.fromarray(pixels).save(tmp_path / part / name)
    with caplog.at_level(logging.WARNING):
        prepare(ImageFolder(kind="image_folder", path=str(tmp_path / "images"), masks=str(tmp_path / "masks")))
    assert "the masks of eyes mark nothing in any of 2 images" in caplog.text
    assert "hair" not in caplog.text
