"""What still differs between domains after they were brought to one size, mean and contrast. Ours.

The radially averaged power spectrum is taken of each image minus its mean, under a Hann window (against leakage from
the borders), and averaged over images and over rings of one cycle per image. It is scaled so that white noise of
variance v has power v at every frequency. The spectral distance between two domains is the root mean square over
frequencies of the log10 ratio of their powers: 0 = equal spectra, 1 = a factor of ten.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from diffmech.artifacts import write_json
from diffmech.data.store import ImageSet, open_dataset
from diffmech.errors import DataError

BATCH = 256


def compare_domains(stores: Mapping[str, Path], output: Path, *, samples: int | None = None) -> None:
    """Write moments, power spectra and attribute rates of each domain, and their spectral distance, as JSON.

    `stores` maps each domain to its data set store; `samples` takes the first ids of each (None = all). Moments, gain,
    offset and clipped share are those of the whole data set. Raises StoreError for a bad store, DataError if the
    domains differ in image shape.
    """
    sets = {domain: open_dataset(path) for domain, path in stores.items()}
    shapes = {domain: images.image_shape for domain, images in sets.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"domains differ in image shape (channel, y, x): {shapes}; prepare them with one images section"
        )
    domains = {domain: describe(images, samples=samples) for domain, images in sets.items()}
    write_json(
        output,
        {
            "domains": domains,
            "spectral_distance": [
                {
                    "domains": [first, second],
                    "before": spectral_distance(domains[first]["power_before"], domains[second]["power_before"]),
                    "after": spectral_distance(domains[first]["power"], domains[second]["power"]),
                    "unit": "root mean square log10 power ratio",
                }
                for first, second in combinations(sorted(domains), 2)
            ],
        },
    )


def describe(images: ImageSet, *, samples: int | None = None) -> dict[str, Any]:
    """Return the description of one domain: counts, moments, power before and after matching, attribute rates.

    `cropped`: how many of the measured images lost pixels when they were cut to squares; `cut_area`: the share of its
    pixels that such an image lost, on average.
    """
    ids = images.ids[:samples]
    attrs = images.attrs
    frequency, power = power_spectrum(images.images(part) for part in _batches(ids))
    _, power_before = power_spectrum(images.raw_images(part) / 127.5 - 1 for part in _batches(ids))
    lost = 1 - images.kept_area[: len(ids)]
    values = images.attribute_values(ids)
    known = np.isfinite(values).sum(axis=0)
    sums = np.nansum(values, axis=0)
    return {
        "dataset": attrs["dataset"],
        "kind": attrs["kind"],
        "count": len(images),
        "measured": len(ids),
        "skipped": attrs["skipped"],
        "cropped": int((lost > 0).sum()),
        "cut_area": float(lost[lost > 0].mean()) if (lost > 0).any() else 0.0,
        "before": attrs["moments_before"],
        "after": attrs["moments_after"],
        "gain": images.gain,
        "offset": images.offset,
        "clipped_share": attrs["clipped_share"],
        "frequency": frequency.tolist(),
        "frequency_unit": "cycles per image",
        "power": power.tolist(),
        "power_before": power_before.tolist(),
        "attributes": {
            name: {"mean": float(sums[k] / known[k]) if known[k] else None, "known": int(known[k])}
            for k, name in enumerate(images.attributes)
        },
    }


def power_spectrum(batches: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in cycles per image and the power at each, averaged over square images `(sample, c, y, x)`.

    Ring k holds the frequencies from k - 1/2 to k + 1/2; k = 1 .. size // 2. Channels are averaged before.
    """
    total: np.ndarray | float = 0.0
    count = 0
    for batch in batches:
        grey = batch.mean(axis=1, dtype=np.float64)
        grey -= grey.mean(axis=(1, 2), keepdims=True)
        size = grey.shape[-1]
        # the periodic Hann window: its own spectrum is confined to the neighbouring frequencies
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        window = np.outer(hann, hann)
        power = (np.abs(np.fft.fft2(grey * window)) ** 2).sum(axis=0) / (window**2).sum()
        total = total + power
        count += len(batch)
    axis = np.fft.fftfreq(size, 1 / size)
    ring = np.rint(np.hypot(axis[:, None], axis[None, :])).astype(int)
    rings = np.bincount(ring.ravel(), weights=np.ravel(total) / count) / np.bincount(ring.ravel())
    frequency = np.arange(1, size // 2 + 1)
    return frequency.astype(float), rings[frequency]


def spectral_distance(first: list[float], second: list[float]) -> float:
    """Return the root mean square over frequencies of log10(first / second)."""
    floor = np.finfo(float).tiny
    ratio = np.log10(np.maximum(first, floor)) - np.log10(np.maximum(second, floor))
    return math.sqrt(float(np.mean(ratio**2)))


def _batches(ids: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]
