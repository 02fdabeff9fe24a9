"""Pictures show what they are given: heat where attention is, images where they belong, a frame around the query."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from diffmech.report.heads.examples import mechanism_examples
from diffmech.report.pictures import colour_pixels, heat, mark, mosaic, picture


def test_heat_is_brightest_where_attention_is_highest():
    image = np.full((32, 32, 3), 128, np.uint8)
    values = np.zeros((16, 16))
    values[4, 9] = 5.0
    drawn = heat(image, values, 5.0).astype(int).sum(axis=-1)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert (row // 2, column // 2) == (4, 9)
    assert len(np.unique(drawn)) == 2


def test_no_attention_leaves_the_image_readable():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    drawn = heat(image, np.zeros((4, 4)), 1.0)
    grey = image.mean(axis=-1)
    assert np.corrcoef(drawn.mean(axis=-1).ravel(), grey.ravel())[0, 1] > 0.999


def test_pixels_span_black_to_white_and_large_images_are_reduced():
    images = np.stack([np.full((1, 256, 256), -1.0), np.full((1, 256, 256), 1.0)])
    pixels = colour_pixels(images)
    assert pixels.shape == (2, 128, 128, 3)
    assert pixels[0].max() == 0
    assert pixels[1].min() == 255


def test_a_mosaic_keeps_every_image_and_leaves_gaps_clear():
    tiles = [np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = mosaic(tiles, 2)
    assert sheet.shape == (9, 9, 4)
    assert sheet[0, 0, 0] == 10
    assert sheet[0, 5, 0] == 20
    assert sheet[5, 0, 0] == 30
    assert sheet[4, :, 3].max() == 0
    assert sheet[5, 5, 3] == 0


def test_a_picture_is_a_png_of_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    shown = picture(pixels, "noise")
    head, _, body = shown.uri.partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), pixels)


def test_the_frame_surrounds_the_query_position():
    framed = mark(np.zeros((32, 32, 3), np.uint8), (16, 16), 5 * 16 + 3)
    rows, columns = np.nonzero(framed.any(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (9, 12, 5, 8)
    assert not framed[10:12, 6:8].any()


@pytest.mark.filterwarnings("error::FutureWarning")
def test_every_mechanism_is_shown_by_its_strongest_head(found):
    _, inputs, tables = found
    examples = {example.mechanism: example for example in mechanism_examples(inputs, tables.mechanisms, 3)}
    assert set(examples) == set(tables.mechanisms["mechanism"])
    assert examples["self-1"].head == "down1.0.self.h06"
    assert examples["self-1"].timestep == 220
    assert [shown.tiles for shown in examples["self-1"].pictures] == [3, 2, 3, 2]
    assert len(examples["cross-1"].pictures) == 2 * 5
