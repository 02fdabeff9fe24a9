"""Prepared data sets: matched moments, growth, and reading by id."""

import gc
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffmech.artifacts import open_store, write_store
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImageFolder, ImagesConfig, LfwSubset, Moments, Prompts, SyntheticFaces
from diffmech.data import store
from diffmech.data.moments import histograms, match_moments, measure
from diffmech.data.synthetic_faces import PARTS, draw_faces, sample_attributes
from diffmech.errors import ConfigError, DataError, StoreError

FACES = SyntheticFaces(kind="synthetic_faces", count=40)
LFW = LfwSubset(kind="lfw_subset")


@pytest.mark.parametrize("dataset", [FACES, LFW], ids=["drawn", "real"])
def test_matched_images_have_the_wanted_mean_and_contrast(dataset, prepare):
    images = prepare(dataset, match=Moments(mean=-0.1, contrast=0.3))
    matched = images.images(images.ids)
    assert matched.dtype == np.float32
    assert np.abs(matched).max() <= 1
    assert matched.mean() == pytest.approx(-0.1, abs=1e-3)
    assert matched.std(axis=(1, 2, 3)).mean() == pytest.approx(0.3, abs=1e-3)
    after = images.attrs["moments_after"]
    assert after["mean"] == pytest.approx(matched.mean(), abs=1e-6)
    assert after["contrast"] == pytest.approx(matched.std(axis=(1, 2, 3)).mean(), abs=1e-6)


def test_moments_before_matching_are_those_of_the_raw_images(prepare):
    images = prepare(LFW)
    raw = images.raw_images(images.ids) / 127.5 - 1
    before = images.attrs["moments_before"]
    assert before["mean"] == pytest.approx(raw.mean())
    assert before["contrast"] == pytest.approx(raw.std(axis=(1, 2, 3)).mean())


def test_the_clipped_share_counts_the_pixels_beyond_the_range(prepare):
    images = prepare(LFW, match=Moments(mean=0.2, contrast=0.5))
    linear = images.gain * (images.raw_images(images.ids) / 127.5 - 1) + images.offset
    assert images.attrs["clipped_share"] == pytest.approx((np.abs(linear) > 1).mean(), abs=1e-6)
    assert images.attrs["clipped_share"] > 0.01


def test_without_matching_pixels_only_change_their_scale(prepare):
    images = prepare(LFW, match=None)
    assert (images.gain, images.offset, images.attrs["clipped_share"]) == (1, 0, 0)
    np.testing.assert_allclose(images.images([3]), images.raw_images([3]) / 127.5 - 1, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    mean=st.floats(-0.5, 0.5),
    contrast=st.floats(0.1, 0.4),
    centre=st.floats(90, 160),
    spread=st.floats(8, 50),
    seed=st.integers(0, 100),
)
def test_any_reachable_target_is_hit_where_little_is_clipped(mean, contrast, centre, spread, seed):
    pixels = np.random.default_rng(seed).normal(centre, spread, (6, 1, 16, 16))
    images = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    matching = match_moments(lambda: [images], Moments(mean=mean, contrast=contrast), name="set")
    if matching.after.clipped_share < 0.1:
        assert matching.after.mean == pytest.approx(mean, abs=0.01)
        assert matching.after.contrast == pytest.approx(contrast, abs=0.01)


def test_slopes_of_the_moments_are_their_derivatives():
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16), dtype=np.uint8)
    gain, offset, step = 1.311, 0.137, 1e-6
    slopes = measure([images], gain, offset).slopes
    for column, (d_gain, d_offset) in enumerate([(step, 0), (0, step)]):
        up = measure([images], gain + d_gain, offset + d_offset)
        down = measure([images], gain - d_gain, offset - d_offset)
        assert slopes[0, column] == pytest.approx((up.mean - down.mean) / (2 * step), rel=1e-4)
        assert slopes[1, column] == pytest.approx((up.contrast - down.contrast) / (2 * step), rel=1e-4, abs=1e-6)


def test_moments_do_not_depend_on_the_chunks():
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)
    whole = match_moments(lambda: [images], Moments(), name="set")
    pieces = match_moments(lambda: [images[:2], images[2:3], images[3:]], Moments(), name="set")
    assert pieces.gain == pytest.approx(whole.gain, rel=1e-9)
    assert pieces.offset == pytest.approx(whole.offset, abs=1e-9)


def test_histograms_count_the_pixels_of_each_image():
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 5, 5), dtype=np.uint8)
    for image, shares in zip(images, histograms(images), strict=True):
        np.testing.assert_allclose(shares, np.histogram(image, bins=np.arange(257))[0] / image.size)


def test_an_unreachable_target_gives_the_closest_and_says_so():
    images = np.zeros((3, 1, 8, 8), np.uint8)
    images[:, :, :1] = 255  # an eighth is white: after clipping a mean of 0.5 would leave a contrast near 0
    matching = match_moments(lambda: [images], Moments(mean=0.5, contrast=0.9), name="set")
    levels = np.clip(matching.gain * (images / 127.5 - 1) + matching.offset, -1, 1)
    assert matching.after.mean == pytest.approx(levels.mean(), abs=1e-9)
    assert matching.after.contrast == pytest.approx(levels.std(axis=(1, 2, 3)).mean(), abs=1e-9)


def test_flat_images_cannot_be_matched(tmp_path, prepare):
    (tmp_path / "flat").mkdir()
    for index in range(3):
        Image.new("L", (9, 9), 100).save(tmp_path / "flat" / f"{index}.png")
    config = ImageFolder(kind="image_folder", path=str(tmp_path / "flat"))
    with pytest.raises(DataError, match=r"set: every image is one flat colour.* images\.match: null"):
        prepare(config)
    assert len(prepare(config, match=None)) == 3


def test_drawn_faces_come_with_their_attributes_and_masks(prepare):
    images = prepare(FACES, channels=3)
    table = sample_attributes(range(40), FACES.seed, {})
    assert images.attributes == tuple(table.columns)
    np.testing.assert_allclose(images.attribute_values(images.ids), table, atol=1e-6)
    faces = draw_faces(table, FACES.seed, 16, FACES.zoom)
    assert images.parts == tuple(PARTS)
    np.testing.assert_allclose(images.masks(images.ids), faces.masks, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(images.raw_images(images.ids), faces.images.transpose(0, 3, 1, 2))


def test_more_drawn_faces_leave_the_first_as_they_were(prepare):
    few = prepare(FACES)
    many = prepare(FACES.model_copy(update={"count": 75}))
    np.testing.assert_array_equal(few.raw_images(few.ids), many.raw_images(few.ids))
    np.testing.assert_array_equal(few.attribute_values(few.ids), many.attribute_values(few.ids))


def test_a_misspelt_fixed_attribute_stops_before_drawing(prepare):
    with pytest.raises(ConfigError, match="glases"):
        prepare(SyntheticFaces(kind="synthetic_faces", count=5, fixed={"glases": 1}))


def test_prompts_are_no_images_without_a_pipeline(prepare):
    with pytest.raises(
        ConfigError, match="prompts become images only by a model of source pipeline; name one in study"
    ):
        prepare(Prompts(kind="prompts", prompts=["a face"]))


def test_real_faces_have_no_attributes_and_no_masks(prepare):
    images = prepare(LFW)
    assert len(images) == 100
    assert images.attribute_values([0, 1]).shape == (2, 0)
    assert images.masks([0, 1]).shape == (2, 0, 16, 16)


def test_reading_by_ids_equals_reading_everything(prepare, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 7)
    monkeypatch.setattr(store, "CACHE_BYTES", 5000)  # less than two chunks, so that they are dropped and read again
    images = prepare(FACES)
    data = open_store(images.path).dataset
    assert data["image"].encoding["chunks"][0] == 7
    for ids in ([39, 0, 13, 13, 7], [], list(range(40)), np.arange(39, -1, -3)):
        np.testing.assert_array_equal(images.raw_images(ids), data["image"].values[ids if len(ids) else slice(0)])
        np.testing.assert_array_equal(
            images.masks(ids), data["mask"].values[ids if len(ids) else slice(0)].astype(np.float32) / 255
        )
    np.testing.assert_array_equal(data["sample"].values, images.ids)
    assert str(data["file"].values[3]) == images.files[3]


def test_an_id_beyond_the_set_is_an_error(prepare):
    images = prepare(FACES)
    for ids in ([40], [-1]):
        with pytest.raises(DataError, match="has sample ids 0 to 39"):
            images.images(ids)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 64)
    rows = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    peaks = {}
    for count in (64, 128, 640):  # the first run is there to import what is imported late
        folder = tmp_path / str(count)
        folder.mkdir()
        for index in range(count):
            np.save(folder / f"{index:05d}.npy", np.roll(rows, index, axis=0))
        output = tmp_path / f"{count}.zarr.zip"
        runtime = RuntimeConfig(threads=1, progress=False)
        config = ImageFolder(kind="image_folder", path=str(folder))
        # what other tests left behind would put off the collection of cycles, which would count as held
        gc.collect()
        gc.freeze()
        tracemalloc.start()
        store.prepare_dataset(config, ImagesConfig(size=64, channels=3), output, name="set", runtime=runtime)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        gc.unfreeze()
    # 512 more images are 6 MB more, of which next to nothing may be held
    assert peaks[640] - peaks[128] < 1e6


def test_a_store_that_is_no_data_set_is_refused(tmp_path):
    write_store(tmp_path / "other.zarr.zip", xr.Dataset({"x": ("sample", [1.0])}))
    with pytest.raises(StoreError, match="is no data set store"):
        store.open_dataset(tmp_path / "other.zarr.zip")
    with pytest.raises(StoreError, match="no such store"):
        store.open_dataset(tmp_path / "missing.zarr.zip")


def test_the_store_records_how_it_was_made(prepare):
    attrs = prepare(FACES).attrs
    assert attrs["dataset"] == "set"
    assert attrs["kind"] == "synthetic_faces"
    assert attrs["skipped"] == []
    assert attrs["provenance"]["dataset"] == FACES.canonical()
    assert "numpy" in attrs["provenance"]["versions"]
