"""Drawn faces as factors: the same faces as elsewhere, with what no attribute says held still."""

import numpy as np
import pandas as pd

from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.data.drawn import SyntheticFacesSource
from diffmech.data.factors.faces import Faces
from diffmech.data.synthetic_faces import ATTRIBUTES, sample_attributes
from diffmech.randomness import generator

FACES = Faces(24, seed=4)


def test_attributes_are_told_apart_as_discrete_and_continuous() -> None:
    kinds = {factor.name: factor.kind for factor in FACES.factors}
    assert list(kinds) == [attribute.name for attribute in ATTRIBUTES]
    assert {name for name, kind in kinds.items() if kind == "discrete"} == {"glasses", "beard", "hat"}
    assert {factor.size for factor in FACES.factors} == {2, None}
    assert FACES.factors[4].labels == ("none", "worn")


def test_a_number_is_the_same_person_as_in_the_data_set_of_drawn_faces() -> None:
    source = SyntheticFacesSource(
        SyntheticFaces(kind="synthetic_faces", seed=4), ImagesConfig(size=24, channels=1, match=None)
    )
    values = sample_attributes([0, 5], 4).to_numpy()
    expected = np.stack([sample.image for sample in source.read([0, 5])])
    np.testing.assert_array_equal(np.rint(FACES.images_of(values, np.array([0, 5])) * 255), expected)


def test_draws_have_the_law_of_the_drawn_faces() -> None:
    drawn = pd.DataFrame(FACES.draw(4000, generator(0, "law"))[0], columns=[each.name for each in ATTRIBUTES])
    assert not drawn["smile"].between(0.351, 0.649).any()
    # means of 4000 with standard deviations of at most 1/2: five standard errors
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.04)
    np.testing.assert_allclose(drawn.std(), sample_attributes(range(4000), 0).std(), atol=0.02)


def test_a_person_stays_the_same_where_an_attribute_changes() -> None:
    samples = FACES.sample(3, generator(0, "person"))
    assert len(set(samples.identity)) == 3
    worn, bare = (FACES.change(samples, "hat", value).images for value in (1.0, 0.0))
    lower = slice(18, None)  # the shoulders
    assert (np.abs(worn - bare)[:, :, :10].max(axis=(1, 2, 3)) > 0.1).all()
    np.testing.assert_array_equal(worn[:, :, lower, 10:14], bare[:, :, lower, 10:14])
    others = FACES.images_of(samples.values, samples.identity[::-1])
    assert (others[0] != samples.images[0]).any()
    assert (FACES.change(samples, "smile", 0.5).values[:, 5] == 0.5).all()  # in the gap, which draws leave out
