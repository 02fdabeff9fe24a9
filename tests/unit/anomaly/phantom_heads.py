"""Heads whose geometry is known in mm, saved as NIfTI on any grid, and folders in the layouts of data sets."""

from pathlib import Path

import numpy as np

LESION = np.array([18.0, 12.0, 6.0])  # mm: right, front, up
RADIUS = 14.0


def affine_of(
    spacing: tuple[float, float, float] = (4.0, 4.0, 4.0), turn: float = 0.0, shape: tuple[int, int, int] = (40, 46, 36)
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return an affine whose grid of `shape` is centred on the origin, turned about z by `turn` degrees, and the shape
    that covers as much with this spacing."""
    counts = tuple(int(4 * count / width) for count, width in zip(shape, spacing, strict=True))
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(counts) - 1) / 2)
    return affine, counts  # type: ignore[return-value]


def head(affine: np.ndarray, shape: tuple[int, int, int], modality: str = "flair") -> tuple[np.ndarray, np.ndarray]:
    """Return the signal of an egg-shaped brain, brighter to the front and to the right, and the mask of its lesion."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    x, y, z = np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]
    brain = (x / 56) ** 2 + (y / 70) ** 2 + (z / 52) ** 2 < 1
    lesion = (x - LESION[0]) ** 2 + (y - LESION[1]) ** 2 + (z - LESION[2]) ** 2 < RADIUS**2
    signal = 300 + y + 0.5 * x + (300 if modality == "flair" else -100) * lesion
    return np.where(brain, signal, 0).astype(np.float32), (lesion & brain).astype(np.uint8)


def save(path: Path, values: np.ndarray, affine: np.ndarray, axes: str = "RAS", **header: float) -> None:
    """Save a volume that is given in RAS on other axes."""
    import nibabel

    image = nibabel.Nifti1Image(values, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
    )
    image = image.as_reoriented(turn)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def save_case(
    root: Path,
    name: str = "BraTS20_Training_001",
    *,
    suffix: str = ".nii.gz",
    axes: str = "RAS",
    names: dict[str, str] | None = None,
    spacing: tuple[float, float, float] = (4.0, 4.0, 4.0),
    turn: float = 0.0,
    tumour: bool = True,
) -> Path:
    """Save the files of one patient in the layout of BraTS."""
    affine, shape = affine_of(spacing, turn)
    for modality, ending in (names or {"flair": "_flair", "t1": "_t1", "seg": "_seg"}).items():
        signal, lesion = head(affine, shape, modality)
        values = lesion * np.uint8(4 if tumour else 0) if modality == "seg" else signal
        save(root / name / f"{name}{ending}{suffix}", values, affine, axes)
    return root / name
