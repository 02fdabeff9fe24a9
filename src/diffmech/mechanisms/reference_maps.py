"""Maps of the clean image that attention is compared with, on the key grid of each site.

Edges: Sobel magnitude (Sobel & Feldman 1968). Texture: variance, in a Gaussian window, of the image minus its blur.
Intensity: brightness above the darkest pixel. Parts: the masks that come with a data set. Colour channels are summed
(averaged for intensity). The choice of maps and scales is ours. Maps are resampled by area, so nothing is aliased.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from diffmech.artifacts import open_store
from diffmech.errors import StoreError

# Pixels of the studied image: finer structure than the blur is texture, averaged over the window.
TEXTURE_BLUR = 1.0
TEXTURE_WINDOW = 2.0
PART = "part:"
IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class GridMaps:
    """Reference maps of one domain on one key grid.

    values: each of mean 1, so that attention's mean of a map is the enrichment over uniform
    attention. attainable: c = u / (1 - u) with u the mass of the map under uniform attention when its
    highest value counts as 1; c (enrichment - 1) is the share of attention beyond chance. valid: which maps there are.
    """

    names: tuple[str, ...]
    grid: tuple[int, int]
    values: Float[np.ndarray, "sample probe key"]
    attainable: Float[np.ndarray, "sample probe"]
    valid: Bool[np.ndarray, "sample probe"]

    def select(self, samples: Int[np.ndarray, "chosen"]) -> "GridMaps":
        """Return the maps of the samples at these positions."""
        return GridMaps(self.names, self.grid, self.values[samples], self.attainable[samples], self.valid[samples])


def load_reference_maps(
    latents: Iterable[Path],
    dataset: Path,
    *,
    sample_ids: Int[np.ndarray, "sample"],
    probes: Sequence[str],
    parts: Sequence[str],
    grids: Iterable[tuple[int, int]],
) -> dict[tuple[int, int], GridMaps]:
    """Return the maps of `sample_ids` on each of `grids`: from the clean images in `latents`, the masks in `dataset`.

    `parts` are the mask parts wanted; those that the data set does not have, and maps that are empty or flat, are not
    valid. Raises StoreError where a sample has no clean image.
    """
    names = tuple(probe for probe in probes if probe != "parts") + tuple(PART + part for part in parts)
    grids = list(dict.fromkeys(grids))
    collected: dict[tuple[int, int], np.ndarray] = {
        grid: np.zeros((len(sample_ids), len(names), grid[0] * grid[1]), dtype=np.float32) for grid in grids
    }
    position = {int(sample): index for index, sample in enumerate(sample_ids)}
    masks = open_store(dataset).to_dataset()["mask"] if parts else None
    seen = np.zeros(len(sample_ids), dtype=bool)
    for path in latents:
        store = open_store(path).to_dataset()
        wanted = [
            index
            for index, sample in enumerate(store["sample"].values.tolist())
            if sample in position and not seen[position[sample]]
        ]
        for start in range(0, len(wanted), IMAGES_AT_ONCE):
            some = wanted[start : start + IMAGES_AT_ONCE]
            ids = store["sample"].values[some]
            rows = np.array([position[int(sample)] for sample in ids])
            images = np.asarray(store["x_0"].isel(sample=some).values, dtype=np.float32)
            maps = image_maps(images, names)
            if masks is not None:
                available = [part for part in parts if part in masks["part"].values]
                if available:
                    found = masks.sel(sample=ids, part=available).values.astype(np.float32) / 255
                    maps |= {PART + part: found[:, index] for index, part in enumerate(available)}
            for grid in grids:
                for index, name in enumerate(names):
                    if name in maps:
                        collected[grid][rows, index] = resample_by_area(maps[name], grid).reshape(len(rows), -1)
            seen[rows] = True
    if not seen.all():
        raise StoreError(
            f"sample {sample_ids[~seen][0]} was captured but has no clean image in the latents of {dataset}; "
            "let the workflow make the latents anew"
        )
    return {grid: _normalised(names, grid, maps) for grid, maps in collected.items()}


def parts_of(dataset: Path) -> tuple[str, ...]:
    """Return the names of the mask parts of a data set store."""
    store = open_store(dataset).to_dataset()
    return tuple(map(str, store["part"].values)) if "mask" in store and store.sizes.get("part") else ()


def image_maps(
    images: Float[np.ndarray, "sample channel y x"], names: Iterable[str]
) -> dict[str, Float[np.ndarray, "sample y x"]]:
    """Return the maps, among `names`, that come from the image alone."""
    makers = {"edges": edges, "texture": texture, "intensity": intensity}
    return {name: makers[name](images) for name in names if name in makers}


def edges(images: Float[np.ndarray, "sample channel y x"]) -> Float[np.ndarray, "sample y x"]:
    """Return the Sobel magnitude, root of the sum of squares over channels."""
    derivative, smooth = [-1.0, 0.0, 1.0], [1.0, 2.0, 1.0]
    square = np.zeros(images.shape[:1] + images.shape[2:], dtype=np.float64)
    for along, across in ((2, 3), (3, 2)):
        gradient = ndimage.correlate1d(images.astype(np.float64), derivative, axis=along, mode="nearest")
        square += (ndimage.correlate1d(gradient, smooth, axis=across, mode="nearest") ** 2).sum(axis=1)
    return np.sqrt(square)


def texture(images: Float[np.ndarray, "sample channel y x"]) -> Float[np.ndarray, "sample y x"]:
    """Return the local variance of the high-passed image, summed over channels."""
    fine = images.astype(np.float64) - _blur(images.astype(np.float64), TEXTURE_BLUR)
    variance = _blur(fine**2, TEXTURE_WINDOW) - _blur(fine, TEXTURE_WINDOW) ** 2
    return np.maximum(variance, 0).sum(axis=1)


def intensity(images: Float[np.ndarray, "sample channel y x"]) -> Float[np.ndarray, "sample y x"]:
    """Return brightness above the darkest pixel of each image, averaged over channels."""
    grey = images.astype(np.float64).mean(axis=1)
    return grey - grey.min(axis=(1, 2), keepdims=True)


def resample_by_area(
    maps: Float[np.ndarray, "sample y x"], grid: tuple[int, int]
) -> Float[np.ndarray, "sample row column"]:
    """Return the mean of each map over each cell of `grid`."""
    rows, columns = (_overlap(size, cells) for size, cells in zip(maps.shape[1:], grid, strict=True))
    return np.einsum("iy,syx,jx->sij", rows, maps, columns, optimize=True)


def _overlap(size: int, cells: int) -> Float[np.ndarray, "cell pixel"]:
    """Return the share of each cell that each pixel covers; rows sum to 1."""
    edge = np.arange(cells + 1) * (size / cells)
    low = np.maximum(edge[:-1, None], np.arange(size))
    high = np.minimum(edge[1:, None], np.arange(size) + 1)
    return np.maximum(high - low, 0) * (cells / size)


def _blur(images: Float[np.ndarray, "sample channel y x"], sigma: float) -> Float[np.ndarray, "sample channel y x"]:
    return ndimage.gaussian_filter(images, (0, 0, sigma, sigma), mode="nearest")


def _normalised(names: tuple[str, ...], grid: tuple[int, int], maps: Float[np.ndarray, "sample probe ..."]) -> GridMaps:
    mean, peak = maps.mean(axis=-1), maps.max(axis=-1)
    # a flat map cannot tell one position from another
    valid = (mean > 0) & (peak - maps.min(axis=-1) > 1e-6 * peak)
    values = np.divide(maps, mean[..., None], out=np.zeros_like(maps), where=valid[..., None])
    uniform = np.divide(mean, peak, out=np.zeros_like(mean), where=valid)
    return GridMaps(names, grid, values, uniform / (1 - uniform), valid)


def shared_parts(datasets: Mapping[str, Path], probes: Sequence[str]) -> tuple[str, ...]:
    """Return the parts that any of the data sets has, each once, or none where parts are not probed."""
    if "parts" not in probes:
        return ()
    return tuple(dict.fromkeys(part for dataset in datasets.values() for part in parts_of(dataset)))
