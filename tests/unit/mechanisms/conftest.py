"""Planted studies that several tests read and none changes."""

from pathlib import Path

import pytest
from planted_heads import StudyFiles, write_planted_study

from diffmech.config.analysis import MechanismsConfig
from diffmech.mechanisms.features import head_features

SETTINGS = MechanismsConfig(cluster_range=(2, 8), stability_draws=10, rolls=200)


def write_features(
    folder: Path,
    files: StudyFiles,
    settings: MechanismsConfig = SETTINGS,
    name: str = "features.zarr.zip",
    *,
    threads: int = 1,
) -> Path:
    store = folder / name
    head_features(
        files.attention,
        files.latents,
        files.datasets,
        files.untrained,
        store,
        mechanisms=settings,
        tested=files.tested,
        seed=0,
        threads=threads,
    )
    return store


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFiles, Path]:
    """Return the inputs and the feature store of a study with planted heads at two timesteps."""
    folder = tmp_path_factory.mktemp("planted")
    files = write_planted_study(folder, seed=1)
    return files, write_features(folder, files)
