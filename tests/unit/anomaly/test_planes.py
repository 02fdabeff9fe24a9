"""Geometry and intensities of slices: averages over areas, in mm, on any grid, and robust normalisation."""

import numpy as np
import pytest

from diffmech.anomaly.planes import Frame, chosen, filled, foreground, lesion_pixels, normalise, sample_planes, shrink
from diffmech.config.anomaly_data import Lgg

FRAME = Frame((0.0, 0.0), 64.0, 16, np.array([-5.0, 0.0, 6.0]))


def grid(spacing: tuple[float, float, float], turn: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the affine of a grid around the origin, turned about z by `turn` degrees, and its points in mm."""
    counts = [int(90 / width) for width in spacing]
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(counts) - 1) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"))
    return affine, np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 1, 3), (5, 5, 5)])
@pytest.mark.parametrize("turn", [0, 25])
def test_a_plane_through_a_linear_image_is_what_it_is_in_mm_on_any_grid(spacing, turn) -> None:
    affine, (x, y, z) = grid(spacing, turn)
    found = sample_planes(2 * x - y + 3 * z, affine, FRAME)
    middle = (np.arange(16) + 0.5) * 4 - 32
    # right of the patient on the left, front on top
    expected = 2 * -middle[None, None, :] + middle[None, :, None] + 3 * FRAME.heights[:, None, None]
    inner = (slice(None), slice(4, -4), slice(4, -4))  # a turned grid does not reach the corners
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-4)


def test_outside_of_the_volume_is_nothing_and_a_pixel_is_the_share_that_is_covered() -> None:
    affine, (x, y, _) = grid((1, 1, 1))
    ball = (x**2 + y**2 < 20**2).astype(np.float32)
    found = sample_planes(ball, affine, Frame((0.0, 0.0), 128.0, 32, np.array([0.0, 200.0])))
    assert not found[1].any()
    assert abs(found[0].sum() * 4**2 / (np.pi * 20**2) - 1) < 0.02


def test_no_lesion_vanishes_and_none_is_made() -> None:
    share = np.zeros((3, 4, 4))
    share[0, 1, 1], share[0, 1, 2] = 0.5, 0.49
    share[1, 2, 2], share[1, 2, 3] = 0.1, 0.05
    assert np.argwhere(lesion_pixels(share)).tolist() == [[0, 1, 1], [1, 2, 2]]


def test_normalising_undoes_gain_and_offset_and_does_not_see_a_lesion() -> None:
    random = np.random.default_rng(0)
    images = random.normal(100, 10, (3, 20, 20)).astype(np.float32)
    brain = np.ones(images.shape, dtype=bool)
    brain[:, 0] = False
    normal = normalise(images, brain)
    assert np.median(normal[brain]) == pytest.approx(0.4, abs=0.01)
    assert (normal[~brain] == 0).all()
    np.testing.assert_allclose(normalise(7 * images + 300, brain), normal, atol=1e-5)
    with_lesion = images.copy()
    with_lesion[:, 5:10, 5:10] = 1e4  # 7 % of the brain
    kept = np.ones(images.shape, dtype=bool)
    kept[:, 5:10, 5:10] = False
    assert np.abs(normalise(with_lesion, brain) - normal)[kept].max() < 0.05
    with pytest.raises(ValueError, match="its intensities are 3 nearly everywhere"):
        normalise(np.full((1, 4, 4), 3.0), np.ones((1, 4, 4), dtype=bool))


def test_shrinking_averages_areas_and_keeps_the_shape_of_what_is_no_square() -> None:
    planes = np.random.default_rng(0).random((2, 24, 24))
    np.testing.assert_allclose(shrink(planes, 8), planes.reshape(2, 8, 3, 8, 3).mean((2, 4)), rtol=1e-5)
    tall = shrink(np.ones((1, 24, 12)), 8)[0]
    assert tall[:, 2:6].all()
    assert not tall[:, :2].any()
    assert not tall[:, 6:].any()


def test_the_foreground_is_a_head_with_its_holes_and_without_the_noise_around_it() -> None:
    y, x = np.mgrid[-32:32, -32:32]
    radius = np.hypot(x, y)
    head = np.where(radius < 24, 100.0, 0) * (radius > 6)  # with a ventricle
    noisy = head + np.random.default_rng(0).uniform(0, 8, (1, 64, 64))
    noisy[0, 2, 2] = 100
    np.testing.assert_array_equal(foreground(noisy)[0], filled((radius < 24)[None])[0])


def test_chosen_planes_are_spread_evenly_and_within() -> None:
    assert chosen(np.arange(10, 110), 4).tolist() == [22, 47, 72, 97]
    assert chosen([3, 4, 5], 9).tolist() == chosen([3, 4, 5], None).tolist() == [3, 4, 5]


def test_a_slice_whose_lesion_lies_outside_of_the_brain_is_neither_normal_nor_abnormal() -> None:
    from diffmech.anomaly.planes import slices_of

    images = {"flair": np.random.default_rng(0).random((3, 16, 16), dtype=np.float32)}
    brain, lesion = np.ones((3, 16, 16), dtype=bool), np.zeros((3, 16, 16), dtype=bool)
    brain[:, :4] = brain[2] = False
    lesion[0, 2, 2] = lesion[1, 8, 8] = True
    found = slices_of("a", images, brain, lesion, np.array([0.1, 0.2, 0.3]), Lgg(kind="lgg", path="x"))
    assert found.position.tolist() == [0.2]  # the last has no brain
    assert found.abnormal.all()
    with pytest.raises(ValueError, match="no slice has brain in 2% of its pixels"):
        slices_of("a", images, brain & False, lesion, np.zeros(3), Lgg(kind="lgg", path="x"))
