"""Heads in pictures of 8 bits, and folders of them in the layouts of data sets."""

from pathlib import Path

import numpy as np
from PIL import Image

Y, X = np.mgrid[-32:32, -32:32] + 0.5


def mri(seed: int = 0, lesion: bool = False) -> np.ndarray:
    """Return a head in MRI, uint8 `(y, x)`: bright fat of many brightnesses, dark bone, grey brain."""
    random = np.random.default_rng(seed)
    radius = np.hypot(X / 24, Y / 29)
    picture = np.where(radius < 0.8, 110 + random.normal(0, 8, X.shape), 0)
    picture += (np.abs(radius - 0.95) < 0.06) * random.uniform(150, 240, X.shape)
    picture += 100 * (spot() if lesion else 0)
    return np.clip(picture, 0, 255).astype(np.uint8)


def ct(seed: int = 0) -> np.ndarray:
    """Return a head in CT, windowed for the brain: bone at the end of the scale, all of the brain alike."""
    random = np.random.default_rng(seed)
    radius = np.hypot(X / 24, Y / 29)
    picture = np.where(radius < 0.82, 100 + random.normal(0, 5, X.shape), 0)
    picture += 255 * ((radius >= 0.82) & (radius < 0.96)) + 60 * ((radius >= 0.96) & (radius < 1.0))
    return np.clip(picture, 0, 255).astype(np.uint8)


def spot() -> np.ndarray:
    """Return where the lesion is, bool `(y, x)`."""
    return np.hypot(X - 6, Y + 8) < 5


def save(path: Path, picture: np.ndarray) -> Path:
    """Save a picture in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def save_lgg(
    root: Path, patient: str = "TCGA_CS_4941_19960909", slices: int = 6, sick: tuple[int, ...] = (3, 4)
) -> Path:
    """Save a patient in the layout of kaggle_3m, with tumours in the slices of these numbers, counted from 1."""
    for number in range(1, slices + 1):
        flair, other = mri(number, number in sick), mri(number) // 2
        save(root / patient / f"{patient}_{number}.tif", np.stack([other, flair, other // 2 + 20], -1))
        save(root / patient / f"{patient}_{number}_mask.tif", (spot() & (number in sick)).astype(np.uint8) * 255)
    return root / patient
