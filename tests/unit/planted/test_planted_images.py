"""Planted images: known causes, and variants that differ in their fine noise only."""

import numpy as np
import pytest

from diffmech.config.images import ImagesConfig, PlantedImages
from diffmech.data.source import Sample
from diffmech.data.store import open_source
from diffmech.errors import DataError
from diffmech.mechanisms.reference_maps import edges, texture
from diffmech.planted.images import CODES, FINE, draw_images, places, templates

IMAGES = ImagesConfig(size=20, channels=1, resolution=None, match=None)


def test_an_image_depends_on_the_seed_and_its_index_only():
    together = draw_images(range(4), 3, 20, symmetric=True)
    alone = draw_images([2], 3, 20, symmetric=True)
    for whole, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(whole[2], one[0])
    assert not np.array_equal(together[0][2], draw_images([2], 4, 20, symmetric=True)[0][0])


def test_variants_differ_in_fine_noise_only_and_only_one_is_mirrored():
    symmetric, asymmetric = (draw_images(range(64), 0, 20, symmetric=each) for each in (True, False))
    np.testing.assert_array_equal(symmetric[1], asymmetric[1])
    np.testing.assert_array_equal(symmetric[2], asymmetric[2])
    inside = (np.abs(symmetric[0]) < 1) & (np.abs(asymmetric[0]) < 1)
    fine = np.where(inside, symmetric[0] - asymmetric[0], 0)
    # sym - asym = (a + flip a) / sqrt 2 - a, whose variance is 1 + 1 - sqrt 2 of that of the noise
    assert fine[inside].var() / (2 - np.sqrt(2)) == pytest.approx(FINE**2, rel=0.1)


def test_templates_mirror_onto_themselves_but_for_the_spot():
    for name, template in templates(20).items():
        if name != "sink":  # an even number of columns has no middle one
            np.testing.assert_allclose(template, template[:, ::-1], atol=1e-12)


def test_the_checkerboard_is_texture_without_edges_and_the_square_has_edges():
    board = 1 - 2 * (np.add.outer(np.arange(20), np.arange(20)) % 2.0)
    assert edges(board[None, None])[0, 2:-2, 2:-2].max() < 1e-9
    assert texture(board[None, None])[0, 4:-4, 4:-4].min() > 0.5


def test_source_gives_codes_as_attributes_and_the_dip_as_part():
    source = open_source(PlantedImages(kind="planted", count=3, seed=1), IMAGES)
    samples = source.read([0, 2])
    assert len(source) == 3
    for sample in samples:
        assert isinstance(sample, Sample)
        assert sample.image.shape == sample.masks.shape == (1, 20, 20)
        assert set(np.unique(sample.attributes)) <= {0.0, 1.0}
        assert len(sample.attributes) == len(CODES)
        # the part is dark
        assert sample.image[sample.masks > 0].mean() < sample.image.mean() - 30


def test_fixed_places_lie_apart():
    where = places(20)
    assert where.columns[0] + where.columns[1] == 19
    assert where.spot[0] != where.row
    assert where.spot[1] not in where.columns


@pytest.mark.parametrize("changes", [{"size": 12}, {"channels": 3}])
def test_a_form_that_cannot_be_drawn_is_refused(changes):
    with pytest.raises(DataError, match=r"set images\.channels 1 and images\.size 16 or more"):
        open_source(PlantedImages(kind="planted"), IMAGES.model_copy(update=changes))
