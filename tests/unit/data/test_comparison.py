"""The residual difference of domains: power spectra with known peaks and known scale."""

import numpy as np
import pytest

from diffmech.artifacts import read_json
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig, LfwSubset, SyntheticFaces
from diffmech.data.comparison import compare_domains, power_spectrum, spectral_distance
from diffmech.data.store import prepare_dataset
from diffmech.errors import DataError


@pytest.mark.parametrize("cycles", [2, 5, 9, 14])
def test_the_spectrum_of_a_sinusoid_peaks_at_its_frequency(cycles):
    x = np.arange(32) / 32
    wave = np.broadcast_to(np.sin(2 * np.pi * cycles * x), (3, 1, 32, 32))
    frequency, power = power_spectrum(iter([wave]))
    assert frequency[np.argmax(power)] == cycles
    # the Hann window leaks into the two neighbouring frequencies and no further
    far = np.abs(frequency - cycles) > 2
    assert power[far].max() < 1e-3 * power.max()


def test_white_noise_has_its_variance_at_every_frequency():
    noise = np.random.default_rng(0).normal(0, 0.5, (2000, 1, 16, 16))
    _, power = power_spectrum(iter([noise[:1500], noise[1500:]]))
    np.testing.assert_allclose(power[1:], 0.25, rtol=0.05)


def test_brightness_does_not_enter_the_spectrum():
    noise = np.random.default_rng(0).normal(0, 0.1, (10, 3, 16, 16))
    np.testing.assert_allclose(power_spectrum(iter([noise + 0.7]))[1], power_spectrum(iter([noise]))[1])


def test_spectral_distance_is_one_at_a_factor_of_ten_and_zero_for_itself():
    power = [3.0, 2.0, 0.5]
    assert spectral_distance(power, power) == 0
    assert spectral_distance([10 * p for p in power], power) == pytest.approx(1)


@pytest.fixture
def stores(tmp_path):
    configs = {
        "real": LfwSubset(kind="lfw_subset"),
        "synthetic": SyntheticFaces(kind="synthetic_faces", count=30, fixed={"hat": 1}),
    }
    paths = {}
    for domain, config in configs.items():
        paths[domain] = tmp_path / f"{domain}.zarr.zip"
        prepare_dataset(
            config, ImagesConfig(size=16), paths[domain], name=domain, runtime=RuntimeConfig(progress=False)
        )
    return paths


def test_the_comparison_shows_both_domains_before_and_after_matching(stores, tmp_path):
    compare_domains(stores, tmp_path / "comparison.json", samples=50)
    found = read_json(tmp_path / "comparison.json")
    real, synthetic = found["domains"]["real"], found["domains"]["synthetic"]
    assert (real["count"], real["measured"], synthetic["measured"]) == (100, 50, 30)
    assert real["frequency"] == list(range(1, 9))
    assert len(real["power"]) == len(real["power_before"]) == 8
    assert abs(real["after"]["mean"] - synthetic["after"]["mean"]) < 1e-3
    assert synthetic["attributes"]["hat"] == {"mean": 1.0, "known": 30}
    assert real["attributes"] == {}
    (distance,) = found["spectral_distance"]
    assert distance["domains"] == ["real", "synthetic"]
    assert distance["after"] == pytest.approx(spectral_distance(real["power"], synthetic["power"]))
    assert distance["before"] > 0


def test_a_domain_does_not_differ_from_itself(stores, tmp_path):
    compare_domains({"a": stores["real"], "b": stores["real"]}, tmp_path / "same.json")
    (distance,) = read_json(tmp_path / "same.json")["spectral_distance"]
    assert (distance["before"], distance["after"]) == (0, 0)


def test_domains_of_different_size_are_not_compared(stores, tmp_path):
    large = tmp_path / "large.zarr.zip"
    config = LfwSubset(kind="lfw_subset", count=5)
    prepare_dataset(config, ImagesConfig(size=20), large, name="large", runtime=RuntimeConfig(progress=False))
    with pytest.raises(DataError, match="differ in image shape"):
        compare_domains({"a": stores["real"], "b": large}, tmp_path / "no.json")
