"""The digits of scikit-learn: enlarged as any image, with their classes one-hot."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from diffmech.config.images import Digits, ImagesConfig
from diffmech.data.source import open_source

IMAGES = ImagesConfig(size=8, match=None)


def test_digits_are_those_of_scikit_learn_with_their_classes():
    source = open_source(Digits(kind="digits"), IMAGES)
    every = source.read(range(len(source)))
    found = load_digits()
    assert source.attribute_names == tuple("0123456789")
    assert np.array_equal([sample.attributes.argmax() for sample in every], found.target)
    assert all(sample.attributes.sum() == 1 for sample in every)
    pixels = np.stack([sample.image[0] for sample in every])
    assert np.array_equal(pixels, np.rint(found.images / 16 * 255))  # at their own size, nothing is resampled


@pytest.mark.parametrize(("settings", "count"), [({"classes": [3, 8]}, 183 + 174), ({"classes": [3], "count": 7}, 7)])
def test_some_classes_and_some_images_can_be_chosen(settings, count):
    source = open_source(Digits(kind="digits", **settings), ImagesConfig(size=16))
    assert len(source) == count
    (last,) = source.read([count - 1])
    assert last.image.shape == (1, 16, 16)
    assert last.attributes.argmax() in settings["classes"]
