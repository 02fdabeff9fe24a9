"""Kept queries and keys give back the attention maps: same name, same dims, same values, read only where indexed."""

from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
from tiny_captures import ENTROPY_ERROR, MAP_ERROR, RUNTIME, Capture

from diffmech.attention.calls import AttentionCall
from diffmech.attention.capture import capture_attention
from diffmech.attention.factors import MapsFromFactors
from diffmech.attention.keeping import attention_factors
from diffmech.attention.sites import AttentionSite
from diffmech.attention.store import open_attention
from diffmech.config.study import CaptureConfig
from diffmech.errors import ModelError

MakeLatents = Callable[..., Path]


class Orthogonal:
    """An array in memory that is indexed as zarr's are and remembers what was read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.ndim = values, values.shape, values.ndim
        self.read: list[tuple[int, ...]] = []

    @property
    def oindex(self) -> "Orthogonal":
        return self

    def __getitem__(self, index: tuple[slice | np.ndarray, ...]) -> np.ndarray:
        chosen = self.values
        for axis, rows in enumerate(index):
            chosen = chosen[(slice(None),) * axis + (rows,)]
        self.read.append(chosen.shape)
        return chosen


def random_call(
    queries: int = 24, keys: int = 24, *, size: float = 1.0, mask: torch.Tensor | None = None, causal: bool = False
) -> AttentionCall:
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, queries, 8, generator=rng) * size
    key = torch.randn(3, 4, keys, 8, generator=rng) * size + 5 * size  # what all keys share, the softmax drops
    return AttentionCall(AttentionSite("mid.0.self", "mid", "self", 4), query, key, key, query, None, 0.3, mask, causal)


def maps_of(call: AttentionCall, *, masked: bool = False) -> MapsFromFactors:
    factors = attention_factors(call, masked=masked)
    arrays = {name: Orthogonal(values.numpy()) for name, values in factors.items()}
    return MapsFromFactors(arrays, causal=call.is_causal)


def exact(call: AttentionCall) -> np.ndarray:
    """Softmax in float64, by the definition."""
    query, key = call.query.double().numpy(), call.key.double().numpy()
    scores = np.einsum("bhqc,bhkc->bhqk", query, key) * call.scale
    if call.is_causal:
        scores[..., np.triu(np.ones(scores.shape[-2:], bool), 1)] = -np.inf
    if call.attn_mask is not None:
        mask = call.attn_mask.numpy()
        scores = scores + (np.where(mask, 0, -np.inf) if mask.dtype == bool else mask)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def entropy(p: np.ndarray) -> np.ndarray:
    p = p.astype(np.float64)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1).mean(-1)


@pytest.mark.parametrize(("queries", "keys"), [(24, 24), (24, 5), (1, 7)])
def test_entropy_of_maps_from_factors_is_that_of_the_exact_softmax(queries: int, keys: int) -> None:
    call = random_call(queries, keys)
    maps = maps_of(call)[:]
    assert maps.dtype == np.float16
    assert entropy(exact(call)).mean() < 0.9 * np.log(keys)
    np.testing.assert_allclose(entropy(maps), entropy(exact(call)), atol=ENTROPY_ERROR)
    np.testing.assert_allclose(maps, exact(call), atol=MAP_ERROR)


def test_activations_that_overflow_float16_do_no_harm() -> None:
    call = random_call(size=1e6)
    call = AttentionCall(
        call.site, call.query, call.key, call.value, call.output, None, 1e-12, call.attn_mask, call.is_causal
    )
    np.testing.assert_allclose(maps_of(call)[:], exact(call), atol=MAP_ERROR)


def test_a_causal_site_keeps_its_causality() -> None:
    call = random_call(causal=True)
    maps = maps_of(call)[:]
    assert (np.triu(maps, 1) == 0).all()
    np.testing.assert_allclose(maps, exact(call), atol=MAP_ERROR)
    np.testing.assert_array_equal(maps_of(call)[:, :, 5:9], maps[:, :, 5:9])


@pytest.mark.parametrize("boolean", [True, False])
def test_masked_keys_stay_masked(boolean: bool) -> None:
    visible = torch.ones(3, 1, 1, 24, dtype=torch.bool)
    visible[0, ..., 7:] = visible[2, ..., :3] = False
    mask = visible if boolean else torch.zeros(visible.shape).masked_fill(~visible, -10000.0)
    call = random_call(mask=mask.expand(3, 1, 24, 24))
    maps = maps_of(call, masked=True)
    np.testing.assert_allclose(maps[:], exact(call), atol=MAP_ERROR)
    assert (maps[0][..., 7:] == 0).all()
    assert attention_factors(call, slice(1, 3), masked=True)["key_bias"].shape == (2, 4, 24)


def test_a_mask_of_single_queries_is_refused_by_name() -> None:
    mask = torch.ones(24, 24, dtype=torch.bool).tril()
    with pytest.raises(ModelError, match=r"^mid\.0\.self: its attention mask depends on the query") as error:
        attention_factors(random_call(mask=mask), masked=True)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match=r"^mid\.0\.self: got an attention mask, but had none"):
        attention_factors(random_call(mask=torch.ones(1, 24, dtype=torch.bool)))


def test_grouped_queries_give_one_map_per_query_head() -> None:
    call = random_call()
    grouped = AttentionCall(
        call.site, call.query, call.key[:, :2], call.value[:, :2], call.output, None, call.scale, None, False
    )
    repeated = AttentionCall(
        call.site, call.query, call.key[:, [0, 0, 1, 1]], call.value, call.output, None, call.scale, None, False
    )
    np.testing.assert_allclose(maps_of(grouped)[:], exact(repeated), atol=MAP_ERROR)


@pytest.mark.parametrize(
    "index",
    [
        (0,),
        (slice(1, 3), 2),
        (slice(None), slice(None), 5),
        (slice(None), slice(None), slice(20, 3, -4), slice(2, 9, 3)),
        (np.array([2, 0]), slice(None), slice(0, 2), -1),
        (slice(2, 2),),
        (np.array([True, False, True]), [3, 1]),
    ],
)
def test_an_index_means_what_it_means_for_an_array(index: tuple[object, ...]) -> None:
    maps = maps_of(random_call())
    expected = maps[:]
    for axis in reversed(range(len(index))):
        expected = expected[(slice(None),) * axis + (index[axis],)]
    np.testing.assert_array_equal(maps[index], expected)


def test_only_what_is_indexed_is_read() -> None:
    maps = maps_of(random_call())
    lazy = da.from_array(maps, chunks=(1, 4, 24, 24), meta=np.empty((0,) * 4, np.float16))
    one = lazy[1, 2, 7].compute()
    arrays = maps.factors
    assert arrays["query_factor"].read == [(1, 1, 1, 8)]
    assert arrays["key_factor"].read == [(1, 1, 24, 8)]
    np.testing.assert_array_equal(one, maps[1, 2, 7])


def test_downstream_code_cannot_tell_factors_from_maps(
    latents: MakeLatents, capture: Capture, model_json: Path, tmp_path: Path
) -> None:
    path = latents()
    stored, computed = open_attention(capture(path)), open_attention(keep(path, model_json, tmp_path, factors=3))
    assert list(stored.children) == list(computed.children)
    for name, site in stored.children.items():
        one, other = site["maps"], computed[name]["maps"]
        assert set(site.variables) == set(computed[name].variables)
        assert (one.dims, one.dtype, one.shape, one.attrs) == (other.dims, other.dtype, other.shape, other.attrs)
        assert isinstance(other.data, da.Array)
        xr.testing.assert_identical(one.coords.to_dataset(), other.coords.to_dataset())
        np.testing.assert_allclose(other.values, one.values, atol=MAP_ERROR)
        np.testing.assert_allclose(entropy(other.values), site["entropy"].values[:3], atol=ENTROPY_ERROR)
        np.testing.assert_array_equal(other.sel(kept_sample=1, timestep=700)[2, 3], other.values[1, 1, 2, 3])


def test_stored_maps_go_before_computed_ones_and_factors_fill_the_rest(
    latents: MakeLatents, model_json: Path, tmp_path: Path
) -> None:
    path = latents()
    stored = open_attention(keep(path, model_json, tmp_path, maps=4))
    computed = open_attention(keep(path, model_json, tmp_path, factors=4))
    both = open_attention(keep(path, model_json, tmp_path, maps=2, factors=4))
    assert list(both.children) == list(stored.children) != []
    for name, site in both.children.items():
        assert site["kept_sample"].values.tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(site["maps"][:2], stored[name]["maps"][:2])
        np.testing.assert_array_equal(site["maps"][2:], computed[name]["maps"][2:])


def test_timesteps_of_maps_and_factors_complete_each_other(
    latents: MakeLatents, model_json: Path, tmp_path: Path
) -> None:
    path = latents()
    stored = open_attention(keep(path, model_json, tmp_path, maps=3))["up0.0.self"]["maps"]
    computed = open_attention(keep(path, model_json, tmp_path, factors=3))["up0.0.self"]["maps"]
    narrowed = {"maps_of": {"timesteps": [700]}, "factors_of": {"timesteps": [100]}}
    both = open_attention(keep(path, model_json, tmp_path, maps=3, factors=2, **narrowed))["up0.0.self"]["maps"]
    np.testing.assert_array_equal(both.sel(timestep=700), stored.sel(timestep=700))
    np.testing.assert_array_equal(both.sel(timestep=100)[:2], computed.sel(timestep=100)[:2])
    assert np.isnan(both.sel(timestep=100)[2]).all()


def test_shards_with_maps_and_shards_with_factors_join(latents: MakeLatents, model_json: Path, tmp_path: Path) -> None:
    one = keep(latents(range(4)), model_json, tmp_path, maps=2)
    other = keep(latents(range(4, 6)), model_json, tmp_path, factors=1)
    maps = open_attention([other, one])["up0.0.cross"]["maps"]
    assert maps["kept_sample"].values.tolist() == [0, 1, 4]
    assert np.isfinite(maps.values).all()


def keep(path: Path, model_json: Path, root: Path, *, maps: int = 0, factors: int = 0, **narrowed: object) -> Path:
    """Capture with these numbers of samples whose maps and factors are kept."""
    output = root / f"{path.stem}-{maps}-{factors}-{len(narrowed)}.zarr.zip"
    config = CaptureConfig.model_validate({"keep_maps": maps, "keep_factors": factors, **narrowed})
    capture_attention(path, model_json, output, capture=config, runtime=RUNTIME)
    return output
