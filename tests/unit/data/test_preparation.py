"""Decoding and the one form: closed forms for colour, alpha, depth, crop and resampling."""

import numpy as np
import pytest
from PIL import Image

from diffmech.config.images import ImagesConfig
from diffmech.data.preparation import BLACK, check_pixels, prepare_image, prepare_mask, read_image
from diffmech.errors import DataError

GREY = ImagesConfig(size=8, channels=1)
COLOUR = ImagesConfig(size=8, channels=3)


def saved(image, path):
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 128, (128, 128, 128)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (100, 255), (100, 100, 100)),
        ("I;16", 32896, (128, 128, 128)),
    ],
)
def test_every_mode_becomes_the_same_colours(mode, colour, expected, tmp_path):
    pixels = read_image(saved(Image.new(mode, (12, 12), colour), tmp_path / "image.png"))
    image = prepare_image(pixels, COLOUR)
    assert image.shape == (3, 8, 8)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.broadcast_to(np.reshape(expected, (3, 1, 1)), (3, 8, 8)))


def test_palette_images_show_their_palette_and_not_their_indices(tmp_path):
    image = Image.new("P", (12, 12), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    prepared = prepare_image(read_image(saved(image, tmp_path / "p.png")), COLOUR)
    assert prepared[:, 0, 0].tolist() == [200, 100, 50]


def test_transparent_palette_images_lie_over_white(tmp_path):
    image = Image.new("P", (12, 12), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "p.png", transparency=1)
    assert (prepare_image(read_image(tmp_path / "p.png"), COLOUR) == 255).all()


def test_cmyk_jpegs_are_read(tmp_path):
    pixels = read_image(saved(Image.new("CMYK", (12, 12), (0, 0, 0, 0)), tmp_path / "c.jpg"))
    assert (prepare_image(pixels, GREY) == 255).all()


def test_float_tiffs_are_read(tmp_path):
    pixels = read_image(saved(Image.fromarray(np.full((12, 12), 0.5, np.float32)), tmp_path / "f.tif"))
    assert (prepare_image(pixels, GREY) == 128).all()


def test_grey_is_rec_601_luma():
    pixels = np.broadcast_to(np.array([255, 0, 0], np.uint8), (8, 8, 3))
    assert (prepare_image(pixels, GREY) == round(0.299 * 255)).all()
    pixels = np.broadcast_to(np.array([0, 255, 0], np.uint8), (8, 8, 3))
    assert (prepare_image(pixels, GREY) == round(0.587 * 255)).all()


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("L", (16, 16), 0)
    image.paste(255, (0, 0, 16, 8))  # upper half white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    prepared = prepare_image(read_image(tmp_path / "turned.png"), GREY)[0]
    assert prepared[0].max() < 10
    assert prepared[-1].min() > 245


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 1), (6, 6, 3), (6, 6, 4)])
def test_arrays_of_all_documented_shapes_are_read(shape, tmp_path):
    np.save(tmp_path / "whole.npy", np.ones(shape))
    assert (prepare_image(read_image(tmp_path / "whole.npy"), COLOUR) == 255).all()
    np.save(tmp_path / "bytes.npy", np.full(shape, 255, np.uint8))
    assert (prepare_image(read_image(tmp_path / "bytes.npy"), COLOUR) == 255).all()


def test_float_and_byte_arrays_agree():
    values = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    as_bytes = prepare_image(check_pixels(values), COLOUR).astype(int)
    as_floats = prepare_image(check_pixels(values / 255), COLOUR).astype(int)
    assert np.abs(as_bytes - as_floats).max() <= 1


def test_the_crop_keeps_the_central_square():
    pixels = np.zeros((20, 40, 1), np.uint8)
    pixels[5:15, 15:25] = 255
    assert (prepare_image(pixels, GREY, crop=0.5) == 255).all()
    assert prepare_image(pixels, GREY, crop=1.0).mean() < 128


def test_shrinking_does_not_alias():
    # a checkerboard is finer than the small image can show, so only its mean may remain
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[:, :, None]
    assert np.abs(prepare_image(board, GREY)[:, 2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_the_resolution_limit_removes_what_is_finer():
    stripes = np.zeros((32, 32, 1), np.uint8)
    stripes[:, ::2] = 255
    sharp = prepare_image(stripes, ImagesConfig(size=32, channels=1))
    limited = prepare_image(stripes, ImagesConfig(size=32, channels=1, resolution=8))
    assert sharp.std() == pytest.approx(127.5)
    assert limited[:, 4:-4, 4:-4].std() < 5


def test_images_smaller_than_the_form_are_enlarged():
    ramp = np.linspace(0, 255, 4).astype(np.uint8)[None, :, None].repeat(4, axis=0)
    enlarged = prepare_image(ramp, GREY)[0].astype(int)
    assert enlarged.shape == (8, 8)
    assert (np.diff(enlarged[4]) >= 0).all()


def test_a_mask_is_the_share_of_each_pixel():
    mask = np.zeros((16, 16, 1), np.uint8)
    mask[:, :3] = 255  # one and a half pixels of the small mask
    assert prepare_mask(mask, 8)[0, :3].tolist() == [255, 128, 0]


def test_a_label_image_of_zeros_and_ones_is_a_mask():
    mask = np.zeros((8, 8, 1), np.uint8)
    mask[2:4] = 1
    assert prepare_mask(mask, 8).max() == 255
    assert prepare_mask(np.zeros((8, 8, 1), np.uint8), 8).max() == 0


def test_transparency_of_a_mask_is_not_the_part(tmp_path):
    path = saved(Image.new("RGBA", (8, 8), (255, 255, 255, 0)), tmp_path / "mask.png")
    assert prepare_mask(read_image(path, background=BLACK), 8).max() == 0


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg"])
def test_an_image_cut_in_half_is_an_error(tmp_path, name):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = saved(Image.fromarray(pixels), tmp_path / name)
    assert read_image(path).shape[:2] == (64, 64)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(path)
