"""Drawn faces: their attributes are independent causes, each acts where it should, and the part masks are exact."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from diffmech.data.face_parts import IDENTITY, eye_layers, nose_layers, place_heads
from diffmech.data.synthetic_faces import ATTRIBUTES, NAMES, PARTS, FaceImages, draw_faces, sample_attributes
from diffmech.errors import ConfigError, DataError
from diffmech.testing import assert_same_up_to_rounding

PLAIN = {"glasses": 0, "beard": 0, "hat": 0, "hair_length": 0.45, "pose": 0.5, "light": 0.5, "smile": 0.2}


def faces_with(name: str, value: float, samples: int = 12, **others: float) -> FaceImages:
    return draw_faces(sample_attributes(range(samples), 5, fixed={**PLAIN, **others, name: value}), seed=5)


def mask(faces: FaceImages, *parts: str) -> np.ndarray:
    return sum(faces.masks[:, PARTS.index(part)] for part in parts)


def change(before: FaceImages, after: FaceImages) -> np.ndarray:
    return np.abs(after.images.astype(float) - before.images.astype(float)).sum(axis=-1)


def widened(region: np.ndarray, pixels: int) -> np.ndarray:
    return ndimage.maximum_filter(region, size=(1, 2 * pixels + 1, 2 * pixels + 1))


def test_attributes_come_in_the_published_order():
    assert NAMES == (
        "skin",
        "hair_colour",
        "hair_length",
        "eye_size",
        "glasses",
        "smile",
        "beard",
        "hat",
        "pose",
        "light",
        "background",
    )
    assert [attribute.name for attribute in ATTRIBUTES if attribute.kind == "binary"] == ["glasses", "beard", "hat"]


def test_attributes_are_independent_and_cover_their_range():
    table = sample_attributes(range(2000), seed=3)
    correlation = np.corrcoef(table.to_numpy(), rowvar=False)
    # under independence r has standard deviation 1/sqrt(2000) = 0.022, and the largest of 55 stays below four of them
    assert np.abs(correlation - np.eye(len(NAMES))).max() < 0.09
    for attribute in ATTRIBUTES:
        values = table[attribute.name]
        assert values.between(0, 1).all()
        assert values.mean() == pytest.approx(0.5, abs=0.05)
        assert (set(values) == {0.0, 1.0}) == (attribute.kind == "binary")


def test_no_mouth_is_between_frown_and_smile():
    smile = sample_attributes(range(2000), seed=3)["smile"]
    assert not smile.between(0.35, 0.65, inclusive="neither").any()
    assert (smile > 0.5).mean() == pytest.approx(0.5, abs=0.05)


def test_a_set_grows_without_changing_its_first_rows():
    small, large = sample_attributes(range(10), seed=1), sample_attributes(range(600), seed=1)
    pd.testing.assert_frame_equal(small, large.iloc[:10])
    pd.testing.assert_frame_equal(sample_attributes([599, 3, 256], seed=1), large.loc[[599, 3, 256]])


def test_a_fixed_attribute_leaves_the_others_as_they_were():
    free, fixed = sample_attributes(range(50), seed=1), sample_attributes(range(50), seed=1, fixed={"glasses": 1})
    assert (fixed["glasses"] == 1).all()
    pd.testing.assert_frame_equal(free.drop(columns="glasses"), fixed.drop(columns="glasses"))


def test_seeds_draw_different_people():
    one, two = sample_attributes(range(8), seed=1), sample_attributes(range(8), seed=2)
    assert not np.allclose(one["skin"], two["skin"])
    assert change(draw_faces(one, seed=1), draw_faces(one, seed=2)).mean() > 5


@pytest.mark.parametrize("size", [32, 64])
def test_an_image_depends_on_its_own_row_and_not_on_its_neighbours(size: int):
    table = sample_attributes(range(40), seed=1)
    all_at_once = draw_faces(table, seed=1, size=size)
    some = draw_faces(table.iloc[[35, 2]], seed=1, size=size)
    # Vector kernels round the last digit of a float32 by its place in the batch, which may turn a pixel by one level.
    turned = np.abs(some.images.astype(int) - all_at_once.images[[35, 2]])
    assert turned.max() <= 1
    assert (turned > 0).mean() < 1e-3
    assert_same_up_to_rounding(some.masks, all_at_once.masks[[35, 2]], roundings=64)
    assert all_at_once.images.shape == (40, size, size, 3)
    assert all_at_once.images.dtype == np.uint8
    assert all_at_once.masks.dtype == np.float32


def test_equal_attributes_still_show_different_people():
    twins = sample_attributes([0, 1], seed=1)
    twins.loc[1] = twins.loc[0]
    images = draw_faces(twins, seed=1).images.astype(float)
    assert np.abs(images[0] - images[1]).mean() > 5


@pytest.mark.parametrize(("size", "zoom"), [(64, 1.0), (32, 1.3), (48, 1.5)])
def test_the_parts_share_out_every_pixel(size: int, zoom: float):
    masks = draw_faces(sample_attributes(range(64), seed=4), seed=4, size=size, zoom=zoom).masks
    assert masks.min() >= 0
    np.testing.assert_allclose(masks.sum(axis=1), 1, atol=1e-5)


def test_every_face_has_eyes_brows_nose_and_mouth_in_their_places():
    table = sample_attributes(range(64), seed=4)
    masks = draw_faces(table, seed=4).masks
    rows = np.arange(64)[:, None] + 0.5
    for part in ("background", "skin", "brows", "eyes", "nose", "mouth"):
        assert masks[:, PARTS.index(part)].sum(axis=(1, 2)).min() > 4, part
    order = [
        np.average(np.broadcast_to(rows, (64, 64, 64)), axis=(1, 2), weights=masks[:, PARTS.index(part)])
        for part in ("brows", "eyes", "nose", "mouth")
    ]
    assert (np.diff(order, axis=0) > 1).all()


@pytest.mark.parametrize("part", ["glasses", "hat", "beard"])
def test_a_part_is_there_when_its_attribute_is_on_and_only_then(part: str):
    on, off = faces_with(part, 1, samples=64), faces_with(part, 0, samples=64)
    assert mask(on, part).sum(axis=(1, 2)).min() > 60
    assert mask(off, part).max() == 0
    rounded = faces_with(part, 0.5, samples=64)
    np.testing.assert_array_equal(rounded.images, on.images)


def test_hair_grows_with_its_attribute_from_none():
    area = [mask(faces_with("hair_length", value), "hair").sum(axis=(1, 2)) for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert area[0].max() == 0
    assert (np.diff(area, axis=0) > 0).all()


@pytest.mark.parametrize(
    ("name", "parts", "margin", "share"),
    [
        ("glasses", ("glasses",), 0, 0.95),
        ("beard", ("beard",), 0, 0.95),
        ("hat", ("hat",), 0, 0.75),
        ("smile", ("mouth",), 4, 0.80),
        ("eye_size", ("eyes", "brows"), 1, 0.90),
        ("background", ("background",), 0, 0.98),
        ("hair_colour", ("hair", "brows"), 0, 0.95),
        ("skin", ("skin", "nose", "mouth"), 0, 0.90),
        ("hair_length", ("hair",), 0, 0.90),
        ("pose", ("skin", "hair", "brows", "eyes", "nose", "mouth"), 0, 0.95),
    ],
)
def test_an_attribute_acts_on_its_own_part(name: str, parts: tuple[str, ...], margin: int, share: float):
    low, high = faces_with(name, 0.0), faces_with(name, 1.0)
    region = widened(np.maximum(mask(low, *parts), mask(high, *parts)) > 0.02, margin)
    difference = change(low, high)
    assert (difference.sum(axis=(1, 2)) > 1500).all()
    assert (difference * region).sum() / difference.sum() > share


def test_light_brightens_the_side_that_it_comes_from():
    columns = np.arange(64) < 32
    left, right = faces_with("light", 0.0), faces_with("light", 1.0)
    gain = (left.images.astype(float) - right.images.astype(float)).mean(axis=-1)
    skin = mask(left, "skin") > 0.9
    assert gain[skin & columns].mean() > 20
    assert gain[skin & ~columns].mean() < -20


def test_glasses_beard_hat_and_smile_are_seen_in_small_grey_images():
    luma = np.array([0.299, 0.587, 0.114])
    for name, parts in {"glasses": "glasses", "beard": "beard", "hat": "hat", "smile": "mouth"}.items():
        low, high = (
            draw_faces(sample_attributes(range(64), 5, fixed={name: value}), seed=5, size=32, zoom=1.3)
            for value in (0.1, 0.9)
        )
        difference = np.abs(high.images.astype(float) @ luma - low.images.astype(float) @ luma)
        # at least six pixels of each face change by a tenth of the range, a dozen times the grain
        strong = ((difference > 25) & (widened(mask(high, parts), 1) > 0)).sum(axis=(1, 2))
        assert np.quantile(strong, 0.05) >= 6, name


def test_a_face_turned_right_under_a_lamp_on_the_right_mirrors_one_turned_left():
    def heads(side: float):
        attribute = {name: np.array([0.6], dtype=np.float32) for name in NAMES}
        attribute |= {name: np.array([side], dtype=np.float32) for name in ("pose", "light")}
        return place_heads(attribute, {name: np.zeros(1, dtype=np.float32) for name in IDENTITY}, 64, 1.0)

    left, right = heads(0.1), heads(0.9)
    one = np.ones_like(left.x)
    skin = np.ones((1, 3), dtype=np.float32)
    layers = zip(
        [*eye_layers(left, one), *nose_layers(left, one, skin, one)],
        [*eye_layers(right, one), *nose_layers(right, one, skin, one)],
        strict=True,
    )
    for one_side, other_side in layers:
        np.testing.assert_allclose(one_side.coverage, other_side.coverage[:, :, ::-1], atol=1e-4)


def test_zoom_shows_more_of_the_face_and_less_of_the_wall():
    table = sample_attributes(range(32), 5, fixed={"hair_length": 0.4})
    background = [mask(draw_faces(table, 5, zoom=zoom), "background").mean() for zoom in (1.0, 1.3, 1.5)]
    assert background[0] > background[1] > background[2]
    hat = mask(draw_faces(sample_attributes(range(32), 5, fixed={"hat": 1}), 5, zoom=1.3), "hat")
    assert (hat.sum(axis=(1, 2)) > 150).all()


def test_no_samples_give_an_empty_set():
    faces = draw_faces(sample_attributes([], seed=1), seed=1)
    assert faces.images.shape == (0, 64, 64, 3)
    assert faces.masks.shape == (0, len(PARTS), 64, 64)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"glases": 1}, "'glases' does not exist; did you mean 'glasses'"),
        ({"smile": 1.5}, r"'smile': 1.5 is outside the allowed range \[0, 1\]"),
        ({"smile": float("nan")}, r"'smile': nan is outside the allowed range \[0, 1\]"),
    ],
)
def test_a_wrong_fixed_attribute_is_named(fixed: dict[str, float], message: str):
    with pytest.raises(ConfigError, match=message):
        sample_attributes(range(3), seed=1, fixed=fixed)


def test_attributes_that_cannot_be_drawn_are_named():
    table = sample_attributes(range(3), seed=1)
    with pytest.raises(ConfigError, match="attributes: the column 'hat' is missing; needed are"):
        draw_faces(table.drop(columns="hat"), seed=1)
    with pytest.raises(ConfigError, match=r"'pose': -0\.2 is outside"):
        draw_faces(table.assign(pose=-0.2), seed=1)
    with pytest.raises(ConfigError, match="size: 4 pixels cannot be drawn; give a size from 8 to 1024"):
        draw_faces(table, seed=1, size=4)
    with pytest.raises(ConfigError, match=r"zoom: 9 cannot be drawn; give a zoom from 0\.5 to 3"):
        draw_faces(table, seed=1, zoom=9)
    with pytest.raises(DataError, match=r"sample ids: found int64 of shape \(2,\); give whole numbers from 0 upwards"):
        sample_attributes([-1, 2], seed=1)
