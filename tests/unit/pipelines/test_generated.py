"""Images generated from prompts, and the latents on which their denoiser is observed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import PIPELINE_PROMPTS, PIPELINE_RUNTIME, PIPELINE_SAMPLING

from diffmech.artifacts import open_store, read_json
from diffmech.attention.capture import capture_attention
from diffmech.attention.generated import generate_images, generated_latents, noised
from diffmech.attention.latents import alphas_cumprod
from diffmech.attention.passes import open_latents
from diffmech.attention.store import conditional, open_attention
from diffmech.config.images import ImagesConfig, Prompts
from diffmech.config.models import DenoiserConfig
from diffmech.config.study import CaptureConfig, LatentsConfig
from diffmech.data.prompts import prompt_of, read_prompts
from diffmech.errors import ConfigError, DataError, ModelError
from diffmech.interventions.replay import open_latent_files
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.pipelines import load_pipeline
from diffmech.models.prompted import PromptCondition
from diffmech.models.recording import record_sampling
from diffmech.testing import ROUNDINGS_OF_MANY_PASSES, assert_same_up_to_rounding

TIMESTEPS = [100, 300, 700]


def make(generated: Path, model: Path, folder: Path, **settings: Any) -> Path:
    output = folder / "latents.zarr.zip"
    timesteps = settings.pop("timesteps", TIMESTEPS)
    generated_latents(
        generated,
        model,
        output,
        dataset="faces",
        domain="photo",
        timesteps=timesteps,
        among=settings.pop("among", timesteps),
        sample_ids=range(10),
        latents=LatentsConfig(**settings),
    )
    return output


def test_a_sample_does_not_depend_on_what_else_is_generated(
    pipeline_json: Path, generated: Path, tmp_path: Path
) -> None:
    output = tmp_path / "some.zarr.zip"
    generate_images(
        pipeline_json,
        output,
        prompts=PIPELINE_PROMPTS,
        sampling=PIPELINE_SAMPLING,
        size=16,
        sample_ids=[3, 4],
        runtime=PIPELINE_RUNTIME,
    )
    some, every = open_store(output).to_dataset(), open_store(generated).to_dataset()
    assert some["prompt"].values.tolist() == ["a photo of a face", "a drawing of a hat"]
    assert_same_up_to_rounding(some["clean"], every["clean"].sel(sample=[3, 4]), roundings=ROUNDINGS_OF_MANY_PASSES)
    assert np.abs(every["clean"][0] - every["clean"][3]).max() > 0.1  # one prompt, other noise


def test_images_that_are_none_are_never_stored(
    pipeline_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record_sampling

    def broken(*given: Any, **settings: Any) -> Any:
        recording = recorded(*given, **settings)
        return replace(recording, clean=recording.clean * torch.nan)

    monkeypatch.setattr("diffmech.attention.generated.record_sampling", broken)
    with pytest.raises(ModelError, match=r"generated images are NaN or infinite; give models\.<name>\.dtype"):
        generate_images(
            pipeline_json,
            tmp_path / "x.zarr.zip",
            prompts=PIPELINE_PROMPTS,
            sampling=PIPELINE_SAMPLING,
            size=16,
            sample_ids=[0],
            runtime=PIPELINE_RUNTIME,
        )
    assert not (tmp_path / "x.zarr.zip").exists()


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample", "velocity"])
def test_noised_latents_and_their_target_give_the_clean_ones_back(target: str) -> None:
    alphas = None if target == "velocity" else alphas_cumprod({"beta_schedule": "linear"})
    clean, eps = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    x_t, predicted = noised(clean, eps, 400, alphas=alphas, target=target, steps=1000)
    if alphas is None:
        back = x_t - 0.4 * predicted  # x_0 = x_t - sigma v
    else:
        a = alphas[400]
        back = {
            "epsilon": lambda: (x_t - np.sqrt(1 - a) * predicted) / np.sqrt(a),
            "v_prediction": lambda: np.sqrt(a) * x_t - np.sqrt(1 - a) * predicted,
            "sample": lambda: predicted,
        }[target]()
    assert_same_up_to_rounding(back, clean)


def test_noised_latents_hold_what_the_denoiser_needs(generated: Path, pipeline_json: Path, tmp_path: Path) -> None:
    latents = open_latents(make(generated, pipeline_json, tmp_path))
    assert latents.timesteps.tolist() == TIMESTEPS
    assert latents.guidance == ("conditional", "unconditional")
    assert latents.noise is not None
    condition = latents.condition(slice(0, 2), 1, "cpu")
    assert isinstance(condition, PromptCondition)
    assert condition.timestep == 300.0
    of_nothing = latents.condition(slice(0, 2), 1, "cpu", branch=1)
    assert isinstance(of_nothing, PromptCondition)
    states = "encoder_hidden_states"
    assert not torch.equal(condition.rows_of[states], of_nothing.rows_of[states])
    assert_same_up_to_rounding(of_nothing.rows_of[states][0], of_nothing.rows_of[states][1])


def test_a_trajectory_keeps_the_steps_that_were_taken(generated: Path, pipeline_json: Path, tmp_path: Path) -> None:
    path = make(generated, pipeline_json, tmp_path, kind="trajectory")
    latents, store = open_latents(path), open_store(generated).to_dataset()
    assert store["scheduler_timestep"].values.tolist() == [751.0, 501.0, 251.0, 1.0]
    assert latents.timesteps.tolist() == [1, 251, 751]
    assert latents.noise is None
    np.testing.assert_array_equal(latents.x_t[:, 2], store["x_t"][0])
    np.testing.assert_array_equal(latents.x_t[:, 0], store["x_t"][3])
    files = open_latent_files([path])
    assert files.nearest([300, 700]) == [251, 751]
    passes = files.read(251, [4, 1])
    np.testing.assert_array_equal(passes.x_t, store["x_t"].values[2][[4, 1]])
    assert passes.noise is None


def test_two_timesteps_on_one_sampling_step_are_refused(generated: Path, pipeline_json: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"300 and 310 both fall on the sampling step at timestep 251 .* 4 steps"):
        make(generated, pipeline_json, tmp_path, kind="trajectory", timesteps=[310], among=[300, 310])


def test_a_timestep_beyond_the_schedule_is_refused(generated: Path, pipeline_json: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1200 is not below the scheduler's 1000 steps"):
        make(generated, pipeline_json, tmp_path, timesteps=[1200])


def test_guidance_is_a_dimension_of_the_capture(generated: Path, pipeline_json: Path, tmp_path: Path) -> None:
    output = tmp_path / "attention.zarr.zip"
    capture_attention(
        make(generated, pipeline_json, tmp_path),
        pipeline_json,
        output,
        capture=CaptureConfig(timesteps=TIMESTEPS, keep_maps=2),
        runtime=PIPELINE_RUNTIME,
    )
    tree = open_attention(output)
    site = tree["down0.0.cross"].to_dataset(inherit=True)
    assert site["entropy"].dims == ("guidance", "sample", "timestep", "head")
    assert site["maps"].dims == ("guidance", "kept_sample", "timestep", "head", "query", "key")
    assert tree["guidance"].values.tolist() == ["conditional", "unconditional"]
    assert site["token"].sel(sample=1).values[:6].tolist() == ["<|startoftext|>", "a", "drawing", "of", "a", "hat"]
    assert tree["prompt"].values.tolist()[1] == "a drawing of a hat"
    maps = site["maps"].astype(np.float64)
    np.testing.assert_allclose(maps.sum("key"), 1, atol=5e-3)
    entropy = -(maps * np.log(maps.where(maps > 0, 1))).sum("key").mean("query")
    np.testing.assert_allclose(entropy, site["entropy"].isel(sample=slice(0, 2)), atol=5e-3)
    with_text, without = (site["maps"].sel(guidance=branch).values for branch in ("conditional", "unconditional"))
    assert np.abs(with_text.astype(np.float32) - without).max() > 1e-3
    # the unconditional pass knows no prompt, so its keys are the same for all samples
    assert conditional(tree)["down0.0.cross"]["entropy"].dims == ("sample", "timestep", "head")
    assert np.isfinite(tree["loss"].values).all()


def test_the_loss_of_a_trajectory_is_unknown(generated: Path, pipeline_json: Path, tmp_path: Path) -> None:
    output = tmp_path / "attention.zarr.zip"
    capture_attention(
        make(generated, pipeline_json, tmp_path, kind="trajectory", timesteps=[300], among=[300]),
        pipeline_json,
        output,
        capture=CaptureConfig(timesteps=[300]),
        runtime=PIPELINE_RUNTIME,
    )
    assert np.isnan(open_attention(output)["loss"].values).all()


def test_the_null_condition_is_the_unconditional_pass(generated: Path, pipeline_json: Path, tmp_path: Path) -> None:
    full = open_latents(make(generated, pipeline_json, tmp_path))
    null = open_latents(make(generated, pipeline_json, tmp_path, condition="null"))
    assert null.guidance == ("unconditional",)
    theirs, ours = null.condition(slice(0, 1), 0, "cpu"), full.condition(slice(0, 1), 0, "cpu", branch=1)
    assert isinstance(theirs, PromptCondition)
    assert isinstance(ours, PromptCondition)
    assert torch.equal(theirs.rows_of["encoder_hidden_states"], ours.rows_of["encoder_hidden_states"])


def test_the_null_condition_needs_guidance(pipeline_json: Path, tmp_path: Path) -> None:
    unguided = tmp_path / "unguided.zarr.zip"
    generate_images(
        pipeline_json,
        unguided,
        prompts=PIPELINE_PROMPTS,
        sampling=PIPELINE_SAMPLING.model_copy(update={"guidance": 1.0}),
        size=16,
        sample_ids=[0],
        runtime=PIPELINE_RUNTIME,
    )
    with pytest.raises(
        ConfigError, match=r"null needs the unconditional pass of guidance; set sampling.guidance above 1"
    ):
        make(unguided, pipeline_json, tmp_path, condition="null")


def test_an_untrained_pipeline_has_other_weights_of_the_same_shape(pipeline_json: Path) -> None:
    trained = load_denoiser(pipeline_json, device="cpu").module.state_dict()
    fresh = load_denoiser(pipeline_json, device="cpu", untrained_seed=3).module.state_dict()
    again = load_denoiser(pipeline_json, device="cpu", untrained_seed=3).module.state_dict()
    assert {name: values.shape for name, values in trained.items()} == {n: v.shape for n, v in fresh.items()}
    assert not torch.equal(trained["conv_in.weight"], fresh["conv_in.weight"])
    assert torch.equal(again["conv_in.weight"], fresh["conv_in.weight"])


def test_weights_that_changed_are_noticed(pipeline_json: Path) -> None:
    pointer = read_json(pipeline_json)
    assert pointer["prediction_type"] == "epsilon"
    other = pipeline_json.with_name("other.json")  # beside it, since it names its directory relative to itself
    other.write_text(pipeline_json.read_text().replace(pointer["sha256"], "0" * 64))
    with pytest.raises(ModelError, match="the weights changed"):
        load_denoiser(other)


@pytest.mark.parametrize(
    "file",
    ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model", "tokenizer/tokenizer.json"],
)
def test_a_byte_that_changed_in_any_part_is_noticed(pipeline_folder: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(pipeline_folder, tmp_path / "sd"))
    model_json = tmp_path / "model.json"
    config = DenoiserConfig(source="pipeline", location=str(folder))
    import_denoiser(config, model_json, root=tmp_path, images=ImagesConfig(size=16, channels=3))
    load_pipeline(model_json, scheduler=None, device="cpu")
    changed = folder / file if file.endswith(".json") else folder / f"{file}.safetensors"
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1
    changed.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{changed.parent}: (the weights|a file) changed .*delete {model_json}"):
        load_pipeline(model_json, scheduler=None, device="cpu")


def test_the_list_of_parts_is_checked_and_what_is_not_read_may_come(pipeline_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pipeline_folder, tmp_path / "sd"))
    model_json, config = tmp_path / "model.json", DenoiserConfig(source="pipeline", location=str(folder))
    import_denoiser(config, model_json, root=tmp_path, images=ImagesConfig(size=16, channels=3))
    shutil.copyfile(folder / "text_encoder/model.safetensors", folder / "text_encoder/model.fp16.safetensors")
    (folder / "vae" / "more.json").mkdir()
    load_pipeline(model_json, scheduler=None, device="cpu")
    rewritten(folder / "model_index.json", requires_safety_checker=True)
    with pytest.raises(ModelError, match=r"model_index\.json changed"):
        load_pipeline(model_json, scheduler=None, device="cpu")
    weights = folder / "text_encoder/model.safetensors"
    weights.unlink()
    weights.symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match=r"model\.safetensors: is a link to a file that is gone"):
        import_denoiser(config, model_json, root=tmp_path, images=ImagesConfig(size=16, channels=3))


def test_a_directory_that_is_no_pipeline_says_so(pipeline_folder: Path, tmp_path: Path) -> None:
    config = DenoiserConfig(source="pipeline", location=str(pipeline_folder / "unet"))
    with pytest.raises(ModelError, match=r"no model_index.json; expected the directory of a whole diffusers pipeline"):
        import_denoiser(config, tmp_path / "model.json", root=tmp_path)


def rewritten(file: Path, **change: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


# what is done to the directory of a pipeline -> the answer
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "another version": (
        lambda folder: rewritten(folder / "model_index.json", _class_name="DreamPipeline"),
        r"its pipeline DreamPipeline is not in diffusers .*; install the version it was made for",
    ),
    "no prompts": (
        lambda folder: rewritten(folder / "model_index.json", _class_name="DDPMPipeline"),
        "DDPMPipeline takes neither prompts nor class labels; expected a pipeline that generates",
    ),
    "an image to start from": (
        lambda folder: rewritten(folder / "model_index.json", _class_name="StableDiffusionImg2ImgPipeline"),
        "StableDiffusionImg2ImgPipeline needs an image to start from; expected one that goes from text to image",
    ),
    "another network": (
        lambda folder: rewritten(folder / "unet" / "config.json", _class_name="DreamNet"),
        r"unet: DreamNet is not in diffusers .*; install the version it needs",
    ),
    "damaged weights": (
        lambda folder: next((folder / "unet").glob("*.safetensors")).write_bytes(b"damaged"),
        r"unet: the weights cannot be read \(.*\); get the directory again",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_pipeline_that_cannot_be_imported_says_why(kind: str, pipeline_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline_folder, tmp_path / "copy")
    breaks, message = BROKEN[kind]
    breaks(folder)
    config = DenoiserConfig(source="pipeline", location=str(folder))
    with pytest.raises(ModelError, match=f"^{folder}.*{message}") as caught:
        import_denoiser(config, tmp_path / "model.json", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_that_went_after_the_import_are_named(pipeline_folder: Path, pipeline_json: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(pipeline_folder, tmp_path / "copy")
    pointer = read_json(pipeline_json) | {"location": str(folder)}
    (tmp_path / "model.json").write_text(json.dumps(pointer))
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(
        ModelError, match=r"copy: the pipeline StableDiffusionPipeline cannot be loaded \(.*\); text encoders need"
    ):
        load_pipeline(tmp_path / "model.json", scheduler=None, device="cpu")
    next((folder / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"unet: no weights \(.*\); get the whole directory again"):
        load_denoiser(tmp_path / "model.json", device="cpu")
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=r"unet: no weights"):
        load_denoiser(tmp_path / "model.json", device="cpu")


def test_prompts_take_turns_and_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a face\n\n  a hat \n")
    prompts = read_prompts(Prompts(kind="prompts", file=str(file)))
    assert prompts == ["a face", "a hat"]
    assert [prompt_of(prompts, sample) for sample in range(3)] == ["a face", "a hat", "a face"]
    with pytest.raises(
        DataError, match=r"missing.txt: cannot be read \(No .*\); give a text file with one prompt per line"
    ):
        read_prompts(Prompts(kind="prompts", file=str(tmp_path / "missing.txt")))
    file.write_text("\n")
    with pytest.raises(DataError, match="holds no prompt; write one per line"):
        read_prompts(Prompts(kind="prompts", file=str(file)))
