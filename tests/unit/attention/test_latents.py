"""The noised images: the forward process, paired noise, conditions, and one-line answers to what does not fit."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMScheduler
from tiny_captures import ATTRIBUTES, write_dataset

from diffmech.attention.latents import alphas_cumprod, diffuse, make_latents, scheduler_alphas
from diffmech.attention.passes import open_latents
from diffmech.config.study import LatentsConfig
from diffmech.data.store import open_dataset
from diffmech.errors import ConfigError, DiffmechError, ModelError, StoreError
from diffmech.testing import assert_same_up_to_rounding

MakeLatents = Callable[..., Path]


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_abar_equals_that_of_the_diffusers_scheduler(schedule: str) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=400, beta_schedule=schedule, beta_end=0.03)
    assert_same_up_to_rounding(alphas_cumprod(dict(scheduler.config)), scheduler.alphas_cumprod)


def test_rescaled_betas_leave_no_signal_at_the_last_timestep() -> None:
    alphas = alphas_cumprod({"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True})
    assert alphas[-1] < 1e-6


def test_noised_images_obey_the_forward_process(latents: MakeLatents, dataset: Path, model_json: Path) -> None:
    passes = open_latents(latents())
    x_0 = open_dataset(dataset).images(range(6))
    alphas = scheduler_alphas(model_json)
    for column, timestep in enumerate(passes.timesteps):
        x_t, eps = passes.x_t[:, column].values, passes.noise[:, column].values
        expected = np.sqrt(alphas[timestep]) * x_0 + np.sqrt(1 - alphas[timestep]) * eps
        assert_same_up_to_rounding(x_t, expected, roundings=8)


def test_all_signal_is_the_image_and_none_is_the_noise() -> None:
    x_0, eps = np.ones((2, 1, 4, 4), np.float32), np.full((2, 1, 4, 4), 3, np.float32)
    np.testing.assert_array_equal(diffuse(x_0, eps, 1.0), x_0)
    np.testing.assert_array_equal(diffuse(x_0, eps, 0.0), eps)


def test_noise_of_a_sample_is_the_same_when_the_study_grows(latents: MakeLatents) -> None:
    small = open_latents(latents(range(2, 4), (700,)))
    grown = open_latents(latents(range(0, 9), (50, 100, 700)))
    for name in ("noise", "x_t"):
        of_small = getattr(small, name).sel(sample=3, timestep=700).values
        np.testing.assert_array_equal(of_small, getattr(grown, name).sel(sample=3, timestep=700).values)


def test_two_data_sets_share_the_noise_of_a_sample_id(latents: MakeLatents, model_json: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other.zarr.zip", 3)
    output = tmp_path / "other-latents.zarr.zip"
    make_latents(
        other, model_json, output, domain="real", timesteps=[100], sample_ids=[0, 2], latents=LatentsConfig(seed=0)
    )
    theirs = open_latents(output).noise.sel(sample=2, timestep=100)
    ours = open_latents(latents()).noise.sel(sample=2, timestep=100)
    np.testing.assert_array_equal(theirs.values, ours.values)


def test_other_samples_timesteps_and_seeds_have_other_noise(latents: MakeLatents) -> None:
    passes, reseeded = open_latents(latents()), open_latents(latents(seed=1))
    noise = passes.noise.values
    draws = [noise[0, 0], noise[1, 0], noise[0, 1], reseeded.noise.values[0, 0]]
    correlation = np.corrcoef([draw.ravel() for draw in draws])
    assert np.abs(correlation - np.eye(4)).max() < 0.3  # 256 pixels: standard error 0.06


def test_the_condition_is_in_the_models_order_and_unknown_where_the_data_set_is_silent(
    latents: MakeLatents, dataset: Path
) -> None:
    passes = open_latents(latents())
    values = open_dataset(dataset).attribute_values(range(6))
    assert ATTRIBUTES == ["glasses", "smile"]
    assert np.isnan(passes.given["condition"].values[:, 0]).all()
    np.testing.assert_array_equal(passes.given["condition"].values[:, 1], values[:, 1])
    np.testing.assert_array_equal(passes.given["domain"].values, 1)


def test_the_null_condition_says_nothing(dataset: Path, model_json: Path, tmp_path: Path) -> None:
    output = tmp_path / "null.zarr.zip"
    config = LatentsConfig(condition="null")
    make_latents(dataset, model_json, output, domain="real", timesteps=[5], sample_ids=[0, 1], latents=config)
    passes = open_latents(output)
    assert np.isnan(passes.given["condition"].values).all()
    np.testing.assert_array_equal(passes.given["domain"].values, -1)


def test_a_domain_the_model_does_not_know_is_left_open_and_noted(
    dataset: Path, model_json: Path, tmp_path: Path
) -> None:
    output = tmp_path / "foreign.zarr.zip"
    make_latents(
        dataset, model_json, output, domain="paintings", timesteps=[5], sample_ids=[0], latents=LatentsConfig()
    )
    passes = open_latents(output)
    assert passes.given["domain"].values.tolist() == [-1]
    assert "paintings is not a domain of the model" in passes.attrs["domain_note"]


def test_a_small_data_set_gives_what_it_has(latents: MakeLatents) -> None:
    assert open_latents(latents(range(8, 20))).samples.tolist() == [8, 9]
    assert len(open_latents(latents(range(20, 30))).samples) == 0


def test_equal_inputs_give_equal_bytes(latents: MakeLatents) -> None:
    assert latents(folder="a").read_bytes() == latents(folder="b").read_bytes()


def test_a_timestep_beyond_the_schedule_is_one_line(latents: MakeLatents) -> None:
    with pytest.raises(
        ConfigError, match=r"^capture\.timesteps\[1\]: 1200 is not below the scheduler's 1000 steps"
    ) as e:
        latents(range(2), (100, 1200))
    _is_one_line(e.value)


def test_images_of_another_shape_are_one_line(model_json: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "large.zarr.zip", 3, shape=(3, 32, 32))
    expected = re.escape("images are (3, 32, 32) (channel, y, x), but the model takes (1, 16, 16)")
    output = tmp_path / "out.zarr.zip"
    with pytest.raises(ModelError, match=expected) as e:
        make_latents(other, model_json, output, domain="real", timesteps=[5], sample_ids=[0], latents=LatentsConfig())
    _is_one_line(e.value)
    assert not output.exists()


def test_a_model_without_scheduler_is_one_line(model_json: Path, tmp_path: Path) -> None:
    bare = tmp_path / "model.json"
    bare.write_text(json.dumps(json.loads(model_json.read_text()) | {"location": "."}))
    with pytest.raises(ModelError, match=r"in scheduler/ or .*; add the one of the pipeline it was trained in") as e:
        scheduler_alphas(bare)
    _is_one_line(e.value)


def test_a_data_set_is_not_a_latents_store(dataset: Path) -> None:
    with pytest.raises(StoreError, match="is not a latents store") as e:
        open_latents(dataset)
    _is_one_line(e.value)


def _is_one_line(error: DiffmechError) -> None:
    assert "\n" not in str(error)
