"""A study with planted heads: what each head attends to is built by hand, the untrained twins attend at random."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from planted_captures import CROSS, SITE, PlantedSite, softmax, write_capture, write_latents, write_masks

from diffmech.mechanisms.reference_maps import edges, resample_by_area

GRID, IMAGE = 8, 16
HEADS = ("edge", "part", "local", "mirror", "sink", "far", "position", "uniform")
DOMAINS = ("real", "synthetic")


@dataclass(frozen=True)
class StudyFiles:
    """The inputs of `head_features`, by domain."""

    attention: dict[str, list[Path]]
    latents: dict[str, list[Path]]
    datasets: dict[str, Path]
    untrained: dict[str, Path]
    tested: int


def images_with_a_square(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images with one bright square each, anywhere, and a round part, elsewhere."""
    images = rng.normal(0, 0.02, size=(n, 1, IMAGE, IMAGE))
    masks = np.zeros((n, 1, IMAGE, IMAGE))
    for index in range(n):
        y, x = rng.integers(0, IMAGE - 6, size=2)
        images[index, 0, y : y + 6, x : x + 6] += 1
        y, x = rng.integers(0, IMAGE - 3, size=2)
        masks[index, 0, y : y + 3, x : x + 3] = 1
    return images, masks


def planted_attention(
    rng: np.random.Generator, images: np.ndarray, masks: np.ndarray, timesteps: int, change: int | None = None
) -> dict[str, PlantedSite]:
    """Return attention with the heads of `HEADS`; all become uniform from timestep index `change` on."""
    n, keys = len(images), GRID * GRID
    y, x = np.divmod(np.arange(keys), GRID)
    square = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    edge = resample_by_area(edges(images), (GRID, GRID)).reshape(n, 1, keys)
    part = resample_by_area(masks[:, 0], (GRID, GRID)).reshape(n, 1, keys)
    ones = np.ones((n, keys, keys))
    scores = {
        # sharp enough that edges hold clearly more of it than texture, which lies beside them
        "edge": 5 * edge / edge.max(axis=-1, keepdims=True) * ones,
        "part": 4 * part * ones,
        "local": -2.0 * square * ones,
        "mirror": 5.0 * ((y[:, None] == y) & (x[:, None] == GRID - 1 - x)) * ones,
        "sink": 5.0 * (np.arange(keys) == 5) * ones,
        "far": 0.08 * square * ones,
        "position": 2.0 * (y < GRID // 2) * ones,
        "uniform": 0.0 * ones,
    }
    stacked = np.stack([scores[name] for name in HEADS], axis=1)[:, None]
    strength = np.ones(timesteps)
    if change is not None:
        strength[change:] = 0
    noise = 0.02 * rng.normal(size=(n, timesteps, len(HEADS), keys, keys))
    cross = np.zeros((n, timesteps, 4, keys, 3))
    cross[:, :, 0, :, 1] = 3
    cross += 0.02 * rng.normal(size=cross.shape)
    return {
        SITE: PlantedSite(softmax(stacked * strength[:, None, None, None] + noise), "self"),
        CROSS: PlantedSite(softmax(cross), "cross"),
    }


def random_attention(rng: np.random.Generator, bias: dict[str, np.ndarray], samples: int) -> dict[str, PlantedSite]:
    """Return attention without any preference but a model's own `bias` ([twin,] 1, timestep, head, 1, key)."""
    keys = GRID * GRID
    sites = {}
    for name, kind in ((SITE, "self"), (CROSS, "cross")):
        *lead, _, timesteps, heads, _, width = bias[name].shape
        shape = (*lead, samples, timesteps, heads, keys, width)
        noise = rng.standard_normal(size=shape, dtype=np.float32)
        sites[name] = PlantedSite(softmax(0.3 * noise + bias[name].astype(np.float32)), kind)
    return sites


def random_biases(rng: np.random.Generator, models: int, timesteps: int) -> dict[str, np.ndarray]:
    """Return the preference for keys that random weights give to each head of each model."""
    return {
        SITE: 0.3 * rng.normal(size=(models, 1, timesteps, len(HEADS), 1, GRID * GRID)),
        CROSS: 0.3 * rng.normal(size=(models, 1, timesteps, 4, 1, 3)),
    }


def write_planted_study(
    folder: Path,
    *,
    seed: int = 0,
    samples: int = 32,
    twins: int = 19,
    seen: int = 4,
    timesteps: tuple[int, ...] = (100, 500),
    change: int | None = None,
    trained: bool = True,
) -> StudyFiles:
    """Write all inputs of a study; the second domain has part masks, the first has none.

    Clusters are found on the second half of the images.
    """
    rng = np.random.default_rng(seed)
    files = StudyFiles({}, {}, {}, {}, tested=samples // 2)
    n_timesteps = len(timesteps)
    # the biases of an untrained model are its own, whatever the domain
    biases = random_biases(rng, twins + 1, n_timesteps)
    for domain in DOMAINS:
        images, masks = images_with_a_square(rng, samples)
        sites = (
            planted_attention(rng, images, masks, n_timesteps, change)
            if trained
            else random_attention(rng, {name: bias[0] for name, bias in biases.items()}, samples)
        )
        twin_sites = random_attention(rng, {name: bias[1:] for name, bias in biases.items()}, seen)
        files.attention[domain] = [
            write_capture(folder / f"{domain}.zarr.zip", sites, timesteps=timesteps, domain=domain)
        ]
        files.untrained[domain] = write_capture(
            folder / f"{domain}.twins.zarr.zip", twin_sites, timesteps=timesteps, domain=domain, twins=True
        )
        files.latents[domain] = [write_latents(folder / f"{domain}.latents.zarr.zip", images)]
        has_masks = domain == "synthetic"
        files.datasets[domain] = write_masks(
            folder / f"{domain}.dataset.zarr.zip",
            masks if has_masks else None,
            ["eye"] if has_masks else [],
            images.shape,
        )
    return files
