"""Captured attention is that of the model: untouched outputs, exact statistics, independence of batches and shards."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_captures import ENTROPY_ERROR, RUNTIME, Capture

from diffmech.attention.calls import AttentionCall
from diffmech.attention.capture import capture_attention, observing, survey_sites
from diffmech.attention.keeping import attention_maps
from diffmech.attention.passes import open_latents
from diffmech.attention.sites import AttentionSite
from diffmech.attention.statistics import StatisticsObserver
from diffmech.attention.store import heads_in_order, open_attention
from diffmech.attention.tap import AttentionTap
from diffmech.config.study import CaptureConfig
from diffmech.errors import ModelError, StoreError
from diffmech.models.load import load_denoiser
from diffmech.testing import assert_same_up_to_rounding

MakeLatents = Callable[..., Path]


def test_observing_leaves_the_prediction_bit_identical(latents: MakeLatents, model_json: Path) -> None:
    passes, denoiser = open_latents(latents()), load_denoiser(model_json, device="cpu")
    x_t = torch.from_numpy(passes.x_t[:, 0].values)
    condition = passes.condition(slice(0, 6), 0, denoiser.device)
    with torch.no_grad():
        plain = denoiser.predict_noise(x_t, 100, condition)
    predictions = []
    original = type(denoiser).predict_noise

    def recording(self: object, *args: object) -> torch.Tensor:
        predictions.append(original(self, *args))
        return predictions[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(denoiser), "predict_noise", recording)
        layouts = survey_sites(denoiser, passes)
        predictions.clear()
        with observing(denoiser, layouts) as observe:
            observe(lambda site, found: None, x_t, torch.zeros_like(x_t), 100, condition)
    assert len(predictions) == 1
    assert torch.equal(predictions[0], plain)


def test_the_loss_is_the_mean_squared_error_of_the_predicted_noise(
    latents: MakeLatents, capture: Capture, model_json: Path
) -> None:
    path = latents()
    passes, denoiser = open_latents(path), load_denoiser(model_json, device="cpu")
    loss = open_attention(capture(path))["loss"]
    for column, timestep in enumerate(passes.timesteps.tolist()):
        condition = passes.condition(slice(0, 6), 0, denoiser.device)
        with torch.no_grad():
            prediction = denoiser.predict_noise(torch.from_numpy(passes.x_t[:, column].values), timestep, condition)
        expected = ((prediction.numpy() - passes.noise[:, column].values) ** 2).mean((1, 2, 3))
        assert_same_up_to_rounding(loss.sel(timestep=timestep), expected)


def test_stored_maps_are_the_softmax_of_the_models_own_scores(
    latents: MakeLatents, capture: Capture, model_json: Path
) -> None:
    path = latents()
    passes, denoiser = open_latents(path), load_denoiser(model_json, device="cpu")
    tree = open_attention(capture(path))
    expected = {}

    def softmax(call: AttentionCall) -> None:
        expected[call.site.name] = (call.query @ call.key.mT * call.scale).softmax(-1)

    with torch.no_grad(), AttentionTap(denoiser.module, [softmax]):
        condition = passes.condition(slice(0, 3), 0, denoiser.device)
        denoiser.predict_noise(torch.from_numpy(passes.x_t[:3, 1].values), 700, condition)
    assert list(tree.children) == list(expected)
    for site, maps in expected.items():
        stored = tree[site]["maps"].sel(timestep=700)
        assert stored.dims == ("kept_sample", "head", "query", "key")
        assert_same_up_to_rounding(stored, maps, dtype="float16", roundings=1)


def test_entropy_of_the_stored_maps_is_the_stored_entropy(latents: MakeLatents, capture: Capture) -> None:
    tree = open_attention(capture(latents()))
    assert len(tree.children) > 1
    for site in tree.children.values():
        p = site["maps"].values.astype(np.float64)
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1).mean(-1)
        np.testing.assert_allclose(entropy, site["entropy"].values[:3], atol=ENTROPY_ERROR)
        assert entropy.min() < 0.95 * site.attrs["h_max"]  # not the trivial case of uniform attention


def test_received_attention_is_the_mean_column_of_the_maps(latents: MakeLatents, capture: Capture) -> None:
    tree = open_attention(capture(latents()))
    assert len(tree.children) > 1
    for site in tree.children.values():
        columns = site["maps"].values.astype(np.float64).mean(-2) * site.attrs["n_keys"]
        assert_same_up_to_rounding(columns, site["received"][:3], dtype="float16", roundings=2)


def test_maps_respect_a_mask_of_each_sample() -> None:
    rng = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, 2, 5, 4, generator=rng) for _ in range(2))
    mask = torch.zeros(3, 1, 5, 5)
    mask[1, :, :, 2] = -torch.inf
    site = AttentionSite("mid.0.self", "mid", "self", 2)
    call = AttentionCall(site, query, key, key, query, None, 0.5, mask, False)
    expected = (query @ key.mT * 0.5 + mask).softmax(-1)
    assert_same_up_to_rounding(attention_maps(call), expected, dtype="float16", roundings=1)
    assert_same_up_to_rounding(attention_maps(call, slice(1, 3)), expected[1:], dtype="float16", roundings=1)
    assert (attention_maps(call, slice(1, 2))[..., 2] == 0).all()


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_batch_size_does_not_change_the_results(latents: MakeLatents, capture: Capture, batch_size: int) -> None:
    path = latents()
    one, other = open_attention(capture(path)), open_attention(capture(path, str(batch_size), batch_size=batch_size))
    _assert_same(one, other)


def test_two_shards_together_equal_one(latents: MakeLatents, capture: Capture) -> None:
    parts = [capture(latents(samples), keep_maps=0) for samples in (range(4, 6), range(0, 4))]
    _assert_same(open_attention(capture(latents())).map_over_datasets(_without_maps), open_attention(parts))


def test_small_chunks_change_nothing(latents: MakeLatents, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = latents()
    one = open_attention(capture(path))
    # Five samples fit into a chunk, which has four; for maps one sample, head and few queries: no chunk is a batch.
    monkeypatch.setattr("diffmech.attention.layout.CHUNK_BYTES", 5 * 4 * 64 * 2)
    other = open_attention(capture(path, "small", batch_size=3))
    assert other["down1.0.self"]["entropy"].chunks[0] == (4, 2)
    assert other["down1.0.self"]["maps"].data.chunksize == (1, 1, 1, 16, 64)
    _assert_same(one, other)


def test_what_a_site_found_is_written_before_the_next_one_runs(
    latents: MakeLatents, model_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []

    @contextmanager
    def recording() -> Iterator[object]:
        yield lambda array, region, values: events.append(("write", array.path.rpartition("/")[0]))

    def observe(collector: StatisticsObserver, call: AttentionCall) -> None:
        events.append(("run", call.site.name))
        original(collector, call)

    original = StatisticsObserver.observe
    monkeypatch.setattr("diffmech.attention.capture.writing", recording)
    monkeypatch.setattr(StatisticsObserver, "observe", observe)
    runtime = RUNTIME.model_copy(update={"batch_size": 6})
    path = latents(timesteps=(100,))
    capture_attention(path, model_json, tmp_path / "a.zarr.zip", capture=CaptureConfig(keep_maps=0), runtime=runtime)
    sites = [site for event, site in events if event == "run"]
    assert len(sites) == len(set(sites)) > 1
    expected = [event for site in sites for event in (("run", site), ("write", site))]
    assert list(dict.fromkeys(events)) == [*expected, ("write", "")]


def test_a_shard_beyond_the_end_of_the_data_set_is_empty(latents: MakeLatents, capture: Capture) -> None:
    full, empty = capture(latents(range(6, 12)), keep_maps=0), capture(latents(range(12, 18)), keep_maps=0)
    tree = open_attention([full, empty])
    assert tree["sample"].values.tolist() == [6, 7, 8, 9]
    with pytest.raises(StoreError, match="holds no samples, like all 1 stores here"):
        open_attention(empty)
    assert list(heads_in_order([empty, full])) == tree.attrs["sites"]
    with pytest.raises(StoreError, match=r"no image was captured in .*; check the data set"):
        heads_in_order([empty])


def test_everything_needed_to_reproduce_a_store_is_in_it(latents: MakeLatents, capture: Capture) -> None:
    tree = open_attention(capture(latents(seed=3)))
    origin = json.loads(tree.attrs["provenance"])
    assert tree.attrs["seed"] == 3
    assert tree.attrs["domain"] == "synthetic"
    assert origin["rule"] == "capture_attention"
    everywhere = {"sites": ["*"], "max_queries": None, "timesteps": None}
    assert origin["parameters"] == {
        "keep_maps": 3,
        "keep_factors": 0,
        "maps_of": everywhere,
        "factors_of": everywhere,
        "untrained_seed": None,
    }
    assert {"diffmech", "torch", "diffusers"} <= origin["versions"].keys()
    assert origin["inputs"]["model"] == tree.attrs["model_sha256"]
    assert origin["latents"]["latents"]["seed"] == 3


def test_equal_inputs_give_equal_bytes(latents: MakeLatents, capture: Capture) -> None:
    assert capture(latents()).read_bytes() == capture(latents(), "again").read_bytes()


def test_activations_that_are_not_finite_are_one_line(latents: MakeLatents, model_json: Path, tmp_path: Path) -> None:
    def broken(*args: object, **kwargs: object) -> object:
        denoiser = load_denoiser(model_json, device="cpu")
        attention = denoiser.module.up_blocks[0].attentions[0].transformer_blocks[0].attn1
        attention.to_v.weight.fill_(torch.inf)
        return denoiser

    output = tmp_path / "out" / "a.zarr.zip"
    with pytest.raises(ModelError, match=r"^up0\.0\.self: .* is not finite at timestep 100") as e:
        capture_attention(latents(), model_json, output, capture=CaptureConfig(), runtime=RUNTIME, load=broken)
    assert "\n" not in str(e.value)
    assert list(output.parent.iterdir()) == []


def test_latents_of_another_model_are_refused(latents: MakeLatents, model_json: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.json"
    other.write_text(json.dumps(json.loads(model_json.read_text()) | {"sha256": "other"}))
    with pytest.raises(StoreError, match="was made for model"):
        capture_attention(latents(), other, tmp_path / "a.zarr.zip", capture=CaptureConfig(), runtime=RUNTIME)


def test_a_job_killed_in_the_middle_leaves_no_store(latents: MakeLatents, model_json: Path, tmp_path: Path) -> None:
    path, output = latents(), tmp_path / "out" / "a.zarr.zip"
    program = f"""
import itertools, os, signal
from diffmech.attention import capture
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import CaptureConfig
chunks, numbers = capture.ChunkResults, itertools.count()
def killed(*arguments):
    if next(numbers) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return chunks(*arguments)
capture.ChunkResults = killed
runtime = RuntimeConfig(progress=False, device="cpu")
capture.capture_attention({str(path)!r}, {str(model_json)!r}, {str(output)!r}, capture=CaptureConfig(), runtime=runtime)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    job = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert job.returncode == -signal.SIGKILL, job.stderr
    assert output.parent.is_dir()  # it had begun
    assert not output.exists()
    with pytest.raises(StoreError, match=r"no \*\.zarr\.zip"):
        open_attention(output.parent)


def _without_maps(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_vars(["maps", "kept_sample"], errors="ignore")


def _assert_same(one: xr.DataTree, other: xr.DataTree) -> None:
    """Compare every quantity of two trees; those kept in float16 to its own precision."""
    assert list(one.children) == list(other.children) != []
    assert_same_up_to_rounding(one["loss"], other["loss"])
    for name, site in one.children.items():
        assert set(site.data_vars) == set(other[name].data_vars) >= {"entropy", "received"}
        for variable, values in site.data_vars.items():
            again = other[name][variable]
            assert values.dims == again.dims
            if values.dtype == np.float16:
                assert_same_up_to_rounding(values, again, dtype="float16", roundings=2)  # once for each of the two
            else:  # position information is the difference of two entropies of some nats
                assert_same_up_to_rounding(values, again, scale=max(1, float(np.abs(again).max())))
