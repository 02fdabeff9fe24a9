"""Too few images for a study are refused before any model sees them, with what helps and nothing else."""

import pytest

from diffmech.config.images import ImageFolder
from diffmech.data.reference_images import check_enough
from diffmech.errors import DataError

STUDIED = r"the reference images \(ablation\.samples, .* in pairs\)"


def numbers(studied, count, untrained=2, first=None):
    first = studied if first is None else first
    return {
        "studied": studied,
        "tested": max(first + count, untrained),
        "first": first,
        "stop": 100,
        "count": count,
    }


@pytest.fixture
def few(prepare, photos, tmp_path):
    """Return a data set of so many photos."""

    def prepared(count):
        prepare(ImageFolder(kind="image_folder", path=str(photos(count))))
        return {"real": tmp_path / "stores" / "set.zarr.zip"}

    return prepared


@pytest.mark.parametrize(
    ("asked", "needed", "advice"),
    [
        # numbers 8 to 11 are not there, however few of them: only what stands before them can be less
        (numbers(8, 4), 14, rf"give at least 14 images, or lower what stands before {STUDIED} to at most 4"),
        (numbers(8, 2), 12, rf"or lower what stands before {STUDIED} to at most 6"),
        (numbers(4, 8), 14, r"or lower ablation\.reference_samples to 4"),
        (numbers(4, 2, untrained=9), 11, r"give at least 11 images, or lower untrained\.samples to at most 8"),
        (numbers(8, 2, untrained=11), 13, rf"{STUDIED} to at most 6 and untrained\.samples to at most 8"),
        (numbers(4, 2, first=9), 13, r"the reference images \(ablation\.first_reference\) to at most 6"),
        (numbers(8, 8), 18, rf"{STUDIED} to at most 4 and ablation\.reference_samples to 4"),
    ],
)
def test_what_is_missing_is_told_with_what_helps(asked, needed, advice, few):
    stores = few(10)
    message = rf"real: {needed} images are needed, but the data set holds 10: {asked['studied']} to study, .*"
    with pytest.raises(DataError, match=f"{message}{advice}$"):
        check_enough(stores, **asked)


@pytest.mark.parametrize(("studied", "count", "untrained"), [(4, 4, 2), (6, 2, 2), (4, 2, 8)])
def test_what_was_advised_is_enough(studied, count, untrained, few):
    check_enough(few(10), **numbers(studied, count, untrained))


def test_of_six_images_nothing_can_be_studied_apart(few):
    with pytest.raises(DataError, match=r"give at least 14 images$"):
        check_enough(few(6), **numbers(8, 4))
