"""Frechet and kernel distance against closed forms, against other code, and with images that count several times."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from diffmech.judging.distances import frechet_distance, frechet_distances, kernel_distance, kernel_distances
from diffmech.judging.likeness import squared_error, structural_similarity

RANDOM = np.random.default_rng(0)


def exactly(mean: np.ndarray, covariance: np.ndarray, count: int) -> np.ndarray:
    """Return points whose sample mean and covariance are exactly those."""
    points = RANDOM.standard_normal((count, len(mean)))
    points -= points.mean(0)
    points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T))).T
    return mean + points @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    # covariances that commute: |m1 - m2|^2 + sum (s1 - s2)^2 over the standard deviations
    first = exactly(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), 40)
    second = exactly(np.array([1.0, 1.0, 0.0]), np.diag([4.0, 1.0, 9.0]), 25)
    assert frechet_distance(first, second) == pytest.approx(5 + 1 + 1 + 0, rel=1e-9)


def test_frechet_distance_agrees_with_a_matrix_square_root() -> None:
    first, second = (
        RANDOM.standard_normal((30, 5)),
        2 * RANDOM.standard_normal((20, 5)) @ RANDOM.standard_normal((5, 5)),
    )
    cov = [np.cov(points.T) for points in (first, second)]
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(cov[0] + cov[1] - 2 * sqrtm(cov[0] @ cov[1]))
    assert frechet_distance(first, second) == pytest.approx(float(np.real(expected)), rel=1e-6)


def test_frechet_distance_of_many_images_of_few_features_agrees_with_it_too() -> None:
    first, second = RANDOM.standard_normal((60, 3)), RANDOM.standard_normal((50, 3)) * [1, 2, 3] + 0.5
    cov = [np.cov(points.T) for points in (first, second)]
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(cov[0] + cov[1] - 2 * sqrtm(cov[0] @ cov[1]))
    assert frechet_distance(first, second) == pytest.approx(float(np.real(expected)), rel=1e-9)


def test_frechet_distance_needs_no_more_images_than_features() -> None:
    points = RANDOM.standard_normal((6, 500))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(points + 1, points) == pytest.approx(500, rel=1e-9)


def test_few_images_bias_the_frechet_distance_upwards() -> None:
    few = np.mean([frechet_distance(*RANDOM.standard_normal((2, 8, 6))) for _ in range(50)])
    many = np.mean([frechet_distance(*RANDOM.standard_normal((2, 80, 6))) for _ in range(50)])
    assert few > 4 * many > 0


def by_definition(first: np.ndarray, second: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def inside(points: np.ndarray) -> float:
        pairs = [(i, j) for i in range(len(points)) for j in range(len(points)) if i != j]
        return float(np.mean([kernel(points[i], points[j]) for i, j in pairs]))

    return inside(first) + inside(second) - 2 * float(np.mean([[kernel(x, y) for y in second] for x in first]))


def test_kernel_distance_is_the_unbiased_estimate_of_its_definition() -> None:
    first, second = RANDOM.standard_normal((7, 4)), RANDOM.standard_normal((5, 4)) + 0.5
    assert kernel_distance(first, second) == pytest.approx(by_definition(first, second), rel=1e-12)
    # unbiased: around 0 where both sets are of one kind, and on either side of it
    null = np.array([kernel_distance(*RANDOM.standard_normal((2, 10, 3))) for _ in range(400)])
    assert abs(null.mean()) < 3 * null.std() / 20
    assert (null < 0).any()


def test_images_that_count_twice_are_those_images_twice() -> None:
    first, second = RANDOM.standard_normal((6, 4)), RANDOM.standard_normal((5, 4))
    counts = np.array([[2, 1, 0, 3, 0, 0], [1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1]])
    frechet, kernel = frechet_distances(first, second, counts), kernel_distances(first, second, counts)
    for row, taken in enumerate(counts):
        assert frechet[row] == pytest.approx(frechet_distance(np.repeat(first, taken, axis=0), second), rel=1e-8)
        if taken.max() == 1:  # the kernel distance never compares an image with itself
            assert kernel[row] == pytest.approx(kernel_distance(first[taken > 0], second), rel=1e-9)


def test_sets_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        frechet_distance(np.ones((1, 3)), np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        kernel_distance(np.ones((4, 3)), np.ones((4, 2)))


@pytest.mark.parametrize("side", [8, 16])
def test_equal_images_are_alike_and_without_error(side: int) -> None:
    image = RANDOM.uniform(-1, 1, (3, side, side)).astype(np.float32)
    assert structural_similarity(image, image) == 1
    assert squared_error(image, image) == 0
    assert structural_similarity(image, RANDOM.uniform(-1, 1, image.shape)) < 0.3
    assert squared_error(image, image + 0.5) == pytest.approx(0.25)


def test_similarity_of_constant_images_is_the_closed_form_of_luminance() -> None:
    # without any structure: (2 a b + c) / (a^2 + b^2 + c) with c = (0.01 range)^2
    one, other = np.full((1, 16, 16), 0.2), np.full((1, 16, 16), 0.8)
    c = (0.01 * 2) ** 2
    assert structural_similarity(one, other) == pytest.approx((0.32 + c) / (0.68 + c))
