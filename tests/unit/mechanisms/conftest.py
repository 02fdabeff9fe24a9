"""Planted studies that several tests read and none changes."""

from pathlib import Path

import pytest
from feature_files import write_features
from planted_heads import StudyFiles, write_planted_study


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFiles, Path]:
    """Return the inputs and the feature store of a study with planted heads at two timesteps."""
    folder = tmp_path_factory.mktemp("planted")
    files = write_planted_study(folder, seed=1)
    return files, write_features(folder, files)
