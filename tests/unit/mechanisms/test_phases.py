"""Phases: a planted change is found, and nothing is cut where nothing changes."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from diffmech.artifacts import write_store
from diffmech.config.analysis import MechanismsConfig, PhasesConfig
from diffmech.mechanisms.phases import find_phases, segment

SETTINGS = MechanismsConfig()


def write_features(path, values, noise=0.05, draws=20, seed=0):
    """Write a store with features (timestep, feature) of one head and noisy resamples of it."""
    rng = np.random.default_rng(seed)
    values = np.asarray(values, dtype=float).T[:, None]  # (feature, head, timestep)
    store = xr.Dataset(
        {
            "features": (("feature", "head", "timestep"), values),
            "features_bootstrap": (
                ("draw", "feature", "head", "timestep"),
                values + noise * rng.normal(size=(draws, *values.shape)),
            ),
        },
        coords={"timestep": np.arange(values.shape[-1]) * 100 + 20},
    )
    write_store(path, store)
    return path


def steps(*lengths, features=6, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    levels = rng.normal(size=(len(lengths), features))
    return np.repeat(levels, lengths, axis=0) + noise * rng.normal(size=(sum(lengths), features))


@pytest.mark.parametrize(("lengths", "boundaries"), [((6, 4), [6]), ((3, 4, 3), [3, 7]), ((3, 9), [3])])
def test_planted_change_points_are_found(lengths, boundaries):
    assert segment(steps(*lengths), PhasesConfig(penalty=0.5)) == boundaries


def test_noise_and_constant_features_are_one_phase():
    rng = np.random.default_rng(1)
    assert sum(bool(segment(rng.normal(size=(10, 40)), PhasesConfig())) for _ in range(50)) == 0
    assert segment(np.ones((10, 4)), PhasesConfig()) == []


def test_number_of_phases_never_exceeds_the_maximum():
    values = steps(3, 3, 3, 3, 3)
    assert len(segment(values, PhasesConfig(penalty=1e-3, maximum=2))) == 1
    assert segment(values, PhasesConfig(penalty=1e-3, maximum=1)) == []


def test_stable_boundaries_are_told_from_unstable_ones(tmp_path):
    values = steps(5, 5)
    write_features(tmp_path / "f.zarr.zip", values)
    find_phases(tmp_path / "f.zarr.zip", tmp_path / "p.csv", mechanisms=SETTINGS)
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table["phase"]) == [1] * 5 + [2] * 5
    assert list(table["phase_first"]) == [20] * 5 + [520] * 5
    assert list(table["phase_last"]) == [420] * 5 + [920] * 5
    assert table["stability"][:5].isna().all()
    assert (table["stability"][5:] == 1).all()
    write_features(tmp_path / "f.zarr.zip", values, noise=3)
    find_phases(tmp_path / "f.zarr.zip", tmp_path / "p.csv", mechanisms=SETTINGS)
    assert pd.read_csv(tmp_path / "p.csv")["stability"][9] < 0.7


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_timesteps_are_one_phase(tmp_path, count):
    write_features(tmp_path / "f.zarr.zip", steps(5, 5)[:count] * np.arange(1, count + 1)[:, None])
    find_phases(tmp_path / "f.zarr.zip", tmp_path / "p.csv", mechanisms=SETTINGS)
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table["phase"]) == [1] * count
