"""Reference maps: what they mark, and how they reach the key grid."""

import numpy as np
import pytest
from planted_captures import write_latents, write_masks
from scipy import ndimage
from skimage.transform import downscale_local_mean

from diffmech.errors import StoreError
from diffmech.mechanisms.reference_maps import edges, intensity, load_reference_maps, resample_by_area, texture


def test_edges_agree_with_a_two_dimensional_sobel_filter():
    image = np.random.default_rng(0).normal(size=(3, 1, 12, 10))
    for index in range(3):
        expected = np.hypot(*(ndimage.sobel(image[index, 0], axis=axis, mode="nearest") for axis in (0, 1)))
        np.testing.assert_allclose(edges(image)[index], expected)


def test_a_step_has_its_edge_where_it_steps_and_a_flat_image_has_none():
    image = np.zeros((1, 3, 8, 8))
    image[..., 4:] = 1
    found = edges(image)[0]
    assert (found[:, 3:5] > 0).all()
    assert (found[:, :3] == 0).all()
    assert (found[:, 5:] == 0).all()
    assert (edges(np.full((1, 1, 8, 8), 0.7)) == 0).all()


def test_texture_is_higher_on_a_checkerboard_than_on_a_ramp():
    image = np.zeros((1, 1, 32, 32))
    image[0, 0, :, :16] = np.indices((32, 16)).sum(axis=0) % 2
    image[0, 0, :, 16:] = np.linspace(0, 1, 16)
    found = texture(image)[0]
    assert found[8:24, 4:12].min() > 20 * found[8:24, 22:28].max()


def test_intensity_of_the_darkest_pixel_is_zero():
    image = np.random.default_rng(1).normal(size=(4, 2, 6, 6))
    found = intensity(image)
    np.testing.assert_allclose(found.min(axis=(1, 2)), 0)
    np.testing.assert_allclose(found - found.mean(axis=(1, 2), keepdims=True), _centred(image.mean(axis=1)))


def _centred(maps):
    return maps - maps.mean(axis=(1, 2), keepdims=True)


def test_resampling_by_area_averages_whole_cells_and_keeps_the_mean():
    maps = np.random.default_rng(2).random((2, 12, 12))
    np.testing.assert_allclose(resample_by_area(maps, (4, 3))[1], downscale_local_mean(maps[1], (3, 4)))
    for grid in ((5, 7), (12, 12), (24, 16)):
        np.testing.assert_allclose(resample_by_area(maps, grid).mean(axis=(1, 2)), maps.mean(axis=(1, 2)))


def test_flat_images_and_empty_masks_are_no_evidence(tmp_path):
    images = np.zeros((3, 1, 8, 8))
    images[0, 0, :, 4:] = 1
    masks = np.zeros((3, 1, 8, 8))
    masks[2, 0, :2, :2] = 1
    latents = write_latents(tmp_path / "l.zarr.zip", images)
    dataset = write_masks(tmp_path / "d.zarr.zip", masks, ["eye"], images.shape)
    maps = load_reference_maps(
        [latents],
        dataset,
        sample_ids=np.arange(3),
        probes=["edges", "intensity", "parts"],
        parts=["eye", "hat"],
        grids=[(4, 4)],
    )[4, 4]
    assert maps.names == ("edges", "intensity", "part:eye", "part:hat")
    np.testing.assert_array_equal(
        maps.valid, [[True, True, False, False], [False, False, False, False], [False, False, True, False]]
    )
    np.testing.assert_allclose(maps.values.mean(axis=-1), maps.valid)
    # the mask fills 1 of 16 cells: uniform attention has 1/16 of its mass there
    assert maps.attainable[2, 2] == pytest.approx((1 / 16) / (15 / 16))


def test_a_captured_sample_without_its_image_is_named(tmp_path):
    latents = write_latents(tmp_path / "l.zarr.zip", np.random.default_rng(3).random((2, 1, 8, 8)))
    with pytest.raises(StoreError, match="sample 7 was captured but has no clean image"):
        load_reference_maps(
            [latents], tmp_path, sample_ids=np.array([0, 7]), probes=["edges"], parts=[], grids=[(4, 4)]
        )
