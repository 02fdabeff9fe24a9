"""The codes of one VAE, and what is done to its latents: the job that needs no choice of factors.

Its store holds, for the images of a data set, their factors and codes; for a VAE of single latents the group `latents`
with the effects of four interventions on each latent (`diffmech.vae.effects`), for a VQ-VAE the group `swaps` with
those of exchanging codes (`diffmech.vae.code_swaps`), since a grid of numbers of codes has no latent that could be
shifted; and the group `pictures`. Ours.

Latents are intervened on in the first of the images, `probe`: a shift by 1 (`raw`), by one standard deviation of the
aggregate posterior (`calibrated`), the mean of all images in place of the latent (`clamped`), and that of another image
(`swapped`). A traversal starts from the image whose latents are nearest to their means, in these deviations, and so is
of a usual image that there is.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffmech.artifacts import provenance, write_store
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.studies.vae import VaeMeasures
from diffmech.data.factors.dataset import FactorData, Samples
from diffmech.randomness import generator
from diffmech.vae.code_swaps import KINDS, swap_effects
from diffmech.vae.effects import Intervene, clamp, effects, shift, swap
from diffmech.vae.encoding import batches
from diffmech.vae.families import ContinuousVae, GridVae, Vae
from diffmech.vae.features import FEATURES, features
from diffmech.vae.quality import aggregate_deviation
from diffmech.vae.stores import which_vae
from diffmech.vae.training import read_vae

INTERVENTIONS = ("raw", "calibrated", "clamped", "swapped")
PROBED = 200  # images whose latents are intervened on
EXAMPLES = 8  # images that are shown


def encode_images(
    vae_dir: Path, output: Path, *, data: FactorData, measures: VaeMeasures, runtime: RuntimeConfig
) -> None:
    """Write the store of the codes of the VAE in `vae_dir`.

    Images are drawn by `measures.seed` alone, so that all VAEs of a data set are asked of the same ones. Raises
    StoreError for a VAE that is missing or not whole, and DataError as the data set does.
    """
    import xarray as xr

    name, family, seed = which_vae(vae_dir)
    vae = read_vae(vae_dir, device=runtime.device)
    samples = drawn(data, measures)
    coded = {
        "values": (("image", "factor"), samples.values),
        "identity": ("image", samples.identity),
        **encoded(vae, samples.images),
    }
    told = {"data": name, "family": family, "vae_seed": seed}
    form = {"continuous": isinstance(vae, ContinuousVae), "pixel_values": int(np.prod(vae.image_shape))}
    attrs = {**told, **form, "provenance": provenance()}
    root = xr.Dataset(coded, {"factor": [factor.name for factor in data.factors]}, attrs)
    if isinstance(vae, ContinuousVae):
        groups = _of_latents(vae, root, samples, measures)
    else:
        assert isinstance(vae, GridVae)
        groups = _of_swaps(vae, samples, measures)
    write_store(output, xr.DataTree.from_dict({"/": root, **groups}))


def drawn(data: FactorData, measures: VaeMeasures) -> Samples:
    """Return the images whose codes are kept, the same for every VAE of a data set."""
    return data.sample(measures.images, generator(measures.seed, "images of codes"))


def encoded(vae: Vae, images: np.ndarray) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return `mean` and `log_variance` `(image, latent)`, or `chosen` `(image, grid_y, grid_x)` of a VQ-VAE."""
    if isinstance(vae, GridVae):
        chosen = torch.cat([vae.encode(part) for part in batches(vae, images)])
        return {"chosen": (("image", "grid_y", "grid_x"), chosen.cpu().numpy().astype(np.int32))}
    assert isinstance(vae, ContinuousVae)
    parts = [vae.encode(part) for part in batches(vae, images)]
    mean, log_variance = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return {"mean": (("image", "latent"), mean), "log_variance": (("image", "latent"), log_variance)}


def bytes_of(images: Tensor) -> np.ndarray:
    """Return images `(..., channel, y, x)` in [0, 1] as uint8 `(..., y, x, channel)`."""
    return (images.movedim(-3, -1).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _of_latents(vae: ContinuousVae, root: Any, samples: Samples, measures: VaeMeasures) -> dict[str, Any]:
    import xarray as xr

    device = next(vae.parameters()).device
    mean, log_variance = (torch.from_numpy(root[name].values).to(device) for name in ("mean", "log_variance"))
    deviation = aggregate_deviation(mean, log_variance).float()
    probed = mean[:PROBED]
    donors = mean[generator(measures.seed, "donors of latents").permutation(len(mean))[: len(probed)]]
    interventions: dict[str, Intervene] = {
        "raw": shift(1.0),
        "calibrated": shift(deviation),
        "clamped": clamp(mean.mean(0)),
        "swapped": swap(donors),
    }
    found = {
        name: effects(vae.decode, probed, intervene, features=features if name == "calibrated" else None)
        for name, intervene in interventions.items()
    }
    calibrated = found["calibrated"]
    change = calibrated.change.reshape(-1, *vae.image_shape).mean(1)
    strength = np.stack([found[name].strength.T for name in INTERVENTIONS]).astype(np.float32)
    latents = xr.Dataset(
        {
            "deviation": ("latent", deviation.double().cpu().numpy()),
            "variance": ("latent", mean.double().var(0, correction=0).cpu().numpy()),
            "strength": (("intervention", "latent", "probe"), strength),
            "change": (("latent", "y", "x"), change.astype(np.float32)),
            "feature_change": (("latent", "feature", "probe"), calibrated.features.transpose(1, 2, 0)),
        },
        {"intervention": list(INTERVENTIONS), "feature": list(FEATURES)},
    )
    at = np.linspace(-measures.span, measures.span, measures.steps)
    centred = (mean - mean.mean(0)) / deviation
    start = mean[centred.square().sum(1).argmin()]
    walked = start.repeat(mean.shape[1], measures.steps, 1)
    for latent in range(mean.shape[1]):
        walked[latent, :, latent] = mean[:, latent].mean() + torch.from_numpy(at).to(mean) * deviation[latent]
    shown = vae.decode(walked.flatten(0, 1)).unflatten(0, walked.shape[:2])
    pictures = {
        **_examples(vae, samples),
        "traversal": (("latent", "step", "y", "x", "channel"), bytes_of(shown)),
        "traversal_at": (("latent", "step"), np.tile(at, (mean.shape[1], 1))),
    }
    return {"latents": latents, "pictures": xr.Dataset(pictures)}


def _of_swaps(vae: GridVae, samples: Samples, measures: VaeMeasures) -> dict[str, Any]:
    import xarray as xr

    found = swap_effects(vae, samples.images[:PROBED], seed=measures.seed, examples=EXAMPLES)
    pictures = {
        **_examples(vae, samples),
        "swapped": (("swap", "example", "y", "x", "channel"), found.pop("swapped")),
    }
    kinds = {"swap": list(KINDS)}
    swaps = {name: (("swap", "probe"), values) for name, values in found.items()}
    return {"swaps": xr.Dataset(swaps, kinds), "pictures": xr.Dataset(pictures, kinds)}


def _examples(vae: Vae, samples: Samples) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    (images,) = batches(vae, samples.images[:EXAMPLES])
    dims = ("example", "y", "x", "channel")
    reconstructed = vae.pixels(vae.reconstruct(images))
    return {"original": (dims, bytes_of(images)), "reconstruction": (dims, bytes_of(reconstructed))}
