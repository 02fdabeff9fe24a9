"""Whole captures of networks with tokens without a place: imported, noised, observed, stored, and read again."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_captures import ENTROPY_ERROR, RUNTIME

from diffmech.attention.calls import AttentionCall
from diffmech.attention.capture import capture_attention
from diffmech.attention.import_check import check_imported
from diffmech.attention.latents import make_latents
from diffmech.attention.passes import open_latents
from diffmech.attention.store import open_attention
from diffmech.attention.survey import attention_sites
from diffmech.attention.tap import AttentionTap
from diffmech.attention.untrained import capture_untrained
from diffmech.config.images import ImagesConfig
from diffmech.config.models import DenoiserConfig
from diffmech.config.study import CaptureConfig, LatentsConfig, UntrainedConfig
from diffmech.mechanisms.captured import read, read_quantities, sites_of
from diffmech.models.implementation import import_custom
from diffmech.models.load import load_denoiser
from diffmech.testing import assert_same_up_to_rounding

NETS = '''
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.qkv, self.out = 2, nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return self.out(scaled_dot_product_attention(4 * q, k, v).transpose(1, 2).flatten(2))


class Vit(nn.Module):
    """A class token before 4 x 4 patches, a token of the time after them."""

    def __init__(self):
        super().__init__()
        self.time, self.first = nn.Embedding(100, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.enter, self.leave = nn.Conv2d(1, 16, 4, stride=4), nn.ConvTranspose2d(16, 1, 4, stride=4)
        self.place = nn.Parameter(torch.randn(16, 16))
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": Attention()}) for _ in range(2))

    def forward(self, x_t, timestep):
        grid = self.enter(x_t)
        x = grid.flatten(2).mT + self.place
        x = torch.cat([self.first.expand(len(x), -1, -1), x, self.time(timestep)[:, None]], 1)
        for block in self.blocks:
            x = x + block["attn"](x)
        return self.leave(x[:, 1:-1].mT.reshape(grid.shape))


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_qkv, self.to_out = nn.Conv2d(16, 48, 1), nn.Conv2d(16, 16, 1)
        self.memory = nn.Parameter(torch.randn(2, 2, 4, 8))

    def forward(self, x):
        q, k, v = (z.reshape(len(x), 2, 8, -1).mT for z in self.to_qkv(x).chunk(3, dim=1))
        k, v = (torch.cat([more.expand(len(x), -1, -1, -1), z], 2) for more, z in zip(self.memory, (k, v)))
        weights = (4 * q @ k.mT * 8**-0.5).softmax(-1)
        return self.to_out((weights @ v).mT.reshape(x.shape))


class Unet(nn.Module):
    """Attention on 8 x 8 pixels and four learned keys, by a module that nothing makes known."""

    def __init__(self):
        super().__init__()
        self.time, self.layers = nn.Embedding(100, 16), nn.ModuleList([Remembering(), Remembering()])
        self.enter = nn.Conv2d(1, 16, 4, stride=2, padding=1)
        self.leave = nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1)

    def forward(self, x_t, timestep):
        x = self.enter(x_t) + self.time(timestep)[:, :, None, None]
        for layer in self.layers:
            x = x + layer(x)
        return self.leave(x)
'''
# By network: the sites, the tokens before and after the image, and the parts.
EXPECTED = {
    "Vit": (["block00.self", "block01.self"], (1, 1), 4),
    "Unet": (["layers.0.self", "layers.1.self"], (4, 0), 2),
}


@pytest.fixture(params=EXPECTED)
def study(request, tmp_path: Path, dataset: Path) -> tuple[str, Path, Path]:
    """The name of a network, its pointer, checked, and latents of four images."""
    (tmp_path / "net.py").write_text(NETS)
    schedule = {"timesteps": 100, "beta_schedule": "linear", "prediction_type": "epsilon"}
    config = DenoiserConfig(source="custom", implementation=f"net.py:{request.param}", schedule=schedule)
    model_json, latents = tmp_path / "results" / "mine" / "model.json", tmp_path / "latents.zarr.zip"
    import_custom(config, model_json, root=tmp_path, images=ImagesConfig(size=16))
    check_imported(model_json)
    given = {"domain": "real", "timesteps": (10, 60), "sample_ids": range(4), "latents": LatentsConfig()}
    make_latents(dataset, model_json, latents, **given)
    return request.param, model_json, latents


@pytest.fixture
def tree(study: tuple[str, Path, Path], tmp_path: Path) -> xr.DataTree:
    capture = CaptureConfig(keep_maps=2)
    capture_attention(study[2], study[1], tmp_path / "attention.zarr.zip", capture=capture, runtime=RUNTIME)
    return open_attention(tmp_path / "attention.zarr.zip")


def probabilities(model_json: Path, latents: Path) -> dict[str, np.ndarray]:
    """Return the map of every site in float64 at the second timestep, from the queries and keys of a pass."""
    denoiser, passes = load_denoiser(model_json, device="cpu"), open_latents(latents)
    maps: dict[str, np.ndarray] = {}

    def note(call: AttentionCall) -> None:
        maps[call.site.name] = (call.query.double() @ call.key.double().mT * call.scale).softmax(-1).numpy()

    def run(images: slice) -> None:
        denoiser.predict_noise(torch.from_numpy(passes.x_t[images, 1].values), 60)

    sites = attention_sites(denoiser.module, lambda: run(slice(0, 1)))
    with torch.no_grad(), AttentionTap(denoiser.module, [note], sites=sites):
        run(slice(None))
    return maps


def test_entropy_is_that_of_the_images_queries_over_all_keys_in_float64(study, tree) -> None:
    name, model_json, latents = study
    sites, (before, after), parts = EXPECTED[name]
    maps = probabilities(model_json, latents)
    assert list(tree.children) == list(maps) == sites
    for site, p in maps.items():
        node = tree[site].sel(timestep=60)
        places, keys = node["query_range"].values == "image", node["key_range"].values == "image"
        assert list(np.flatnonzero(~keys)) == [*range(before), *range(len(keys) - after, len(keys))]
        assert node.attrs["kind"] == "self"
        assert node.attrs["h_max"] == pytest.approx(np.log(p.shape[-1]))
        p = p[:, :, places]
        entropy = -(p * np.log(p)).sum(-1).mean(-1)
        assert_same_up_to_rounding(node["entropy"], entropy, scale=float(entropy.max()))
        assert entropy.min() < 0.95 * node.attrs["h_max"]
        assert node.sizes["part"] == parts
        mass = p[..., ~keys].sum(-1).mean(-1)
        assert mass.min() > 0.01
        assert_same_up_to_rounding(node["part_mass"].sel(part="image->extra"), mass)
        stored = node["maps"].values[:, :, places].astype(np.float64)
        np.testing.assert_allclose(-(stored * np.log(stored)).sum(-1).mean(-1), entropy[:2], atol=ENTROPY_ERROR)


def test_what_mechanisms_are_told_by_is_of_the_image_alone(study, tree) -> None:
    p = probabilities(*study[1:])
    for site in sites_of(tree):
        node = tree[site.name]
        places, keys = node["query_range"].values == "image", node["key_range"].values == "image"
        among = p[site.name][:, :, places][..., keys]
        received = among.mean(-2)
        expected = received / received.mean(-1, keepdims=True)
        assert_same_up_to_rounding(read(tree, site, "received", 60), expected, dtype="float16", roundings=4)
        own = np.trace(among, axis1=-2, axis2=-1) / among.sum((-1, -2))
        assert_same_up_to_rounding(read_quantities(tree, site)[60]["self_mass"], own)


def test_untrained_twins_have_the_same_sites_and_quantities(study, tree, tmp_path) -> None:
    twins = tmp_path / "untrained.zarr.zip"
    capture_untrained([study[2]], study[1], twins, untrained=UntrainedConfig(seeds=2, samples=2), runtime=RUNTIME)
    found = open_attention(twins)
    assert sites_of(found) == sites_of(tree)
    for name, node in found.children.items():
        assert set(node.data_vars) == set(tree[name].data_vars) - {"maps"}
        assert np.isfinite(node["entropy"].values).all()
