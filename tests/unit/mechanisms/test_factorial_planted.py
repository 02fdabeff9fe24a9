"""Whole denoisers of which one head reads the domain of the image and one what it is told, from passes to the table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from listening_denoiser import HEADS, SIZE, ListeningDenoiser

from diffmech.artifacts import write_store
from diffmech.attention.latents import make_latents
from diffmech.attention.told import capture_told
from diffmech.config.analysis import EntropyConfig, RuntimeConfig
from diffmech.config.images import ImagesConfig
from diffmech.config.models import DenoiserConfig
from diffmech.config.study import NOTHING, LatentsConfig, ToldConfig, UntrainedConfig
from diffmech.mechanisms.factorial import entropy_factorial
from diffmech.mechanisms.told import EFFECTS, IMAGE, RAW, TOLD
from diffmech.models.importing import import_denoiser

DOMAINS = ListeningDenoiser.domains
IMAGES, TIMESTEPS, TWINS = 16, [50], 19
RUNTIME = RuntimeConfig(progress=False, batch_size=64, device="cpu")
ENTROPY = EntropyConfig(draws=20, permutations=200)


def write_images(path: Path, domain: int, seed: int) -> Path:
    """Write images of noise; those of the first domain also rise from left to right, or fall."""
    rng = np.random.default_rng([seed, domain])
    ramp = np.linspace(-1, 1, SIZE) * (domain == 0)
    image = 0.5 * rng.standard_normal((IMAGES, SIZE, SIZE)) + rng.choice([-1, 1], (IMAGES, 1, 1)) * ramp
    none = np.asarray([], np.dtypes.StringDType())
    dataset = xr.Dataset(
        {
            "image": (("sample", "channel", "y", "x"), (127.5 + 60 * image).clip(0, 255).astype(np.uint8)[:, None]),
            "attribute_value": (("sample", "attribute"), np.zeros((IMAGES, 0), np.float32)),
            "mask": (("sample", "part", "y", "x"), np.zeros((IMAGES, 0, SIZE, SIZE), np.uint8)),
        },
        coords={
            "sample": np.arange(IMAGES),
            "attribute": none,
            "part": none,
            "file": ("sample", np.asarray([f"{i}.png" for i in range(IMAGES)], np.dtypes.StringDType())),
        },
        attrs={"gain": 1.0, "offset": 0.0},
    )
    write_store(path, dataset)
    return path


def factorial_of(folder: Path, seed: int, planted: tuple[int, int] | None) -> pd.DataFrame:
    """Return the table of a denoiser that reads the domain with the heads `planted`, or has random weights."""
    torch.manual_seed(1000 + seed)
    network = ListeningDenoiser()
    if planted is not None:
        network.plant(*planted)
    torch.save(network.state_dict(), folder / "weights.pt")
    config = DenoiserConfig(
        source="custom",
        implementation=f"{Path(__file__).with_name('listening_denoiser.py')}:ListeningDenoiser",
        weights=str(folder / "weights.pt"),
        sample_shape=[1, SIZE, SIZE],
    )
    model_json = folder / "model/model.json"
    import_denoiser(config, model_json, root=folder, images=ImagesConfig(size=SIZE))
    latents = {domain: [folder / f"{domain}.zarr.zip"] for domain in DOMAINS}
    for index, domain in enumerate(DOMAINS):
        make_latents(
            write_images(folder / f"{domain}.images.zarr.zip", index, seed),
            model_json,
            latents[domain][0],
            domain=domain,
            timesteps=TIMESTEPS,
            sample_ids=range(IMAGES),
            latents=LatentsConfig(seed=seed),
        )
    files, copies = {}, {}
    for domain in DOMAINS:
        told = {name: folder / f"{domain}-{name}.zarr.zip" for name in (NOTHING, *DOMAINS)}
        twins = {name: folder / f"{domain}-{name}.untrained.zarr.zip" for name in told}
        capture_told(
            latents,
            model_json,
            told,
            twins,
            domain=domain,
            timesteps=TIMESTEPS,
            told=ToldConfig(samples=IMAGES, untrained_samples=IMAGES, untrained_told=4),
            untrained=UntrainedConfig(seeds=TWINS),
            runtime=RUNTIME,
        )
        for name in told:
            files.setdefault(name, {})[domain] = [told[name]]
            copies.setdefault(name, {})[domain] = [twins[name]]
    table = folder / "factorial.csv"
    entropy_factorial(files, copies, folder / "divergence.csv", table, domains=DOMAINS, entropy=ENTROPY, seed=seed)
    return pd.read_csv(table)


@pytest.mark.parametrize("seed", [0, HEADS - 1])
def test_each_effect_is_found_at_the_head_that_has_it_and_only_there(seed: int, tmp_path: Path) -> None:
    planted = seed, (seed + 1) % HEADS  # two heads of each layer, its first among them, and the last of one
    table = factorial_of(tmp_path, seed, planted)
    found = table[table["significant"]]
    assert set(zip(found["effect"], found["head"], strict=True)) == {
        (IMAGE, f"own.self.h{planted[0]:02d}"),
        (TOLD, f"told.cross.h{planted[1]:02d}"),
    }
    assert len(found) == 2 * len(TIMESTEPS)
    effects = table.pivot(index=["timestep", "head"], columns="effect", values="estimate")
    np.testing.assert_allclose(effects[list(EFFECTS)].sum(axis=1), effects[RAW], atol=1e-6)
    others = effects.drop(index=f"told.cross.h{planted[1]:02d}", level="head")
    assert (others[TOLD] == 0).all()


def test_nothing_is_found_in_an_untrained_denoiser(tmp_path: Path) -> None:
    assert not factorial_of(tmp_path, 0, None)["significant"].any()
