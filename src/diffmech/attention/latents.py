"""The noised images that capture and ablation replay: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.

The forward process is that of Ho et al. 2020 (DDPM), with abar_t of the model's own scheduler and t its integer
timestep, 0 = clean. The noise is keyed by (seed, sample id, timestep), so every data set gets the same noise for the
same sample id (paired noise, ours) and growing a study changes nothing that exists. Needs no torch and no weights.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr
from jaxtyping import Float, Int

from diffmech.artifacts import building_store, folder_of, portable, provenance, read_json
from diffmech.config.study import LatentsConfig
from diffmech.data.store import open_dataset
from diffmech.errors import ModelError
from diffmech.models.schedules import check_timesteps, named_alphas
from diffmech.randomness import noise

if TYPE_CHECKING:
    from diffmech.data.store import ImageSet

# A chunk is one timestep of as many samples as fit: large enough to read fast, small enough to hold a few at once.
CHUNK_BYTES = 8 * 2**20

# Schedulers and schedules whose betas are made here; all else that a scheduler can do to them is left to diffusers.
PLAIN_SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
PLAIN_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


def make_latents(
    dataset_store: Path | str,
    model_json: Path | str,
    output: Path | str,
    *,
    domain: str,
    timesteps: Sequence[int],
    sample_ids: Sequence[int],
    latents: LatentsConfig,
) -> None:
    """Write x_t, noise, x_0 and the condition of `sample_ids` at `timesteps` as one store.

    Ids that the data set does not have are left out: a small data set gives a small (even an empty) store. Raises
    ConfigError for a timestep beyond the model's schedule and ModelError where images do not fit the model.
    """
    model = read_json(model_json)
    timesteps = sorted(int(timestep) for timestep in timesteps)
    alphas = scheduler_alphas(model_json)
    check_timesteps(timesteps, alphas)
    images = open_dataset(Path(dataset_store))
    ids = sorted({int(sample) for sample in sample_ids} & set(images.ids.tolist()))
    _check_shape(images, model, dataset_store)
    shape = tuple(model["sample_shape"])
    chunk = samples_per_chunk(len(ids), shape)
    condition, note = _condition(images, ids, model, domain, latents.condition)
    attrs = {
        "dataset": Path(dataset_store).name.removesuffix(".zarr.zip"),
        "domain": domain,
        "domain_note": note,
        "condition": latents.condition,
        "seed": latents.seed,
        "model_sha256": model["sha256"],
        "provenance": provenance(
            rule="make_latents", latents=latents.canonical(), model=model["sha256"], noise="(seed, sample, timestep)"
        ),
    }
    with building_store(output) as directory:
        lay_out_latents(directory, ids, timesteps, shape, model["attributes"], condition, attrs)
        store = zarr.open_group(directory, mode="r+")
        arrays = {name: _array(store, name) for name in ("x_0", "x_t", "noise")}
        for start in range(0, len(ids), chunk):
            rows = slice(start, min(start + chunk, len(ids)))
            x_0 = images.images(ids[rows])
            arrays["x_0"][rows] = x_0
            for column, timestep in enumerate(timesteps):
                eps = np.stack([noise(latents.seed, sample, timestep, shape) for sample in ids[rows]])
                arrays["noise"][rows, column] = eps
                arrays["x_t"][rows, column] = diffuse(x_0, eps, alphas[timestep])


def diffuse(
    x_0: Float[np.ndarray, "*image"], eps: Float[np.ndarray, "*image"], alpha_cumprod: float
) -> Float[np.ndarray, "*image"]:
    """Return x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps, in float32 (Ho et al. 2020, eq. 4)."""
    return np.float32(math.sqrt(alpha_cumprod)) * x_0 + np.float32(math.sqrt(1 - alpha_cumprod)) * eps


def scheduler_alphas(model_json: Path | str) -> Float[np.ndarray, "timestep"]:
    """Return abar_t of the scheduler that belongs to the model behind `model_json`, in float64.

    Raises ModelError where the model's directory has no scheduler_config.json, and as `noise_schedule` does.
    """
    model = read_json(model_json)
    directory = folder_of(model_json) / model["location"]
    folders = [directory / "scheduler", directory / model.get("subfolder", "unet"), directory]
    files = [folder / "scheduler_config.json" for folder in folders]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ModelError(
            f"{directory}: no scheduler_config.json in scheduler/ or beside the network; "
            "add the one of the pipeline it was trained in"
        )
    return alphas_cumprod(read_json(file))


def alphas_cumprod(scheduler: dict[str, Any]) -> Float[np.ndarray, "timestep"]:
    """Return abar_t in float64 for a diffusers scheduler config; names and defaults are diffusers' own."""
    schedule, name = scheduler.get("beta_schedule", "linear"), scheduler.get("_class_name", PLAIN_SCHEDULERS[0])
    special = scheduler.get("trained_betas") is not None or scheduler.get("rescale_betas_zero_snr")
    if special or schedule not in PLAIN_SCHEDULES or name not in PLAIN_SCHEDULERS:
        # Only then: importing diffusers costs seconds, and these jobs are many and short.
        return named_alphas({"_class_name": name, **scheduler})
    steps = int(scheduler.get("num_train_timesteps", 1000))
    first, last = float(scheduler.get("beta_start", 1e-4)), float(scheduler.get("beta_end", 0.02))
    if schedule == "linear":
        betas = np.linspace(first, last, steps)
    elif schedule == "scaled_linear":
        betas = np.linspace(math.sqrt(first), math.sqrt(last), steps) ** 2
    else:  # the cosine schedule of Nichol and Dhariwal 2021
        cosine = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - cosine[1:] / cosine[:-1], 0.999)
    return np.cumprod(1 - betas)


def _check_shape(images: "ImageSet", model: dict[str, Any], dataset_store: Path | str) -> None:
    found, expected = images.image_shape, tuple(model["sample_shape"])
    if found != expected:
        raise ModelError(
            f"{dataset_store}: images are {found} (channel, y, x), but the model takes {expected}; "
            "set images.channels and images.size to the model's, or train a model on these images"
        )


def _condition(
    images: "ImageSet", ids: list[int], model: dict[str, Any], domain: str, kind: str
) -> tuple[tuple[np.ndarray, np.ndarray], str]:
    """Return ((sample,) domain indices, (sample, attribute) values) and a note on what the model does not know."""
    attributes, domains = list(model["attributes"]), list(model["domains"])
    values = np.full((len(ids), len(attributes)), np.nan, dtype=np.float32)
    indices = np.full(len(ids), -1, dtype=np.int64)
    if kind == "null":
        return (indices, values), "null condition: no domain and no attribute is given"
    if domain in domains:
        indices[:] = domains.index(domain)
        note = f"{domain} is a domain of the model"
    else:
        note = f"{domain} is not a domain of the model, which has {domains}: the domain is left open"
    labelled = [name for name in attributes if name in images.attributes]
    if labelled and ids:
        theirs = images.attribute_values(ids)
        for name in labelled:
            values[:, attributes.index(name)] = theirs[:, list(images.attributes).index(name)]
    return (indices, values), note


def samples_per_chunk(samples: int, shape: Sequence[int]) -> int:
    """Return how many of so many images `shape` (channel, y, x) make a chunk."""
    return max(1, min(samples, CHUNK_BYTES // (4 * math.prod(shape))))


def lay_out_latents(
    directory: Path,
    ids: Sequence[int],
    timesteps: Sequence[int],
    shape: tuple[int, ...],
    attributes: Sequence[str],
    condition: tuple[Int[np.ndarray, "sample"], Float[np.ndarray, "sample attribute"]],
    attrs: Mapping[str, Any],
) -> None:
    """Write a store of latents to `directory`, with small arrays filled in and x_t, noise and x_0 empty."""
    import dask.array as da

    samples, steps, chunk = len(ids), len(timesteps), samples_per_chunk(len(ids), shape)
    noised = (chunk, 1, *shape)
    image = ("channel", "y", "x")
    lazy = da.zeros((samples, steps, *shape), chunks=noised, dtype=np.float32)
    domain, values = condition
    dataset = xr.Dataset(
        {
            "x_t": (("sample", "timestep", *image), lazy, {"units": "1", "long_name": "noised image"}),
            "noise": (("sample", "timestep", *image), lazy, {"units": "1", "long_name": "noise that was added"}),
            "x_0": (
                ("sample", *image),
                da.zeros((samples, *shape), chunks=(chunk, *shape), dtype=np.float32),
                {"units": "1", "long_name": "clean image on the scale [-1, 1]"},
            ),
            "domain": ("sample", domain, {"long_name": "index into the model's domains, -1 = none"}),
            "condition": (("sample", "attribute"), values, {"long_name": "attribute given to the model, NaN = none"}),
        },
        coords={
            "sample": ("sample", np.asarray(ids, dtype=np.int64), {"long_name": "sample id"}),
            "timestep": (
                "timestep",
                np.asarray(timesteps, dtype=np.int64),
                {"long_name": "timestep of the scheduler, 0 = clean"},
            ),
            "attribute": ("attribute", np.asarray(attributes, dtype=np.dtypes.StringDType())),
        },
        attrs=dict(attrs),
    )
    portable(dataset).to_zarr(
        directory, mode="w", zarr_format=3, consolidated=False, compute=False, encoding=_uncompressed()
    )


def _uncompressed() -> dict[str, dict[str, Any]]:
    # Measured: zstd takes 8 % off Gaussian float32 noise and halves the speed of reading it.
    return {name: {"compressors": None} for name in ("x_t", "noise", "x_0")}


def _array(store: zarr.Group, name: str) -> zarr.Array:
    array = store[name]
    assert isinstance(array, zarr.Array)
    return array
