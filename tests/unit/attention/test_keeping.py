"""Maps and factors are kept of the sites, sizes and timesteps that were asked for, and little is held meanwhile."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_captures import MAP_ERROR, RUNTIME, Capture
from torch.utils._python_dispatch import TorchDispatchMode

from diffmech.artifacts import building_store
from diffmech.attention.calls import AttentionCall
from diffmech.attention.capture import capture_attention
from diffmech.attention.compression import CODECS, choose_codec
from diffmech.attention.keeping import attention_factors, attention_maps, choose_kept, map_blocks
from diffmech.attention.layout import Kept, SiteLayout, create_attention_store, samples_per_chunk
from diffmech.attention.scratch import ALIGNMENT
from diffmech.attention.sites import AttentionSite
from diffmech.attention.store import open_attention
from diffmech.config.study import CaptureConfig
from diffmech.errors import ConfigError
from diffmech.testing import assert_same_up_to_rounding

MakeLatents = Callable[..., Path]


def layout(name: str, side: int, kind: str = "self", heads: int = 2) -> SiteLayout:
    names = tuple(f"{name}.h{head:02d}" for head in range(heads))
    keys = side * side if kind == "self" else 5
    return SiteLayout(name, kind, names, side * side, keys, 8, (side, side), components=8)


LAYOUTS = [
    layout("down1.0.self", 16),
    layout("down1.0.cross", 16, "cross"),
    layout("mid.0.self", 8),
    layout("up0.0.self", 16),
    layout("up0.0.cross", 16, "cross"),
]


def kept_sites(**passes: object) -> list[str]:
    config = CaptureConfig.model_validate({"keep_maps": 2, "maps_of": passes})
    return [site for site, _ in choose_kept(config, LAYOUTS, [4, 5, 6], {100: 100})]


def call_of(
    queries: int, keys: int, *, causal: bool = False, mask: torch.Tensor | None = None, lse: bool = False
) -> AttentionCall:
    rng = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, queries, 8, generator=rng), torch.randn(2, 3, keys, 8, generator=rng)
    sums = (0.4 * query @ key.mT).logsumexp(-1) if lse else None
    return AttentionCall(AttentionSite("mid.0.self", "mid", "self", 3), query, key, key, query, sums, 0.4, mask, causal)


def test_everything_is_kept_unless_narrowed() -> None:
    assert kept_sites() == [site.name for site in LAYOUTS]


def test_sites_are_chosen_by_glob_and_by_size_in_the_order_of_the_network() -> None:
    assert kept_sites(sites=["up*.self", "*.cross"]) == ["down1.0.cross", "up0.0.self", "up0.0.cross"]
    assert kept_sites(max_queries=64) == ["mid.0.self"]
    assert kept_sites(max_queries=256, sites=["*.self"]) == ["down1.0.self", "mid.0.self", "up0.0.self"]


def test_maps_and_factors_are_chosen_apart() -> None:
    config = CaptureConfig.model_validate(
        {
            "keep_maps": 1,
            "keep_factors": 3,
            "maps_of": {"sites": ["*.cross"]},
            "factors_of": {"sites": ["mid.*"], "timesteps": [700]},
        }
    )
    assert choose_kept(config, LAYOUTS, [4, 5, 6, 7], {99: 100, 702: 700}) == {
        ("down1.0.cross", "maps"): Kept([4], [99, 702]),
        ("up0.0.cross", "maps"): Kept([4], [99, 702]),
        ("mid.0.self", "factors"): Kept([4, 5, 6], [702]),
    }


def test_a_pattern_without_a_site_is_one_line_with_the_nearest_names() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^capture\.maps_of\.sites: 'up0\.0\.slef' matches none of the 5 attention sites .* up0\.0\.self",
    ):
        kept_sites(sites=["*.cross", "up0.0.slef"])


def test_a_size_below_all_sites_is_one_line_with_the_smallest() -> None:
    with pytest.raises(ConfigError, match=r"^capture\.maps_of\.max_queries: 16 leaves no site; mid\.0\.self .* 64$"):
        kept_sites(max_queries=16)


def test_a_capture_holds_what_was_asked_for_and_nothing_else(
    latents: MakeLatents, capture: Capture, model_json: Path, tmp_path: Path
) -> None:
    path, output = latents(), tmp_path / "a.zarr.zip"
    config = CaptureConfig.model_validate(
        {
            "keep_maps": 2,
            "keep_factors": 1,
            "maps_of": {"sites": ["up*.self"], "timesteps": [700]},
            "factors_of": {"sites": ["*.cross"]},
        }
    )
    capture_attention(path, model_json, output, capture=config, runtime=RUNTIME)
    tree, whole = open_attention(output), open_attention(capture(path))
    for name, site in tree.children.items():
        assert_same_up_to_rounding(site["entropy"], whole[name]["entropy"])
        assert ("maps" in site) == (name.startswith("up") or name.endswith("cross"))
    maps = tree["up0.0.self"]["maps"]
    assert np.isnan(maps.sel(timestep=100)).all()
    np.testing.assert_array_equal(maps.sel(timestep=700), whole["up0.0.self"]["maps"].sel(timestep=700)[:2])
    assert "kept_timesteps" not in maps.attrs


@pytest.mark.parametrize("length", [1, 7, 64, 100])
@pytest.mark.parametrize("way", ["plain", "with lse", "causal", "masked"])
def test_maps_in_blocks_of_queries_are_the_softmax(length: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("kernels", "keeping", "sums"):
        monkeypatch.setattr(f"diffmech.attention.{module}.TILE_ELEMENTS", 1000)
    mask = torch.randn(2, 3, 64, 20, generator=torch.Generator().manual_seed(1)) if way == "masked" else None
    call = call_of(64, 20, causal=way == "causal", mask=mask, lse=way == "with lse")
    scores = 0.4 * call.query.double() @ call.key.double().mT
    if mask is not None:
        scores += mask
    if call.is_causal:
        scores.masked_fill_(torch.ones(64, 20).tril().logical_not(), -torch.inf)
    expected = scores.softmax(-1)
    # One rounding to float16, whose smallest number is 6e-8.
    torch.testing.assert_close(attention_maps(call).double(), expected, rtol=1e-3, atol=1e-7)
    blocks = list(map_blocks(call, slice(1, 2), slice(1, 3), length))
    assert [rows.stop - rows.start for rows, _ in blocks[:-1]] == [min(length, 64)] * (len(blocks) - 1)
    found = torch.cat([maps for _, maps in blocks], 2)
    torch.testing.assert_close(found.double(), expected[1:2, 1:3], rtol=1e-3, atol=1e-7)


def test_no_array_of_queries_by_keys_exists_while_factors_are_made() -> None:
    largest = raw = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest, raw
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.uint8:
                raw = max(raw, out.numel())
            elif isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    call = call_of(256, 256)
    with Watch():
        factors = attention_factors(call)
    assert 0 < largest <= call.query.numel()
    assert 0 < raw <= sum(-(-factor.nbytes // ALIGNMENT) * ALIGNMENT for factor in factors.values())


def test_large_maps_are_made_and_stored_in_chunks_of_some_queries(tmp_path: Path) -> None:
    site = layout("mid.0.self", 96)  # 9216 tokens: 170 MB per map
    kept = {("mid.0.self", "maps"): Kept([0], [100])}
    arrays = create_attention_store(
        tmp_path / "a", [site], axes={"sample": [0], "timestep": [100]}, chunks={}, kept=kept, attrs={}
    )
    chunk = arrays["mid.0.self", "maps"].chunks
    assert chunk[:3] == (1, 1, 1)
    assert np.prod(chunk) * 2 <= 8 * 2**20


def test_deep_models_get_shorter_chunks_so_that_no_more_is_held() -> None:
    site = layout("mid.0.self", 64, heads=8)
    shallow, deep = samples_per_chunk([site], 10_000), samples_per_chunk([site] * 140, 10_000)
    lengths = [[site.sizes[dim] for dim in v.dims] + [np.dtype(v.dtype).itemsize] for v in site.variables.values()]
    per_sample = sum(int(np.prod(length)) for length in lengths)
    assert shallow > deep >= 1
    assert deep * 140 * per_sample <= 64 * 2**20


@pytest.mark.parametrize(("side", "heads"), [(8, 3), (8, 8), (16, 5), (32, 12)])
def test_chunks_of_maps_end_where_those_of_statistics_do(tmp_path: Path, side: int, heads: int) -> None:
    site, samples = layout("mid.0.self", side, heads=heads), 10_000
    whole = samples_per_chunk([site], samples)
    kept = {("mid.0.self", "maps"): Kept(range(samples), [0])}
    axes = {"sample": range(samples), "timestep": [0]}
    arrays = create_attention_store(
        tmp_path / "a", [site], axes=axes, chunks={"sample": whole, "timestep": 1}, kept=kept, attrs={}
    )
    step = arrays["mid.0.self", "maps"].chunks[0]
    assert whole % step == 0
    assert 1 <= step < whole < samples


@pytest.mark.parametrize("samples", [1, 7, 17, 20, 33, 100])
@pytest.mark.parametrize("side", [8, 16, 72])
def test_chunks_hardly_store_more_than_is_kept(tmp_path: Path, samples: int, side: int) -> None:
    site = layout("mid.0.self", side, heads=3)
    kept = {("mid.0.self", what): Kept(range(samples), [0]) for what in ("maps", "factors")}
    axes = {"sample": range(samples), "timestep": [0]}
    arrays = create_attention_store(tmp_path / "a", [site], axes=axes, chunks={}, kept=kept, attrs={})
    for name in ("maps", "query_factor", "key_factor"):
        array = arrays["mid.0.self", name]
        stored = array.nchunks * np.prod(array.chunks)
        assert array.size <= stored <= 1.07 * array.size


def test_further_leading_axes_stay_in_front(tmp_path: Path) -> None:
    site, path = layout("mid.0.self", 4, heads=3), tmp_path / "a.zarr.zip"
    axes = {"guidance": ["conditional", "unconditional"], "sample": [3, 4], "timestep": [100]}
    about = dict.fromkeys(("model_sha256", "dataset", "domain", "condition", "seed"), "0")
    call = call_of(16, 16)
    calls = [call, replace(call, query=-call.query)]
    with building_store(path) as directory:
        kept = {("mid.0.self", "factors"): Kept([3, 4], [100])}
        arrays = create_attention_store(directory, [site], axes=axes, chunks={}, kept=kept, attrs=about)
        arrays["", "loss"][:] = 0
        for branch, call in enumerate(calls):
            for name, values in attention_factors(call).items():
                arrays["mid.0.self", name][branch, :, 0] = values.numpy()
    maps = open_attention(path)["mid.0.self"]["maps"]
    assert maps.dims == ("guidance", "kept_sample", "timestep", "head", "query", "key")
    for branch, call in enumerate(calls):
        expected = attention_maps(call).numpy()
        np.testing.assert_allclose(maps.isel(guidance=branch, timestep=0), expected, atol=MAP_ERROR)
    one = maps.sel(guidance="unconditional", kept_sample=4)[0, 2, 5]
    np.testing.assert_array_equal(one, maps.values[1, 1, 0, 2, 5])


def test_the_codec_is_the_fastest_that_saves_enough() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**16, (1, 64, 4096), dtype=np.uint16).view(np.float16)
    assert choose_codec(noise) == ("none", 1.0)
    close = (1 + rng.random((1, 64, 4096)) / 20).astype(np.float16)  # all exponents and high bits agree
    codec, ratio = choose_codec(close)
    assert codec == "lz4 bitshuffle"
    assert ratio > 1.3
    repeated = np.tile(rng.random((1, 1, 4096)), (1, 64, 1)).astype(np.float16)
    assert choose_codec(repeated)[0] == "zstd 1"
    assert set(CODECS) == {"none", "lz4 bitshuffle", "zstd 1"}


def test_the_choice_of_codecs_is_in_the_store(latents: MakeLatents, capture: Capture) -> None:
    chosen = open_attention(capture(latents())).attrs["compression"]
    assert set(chosen) == {"maps", "query_factor", "key_factor"}
    assert all(choice["codec"] in CODECS and choice["ratio"] >= 1 for choice in chosen.values())
