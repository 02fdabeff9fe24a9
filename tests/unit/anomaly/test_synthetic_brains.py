"""Synthetic brains: patients that stay, exact masks, and lesions that are what their kinds say."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.metrics import average_precision_score

from diffmech.anomaly import anatomy
from diffmech.anomaly.anatomy import Anatomy, icbm152
from diffmech.anomaly.lesions import draw_lesions
from diffmech.anomaly.slices import Slices, joined
from diffmech.anomaly.synthetic import make_patient, name_of, read
from diffmech.config.anomaly_data import SyntheticBrains, SyntheticLesions
from diffmech.errors import DataError

SMALL = {"size": 32, "slices": 7, "seed": 3}


def config(kind: str | None = None, **fields) -> SyntheticBrains:
    """Return small brains, each with one large lesion of a kind, or with none."""
    lesions = {"share": 0.0} if kind is None else {"share": 1.0, "most": 1, "kinds": [kind], "radius": (18, 22)}
    return SyntheticBrains.model_validate({**SMALL, "lesions": lesions, **fields})


@pytest.fixture(scope="module")
def maps() -> Anatomy:
    return icbm152()


@pytest.fixture(scope="module")
def healthy(maps: Anatomy) -> dict[int, Slices]:
    return {number: make_patient(maps, config(), number) for number in range(4)}


Pairs = list[tuple[Slices, Slices]]


@pytest.fixture(scope="module")
def pairs(maps: Anatomy, healthy: dict[int, Slices]) -> Callable[[str], Pairs]:
    """Return, for each kind, the same patients with a lesion and without, in the slices that both have."""

    @cache
    def of(kind: str) -> Pairs:
        found = []
        for number, twin in healthy.items():
            sick = make_patient(maps, config(kind), number)
            both = np.intersect1d(sick.position, twin.position)
            found.append(tuple(each.take(np.flatnonzero(np.isin(each.position, both))) for each in (sick, twin)))
        return found

    return of


def test_the_maps_are_shares_of_tissue(maps: Anatomy) -> None:
    grey, white, fluid = maps.tissue
    assert maps.tissue.min() >= 0
    assert set(np.unique(maps.brain.round(5))) == {0.0, 1.0}
    volume = [float(share.sum()) / 1e6 for share in (grey, white, fluid)]  # litres, of voxels of 1 mm
    assert 0.6 < volume[0] + volume[1] < 2.0
    assert volume[0] > volume[1] > volume[2] > 0.05


def test_a_patient_is_the_same_whatever_the_number_of_patients(maps: Anatomy) -> None:
    wanted = SyntheticBrains.model_validate({**SMALL, "patients": 3})
    three = read(wanted)
    assert three.patients == [name_of(number) for number in range(3)]
    alone = make_patient(maps, wanted.model_copy(update={"patients": 90}), 1)
    own = three.of([name_of(1)])
    for name in ("images", "brain", "lesion", "position", "kind"):
        np.testing.assert_array_equal(getattr(own, name), getattr(alone, name))
    other = make_patient(maps, wanted.model_copy(update={"seed": 4}), 1)
    assert other.images.shape != alone.images.shape or not np.array_equal(other.images, alone.images)


def test_a_modality_does_not_depend_on_the_others(maps: Anatomy) -> None:
    both = make_patient(maps, config("bright", modalities=["t1", "flair"]), 0)
    assert both.modalities == ("t1", "flair")
    np.testing.assert_array_equal(both.images[:, 1], make_patient(maps, config("bright"), 0).images[:, 0])


def test_brains_look_as_brains_do(healthy: dict[int, Slices]) -> None:
    """The widest slices lie in the middle; the cerebellum at the back, which is below; left and right are alike."""
    slices = joined(healthy.values())
    area = slices.brain.mean((1, 2))
    assert area[np.abs(slices.position - 0.5) < 0.15].min() > area[np.abs(slices.position - 0.5) > 0.42].max()
    low = slices.brain[slices.position < 0.15].mean(0)
    assert low[16:].sum() > 2 * low[:16].sum()
    mean = slices.brain.mean(0)
    assert np.corrcoef(mean.ravel(), mean[:, ::-1].ravel())[0, 1] > 0.98


def test_patients_differ_in_form(healthy: dict[int, Slices]) -> None:
    middle = [slices.brain[np.argmin(np.abs(slices.position - 0.5))] for slices in healthy.values()]
    same = [np.array_equal(first, second) for first in middle for second in middle if first is not second]
    assert not any(same)


def test_healthy_patients_have_no_lesion_and_shares_are_met_on_average(maps: Anatomy, healthy) -> None:
    assert not joined(healthy.values()).abnormal.any()
    drawn = [draw_lesions(maps, SyntheticLesions(), 0, number) for number in range(200)]
    with_lesions = sum(map(bool, drawn))
    assert stats.binomtest(with_lesions, 200, 0.75).pvalue > 1e-3
    counts = np.bincount([len(lesions) for lesions in drawn if lesions], minlength=4)[1:]
    assert stats.chisquare(counts).pvalue > 1e-3
    kinds = [lesion.kind for lesions in drawn for lesion in lesions]
    assert stats.binomtest(kinds.count("iso"), len(kinds), 0.4).pvalue > 1e-3


def test_a_mask_holds_all_that_a_lesion_changes(pairs) -> None:
    """`iso` pushes nothing, so that a patient with it and without differ in its mask, and at its edge, alone."""
    inside, outside = [], []
    for sick, twin in pairs("iso"):
        changed = np.abs(sick.images - twin.images)[:, 0]
        near = np.stack([ndimage.binary_dilation(plane) for plane in sick.lesion])
        near |= ndimage.binary_dilation(sick.lesion, np.ones((3, 1, 1)))  # the outline of a thick slice
        inside.append(changed[sick.lesion])
        outside.append(changed[sick.brain & twin.brain & ~near])
    assert np.concatenate(inside).mean() > 0.04
    assert np.quantile(np.concatenate(outside), 0.99) < 0.02
    assert np.concatenate(inside).size > 200


@pytest.mark.parametrize(
    ("kind", "least", "most"), [("bright", 0.15, 0.6), ("faint", 0.03, 0.25), ("dark", -0.5, -0.1)]
)
def test_kinds_differ_from_the_same_patient_without_them_as_they_should(kind, least, most, pairs) -> None:
    found = pairs(kind)
    assert {name for sick, _ in found for name in sick.kind.tolist()} == {"", kind}
    difference = [(sick.images - twin.images)[:, 0][sick.lesion & twin.brain] for sick, twin in found]
    assert least < np.concatenate(difference).mean() < most


def precision(slices: Slices, sign: int) -> tuple[float, float]:
    """Return how precisely intensity alone finds lesions, and how often they are there."""
    marked, brain = slices.lesion[slices.brain], slices.images[:, 0][slices.brain]
    return average_precision_score(marked, sign * brain), float(marked.mean())


def test_no_threshold_sees_an_iso_lesion_and_one_sees_a_bright_one(pairs) -> None:
    iso = joined(sick for sick, _ in pairs("iso"))
    for sign in (1, -1):
        found, prevalence = precision(iso, sign)
        assert found < 2 * prevalence
    found, prevalence = precision(joined(sick for sick, _ in pairs("bright")), 1)
    assert found > 10 * prevalence


def test_an_iso_lesion_is_seen_by_who_knows_the_patient_without_it(pairs) -> None:
    """What gives it away is what should be there: the difference from that finds it."""
    marked, difference = [], []
    for sick, twin in pairs("iso"):
        brain = sick.brain & twin.brain
        marked.append(sick.lesion[brain])
        difference.append(np.abs(sick.images - twin.images)[:, 0][brain])
    marked = np.concatenate(marked)
    assert average_precision_score(marked, np.concatenate(difference)) > 10 * marked.mean()


def test_noise_is_as_large_as_it_is_said(maps: Anatomy) -> None:
    """Two images that differ in nothing but noise: where the signal is far above it, it is nearly Gaussian."""
    quiet, loud = (make_patient(maps, config(noise=noise), 0) for noise in (0.0, 0.02))
    inner = np.stack([ndimage.binary_erosion(plane, iterations=2) for plane in quiet.brain & loud.brain])
    # of the same scale up to that of normalisation, which the noise moves little
    scale = 0.4 / np.median(quiet.images[:, 0][inner])
    spread = (loud.images - quiet.images)[:, 0][inner & (quiet.images[:, 0] > 0.3)].std()
    assert 0.010 * scale < spread < 0.025 * scale


def test_maps_that_are_not_there_are_asked_for(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"made from maps in the package nilearn; .*'diffmech\[mri\]'"):
        anatomy.icbm152.__wrapped__()

    class Found:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: Found())
    with pytest.raises(DataError, match=r"_gm_.*\.nii\.gz: is not in this nilearn; install the version"):
        anatomy.icbm152.__wrapped__()
