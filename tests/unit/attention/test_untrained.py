"""The untrained twins: the same passes through random weights, different per twin, the same every time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tiny_captures import RUNTIME, Capture

from diffmech.attention.capture import capture_attention
from diffmech.attention.passes import open_latents
from diffmech.attention.store import open_attention, per_sample
from diffmech.attention.untrained import capture_untrained, first_samples
from diffmech.config.study import CaptureConfig, UntrainedConfig
from diffmech.errors import StoreError
from diffmech.testing import assert_same_up_to_rounding

MakeLatents = Callable[..., Path]
TWINS = UntrainedConfig(seeds=3, samples=5)


@pytest.fixture(scope="module")
def blocks(latents: MakeLatents) -> list[Path]:
    """Two blocks of two shards, not in order."""
    parts = [(range(4, 6), (700, 900)), (range(4), (100,)), (range(4), (700, 900)), (range(4, 6), (100,))]
    return [latents(samples, timesteps) for samples, timesteps in parts]


@pytest.fixture(scope="module")
def twins(blocks: list[Path], model_json: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of three twins on the first five samples."""
    output = tmp_path_factory.mktemp("untrained") / "faces.zarr.zip"
    capture_untrained(blocks, model_json, output, untrained=TWINS, runtime=RUNTIME)
    return output


def test_the_first_samples_are_observed_at_all_timesteps(twins: Path) -> None:
    tree = open_attention(twins)
    entropy = per_sample(tree, "entropy")
    assert entropy.dims == ("twin", "sample", "timestep", "head")
    assert entropy["sample"].values.tolist() == [0, 1, 2, 3, 4]
    assert entropy["timestep"].values.tolist() == [100, 700, 900]
    assert np.isfinite(entropy).all()
    assert all("maps" not in site for site in tree.children.values())


def test_a_twin_is_a_capture_with_those_weights(
    twins: Path, latents: MakeLatents, model_json: Path, tmp_path: Path
) -> None:
    output = tmp_path / "one.zarr.zip"
    config = CaptureConfig(keep_maps=0)
    path = latents(range(4), (700, 900))
    capture_attention(path, model_json, output, capture=config, runtime=RUNTIME, untrained_seed=2)
    one = open_attention(output)
    for name, site in open_attention(twins).children.items():
        twin = site.sel(twin=2, sample=[0, 1, 2, 3], timestep=[700, 900])
        for variable in one[name].data_vars:
            precision = {"dtype": "float16", "roundings": 2} if variable == "received" else {}
            scale = max(1, float(np.abs(twin[variable]).max()))  # position information is a difference of entropies
            assert_same_up_to_rounding(one[name][variable], twin[variable], scale=scale, **precision)


def test_twins_differ_from_each_other_and_from_the_trained_model(
    twins: Path, latents: MakeLatents, capture: Capture
) -> None:
    entropy = per_sample(open_attention(twins), "entropy").sel(timestep=[100, 700]).values
    trained = per_sample(open_attention(capture(latents())), "entropy")[:5].values
    for a, b in [(entropy[0], entropy[1]), (entropy[1], entropy[2]), (entropy[0], trained)]:
        assert np.abs(a - b).max() > 1e-3


def test_twins_are_the_same_every_time_and_when_there_are_more(
    blocks: list[Path], twins: Path, model_json: Path, tmp_path: Path
) -> None:
    again, more = tmp_path / "again.zarr.zip", tmp_path / "more.zarr.zip"
    capture_untrained(blocks[::-1], model_json, again, untrained=TWINS, runtime=RUNTIME)
    assert again.read_bytes() == twins.read_bytes()
    larger = UntrainedConfig(seeds=4, samples=5)
    capture_untrained(blocks, model_json, more, untrained=larger, runtime=RUNTIME)
    xr.testing.assert_equal(
        per_sample(open_attention(more), "entropy").sel(twin=[0, 1, 2]), per_sample(open_attention(twins), "entropy")
    )


def test_a_small_data_set_gives_what_it_has(latents: MakeLatents) -> None:
    passes = first_samples([open_latents(latents(range(20, 30))), open_latents(latents(range(8, 20)))], 16)
    assert passes.samples.tolist() == [8, 9]
    assert passes.x_t.shape[:2] == (2, 2)


def test_blocks_with_other_samples_are_refused(latents: MakeLatents) -> None:
    parts = [open_latents(latents(range(4), (100,))), open_latents(latents(range(2, 6), (700, 900)))]
    with pytest.raises(StoreError, match="holds other samples than"):
        first_samples(parts, 4)
    parts = [open_latents(latents(range(4), (100,))), open_latents(latents(range(4), (100, 900)))]
    with pytest.raises(StoreError, match="the same timestep twice"):
        first_samples(parts, 4)
