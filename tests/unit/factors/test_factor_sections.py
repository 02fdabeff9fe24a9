"""What config.yaml says of a data set of factors is what its class makes of it."""

import numpy as np
import pytest
from PIL import Image
from published import dsprites_arrays, pictures
from pydantic import TypeAdapter

from diffmech.config.factor_data import AnyFactorData, CelebAConfig, SmallNORBConfig
from diffmech.data.factors.opening import restore_factors
from diffmech.data.factors.shapes3d import LABELS
from diffmech.data.factors.smallnorb import _factors


def section(**values):
    return TypeAdapter(AnyFactorData).validate_python(values)


@pytest.mark.parametrize("kind", ["dsprites_like", "pendulum", "faces"])
def test_drawn_data_sets_have_the_factors_that_their_sections_name(kind) -> None:
    config = section(kind=kind, size=16)
    data = restore_factors(config.canonical())
    assert [factor.name for factor in data.factors] == config.names()
    assert data.image_shape[1:] == (16, 16)
    assert config.files() == []


def test_stored_data_sets_have_the_factors_that_their_sections_name(tmp_path) -> None:
    np.savez(tmp_path / "sprites.npz", **dsprites_arrays())
    np.savez(tmp_path / "arm.npz", images=pictures(48))
    sizes = [2, 2, 1, 3, 1, 2, 2]
    for config in (
        section(kind="dsprites", path=str(tmp_path / "sprites.npz"), size=8),
        section(kind="mpi3d", path=str(tmp_path / "arm.npz"), size=8, channels=1, sizes=sizes),
    ):
        data = restore_factors(config.canonical())
        assert [factor.name for factor in data.factors] == config.names()
        assert data.image_shape == (1, 8, 8)
        assert [path.is_file() for path in config.files()] == [True]
    assert section(kind="shapes3d", path="x").names() == [name for name, *_ in LABELS]
    names = [factor.name for factor in _factors(np.zeros((1, 5)))]
    assert SmallNORBConfig(kind="smallnorb", folder="x").names() == names


def test_photographs_have_the_attributes_that_are_asked_for_and_cannot_be_changed(tmp_path) -> None:
    (tmp_path / "img_align_celeba").mkdir()
    Image.new("L", (20, 20), 10).save(tmp_path / "img_align_celeba" / "000001.png")
    (tmp_path / "list_attr_celeba.txt").write_text("1\nSmiling Wearing_Hat\n000001.png 1 -1\n")
    config = section(kind="celeba", path=str(tmp_path), attributes=["Wearing_Hat"], size=16)
    assert isinstance(config, CelebAConfig)
    data = restore_factors(config.canonical())
    assert [factor.name for factor in data.factors] == config.names() == ["Wearing_Hat"]
    assert (config.changeable, section(kind="pendulum").changeable) == (False, True)
    np.testing.assert_allclose(data.images_of(np.zeros((1, 1))), 10 / 255, atol=1e-6)
