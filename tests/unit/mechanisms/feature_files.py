"""Features of planted studies, as files."""

from pathlib import Path

from planted_heads import StudyFiles

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
