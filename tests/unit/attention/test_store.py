"""Reading attention stores: lazy, labelled, joined in order, and never a silent mixture."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from tiny_captures import SHAPE, Capture

import diffmech
from diffmech.attention.store import open_attention, per_sample
from diffmech.errors import StoreError

MakeLatents = Callable[..., Path]


@pytest.fixture
def shards_and_blocks(latents: MakeLatents, capture: Capture) -> list[Path]:
    """Two shards by two blocks, in no order."""
    parts = [(range(4, 6), (700, 900)), (range(4), (100,)), (range(4), (700, 900)), (range(4, 6), (100,))]
    return [capture(latents(samples, timesteps), "grid", keep_maps=1) for samples, timesteps in parts]


def test_shards_and_blocks_join_in_order_of_samples_and_timesteps(shards_and_blocks: list[Path]) -> None:
    tree = open_attention(shards_and_blocks)
    assert tree["sample"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert tree["timestep"].values.tolist() == [100, 700, 900]
    one = open_attention(shards_and_blocks[0])
    site = tree["down1.0.self"].sel(sample=[4, 5], timestep=[700, 900])
    np.testing.assert_array_equal(site["entropy"], one["down1.0.self"]["entropy"])
    assert tree["down1.0.self"]["maps"]["kept_sample"].values.tolist() == [0, 4]
    first_map = tree["down1.0.self"]["maps"].sel(kept_sample=4, timestep=900)
    np.testing.assert_array_equal(first_map, one["down1.0.self"]["maps"].sel(kept_sample=4, timestep=900))


def test_a_folder_is_all_stores_below_it(shards_and_blocks: list[Path]) -> None:
    tree = open_attention(shards_and_blocks[0].parent)
    assert tree.identical(open_attention(shards_and_blocks))


def test_nothing_is_read_before_it_is_asked_for(shards_and_blocks: list[Path]) -> None:
    tree = open_attention(shards_and_blocks)
    assert len(tree.children) > 1
    for site in [tree, *tree.children.values()]:
        assert site.data_vars
        for values in site.data_vars.values():
            assert isinstance(values.data, da.Array)


def test_everything_is_labelled(shards_and_blocks: list[Path]) -> None:
    tree = open_attention(shards_and_blocks)
    assert list(tree.children)[:2] == ["down1.0.self", "down1.0.cross"]  # the order of the network
    for site in [tree, *tree.children.values()]:
        for values in site.data_vars.values():
            assert values.attrs["units"]
            assert values.attrs["long_name"]
    chosen = tree["down1.0.self"].sel(head="down1.0.self.h03", timestep=700)
    assert chosen["entropy"].dims == ("sample",)
    cross = tree["down1.0.cross"]
    assert cross["token"].values.tolist() == ["domain", "glasses", "smile"]
    assert cross.attrs["h_max"] == pytest.approx(np.log(3))


def test_coordinates_are_pixel_centres_row_by_row(latents: MakeLatents, capture: Capture) -> None:
    site = open_attention(capture(latents()))["up0.1.self"]
    side = SHAPE[1] // 2
    assert site.attrs["grid"] == [side, side]
    assert float(site["query_y"][0]) == pytest.approx(0.5 / side)
    assert float(site["query_x"][1]) == pytest.approx(1.5 / side)
    assert float(site["key_y"][-1]) == pytest.approx(1 - 0.5 / side)
    assert site["key_x"].values.reshape(side, side).std(0).max() == 0


def test_per_sample_joins_all_heads_that_have_the_quantity(latents: MakeLatents, capture: Capture) -> None:
    tree = open_attention(capture(latents()))
    entropy, distance = per_sample(tree, "entropy"), per_sample(tree, "distance")
    assert entropy.dims == ("sample", "timestep", "head")
    assert entropy.sizes["head"] == 4 * 6
    assert per_sample(tree, "entropy", "cross").sizes["head"] == distance.sizes["head"] == 4 * 3
    np.testing.assert_array_equal(
        entropy.sel(head="up0.1.cross.h02"), tree["up0.1.cross"]["entropy"].sel(head="up0.1.cross.h02")
    )
    with pytest.raises(StoreError, match="no cross site of this store has 'distance'"):
        per_sample(tree, "distance", "cross")


def test_a_missing_store_is_one_line(tmp_path: Path) -> None:
    _fails(tmp_path / "nowhere.zarr.zip", "no such store")
    _fails(tmp_path, r"no \*\.zarr\.zip in this folder")
    _fails([], "no attention store was given")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_half_written_store_is_rejected(latents: MakeLatents, capture: Capture, tmp_path: Path, share: float) -> None:
    whole = capture(latents()).read_bytes()
    half = tmp_path / "half.zarr.zip"
    half.write_bytes(whole[: int(len(whole) * share)])
    _fails(half, "is not a whole store")


def test_another_kind_of_store_is_rejected(latents: MakeLatents) -> None:
    _fails(latents(), "is not an attention store")


def test_stores_of_two_seeds_do_not_mix(latents: MakeLatents, capture: Capture) -> None:
    paths = [capture(latents(range(4))), capture(latents(range(4, 6), seed=1))]
    _fails(paths, r"is of noise seed 1, but .* of noise seed 0")


def test_stores_that_hold_other_things_do_not_mix(latents: MakeLatents, capture: Capture) -> None:
    paths = [capture(latents(range(4)), "none", keep_maps=0), capture(latents(range(4, 6)), "one", keep_maps=1)]
    _fails(paths, r"one/.* has other sites or quantities than .*none/.*; delete the older of the two and let")


def test_missing_and_repeated_passes_are_named(
    shards_and_blocks: list[Path], latents: MakeLatents, capture: Capture
) -> None:
    _fails(shards_and_blocks[1:], r"holds sample 4, which other timesteps lack \(2 samples differ\)")
    again = capture(latents(range(3, 6), (100,)), "grid-again", keep_maps=1)
    _fails([*shards_and_blocks, again], r"holds sample [345], which .* holds too; delete the older of the two")
    overlapping = capture(latents(range(4), (100, 300)), "grid-again", keep_maps=1)
    _fails([*shards_and_blocks, overlapping], "holds timestep 100, which .* holds too; delete the older")


def test_open_attention_is_at_the_top_and_importing_diffmech_stays_light() -> None:
    assert diffmech.open_attention is open_attention
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        diffmech.nothing  # noqa: B018
    program = "import sys, diffmech; print([m for m in ('torch', 'xarray', 'diffusers', 'numpy') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_reading_needs_neither_torch_nor_the_model() -> None:
    program = "import sys, diffmech; diffmech.open_attention; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "False False"


def _fails(paths: Path | list[Path], message: str) -> None:
    with pytest.raises(StoreError, match=message) as error:
        open_attention(paths)
    assert "\n" not in str(error.value)
