"""What a pipeline's denoiser is given is recorded exactly, and recording changes nothing."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from tiny_pipelines import PIPELINES, SCHEDULE, stable_diffusion, stable_diffusion_3

from diffmech.errors import ConfigError, ModelError
from diffmech.models.pipelines import SAMPLERS, fitting_scheduler
from diffmech.models.prompt_tokens import check_lengths, token_strings
from diffmech.models.prompted import PromptCondition, PromptedDenoiser, flatten, noised_argument, unflatten
from diffmech.models.recording import Recording, class_number, denoiser_of, record_sampling
from diffmech.testing import assert_same_up_to_rounding

PROMPTS = ["a photo of a face with glasses", "a drawing of a hat"]


def record(pipeline: Any, *, guidance: float = 4.0, steps: int = 3, prompts: list[str] | None = None) -> Recording:
    pipeline.set_progress_bar_config(disable=True)
    denoiser_of(pipeline).eval()  # as from_pretrained leaves it: DiT drops classes at random while it is trained
    classes = hasattr(pipeline, "get_label_ids")
    return record_sampling(
        pipeline,
        prompts or (["1", "2"] if classes else PROMPTS),
        negative_prompt="",
        seeds=[11, 12],
        steps=steps,
        guidance=guidance,
        size=16,
    )


def prompted(pipeline: Any) -> PromptedDenoiser:
    module = denoiser_of(pipeline).eval()
    return PromptedDenoiser(
        module, dict(pipeline.scheduler.config), (3, 16, 16), sample_argument=noised_argument(module)
    )


def condition_of(recording: Recording, step: int, branch: int) -> PromptCondition:
    return PromptCondition(
        {name: values[branch] for name, values in recording.rows_of.items()},
        recording.shared,
        2,
        float(recording.inputs[step]),
        recording.timestep_per_row,
    )


@pytest.mark.parametrize("family", PIPELINES)
def test_a_recorded_pass_repeats_what_the_pipeline_computed(family: str, tmp_path: Path) -> None:
    pipeline = PIPELINES[family](tmp_path)
    outputs: list[torch.Tensor] = []
    hook = denoiser_of(pipeline).register_forward_hook(lambda module, args, output: outputs.append(output[0].clone()))
    recording = record(pipeline)
    hook.remove()
    denoiser, step = prompted(pipeline), 1
    # with guidance the halves of one batch are the branches; diffusers puts the conditional one first in DiT alone
    order = [0, 1] if family == "dit" else [1, 0]
    for branch in range(len(recording.branches)):
        with torch.no_grad():
            again = denoiser.predict_noise(recording.x_t[step], 0, condition_of(recording, step, branch))
        half = order[branch] if len(recording.branches) == 2 else 0
        theirs = outputs[step][2 * half : 2 * half + 2]
        assert_same_up_to_rounding(again, theirs[:, : again.shape[1]])


@pytest.mark.parametrize("family", ["stable_diffusion", "flux"])
def test_recording_does_not_change_the_images(family: str, tmp_path: Path) -> None:
    pipeline = PIPELINES[family](tmp_path)
    recording = record(pipeline)
    alone = pipeline(
        PROMPTS,
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (11, 12)],
        height=16,
        width=16,
        output_type="np",
        **({"negative_prompt": ["", ""]} if family == "stable_diffusion" else {}),
    ).images
    np.testing.assert_array_equal(recording.images, np.moveaxis(np.asarray(alone), -1, 1) * 2 - 1)
    assert not denoiser_of(pipeline)._forward_pre_hooks
    assert "step" not in vars(pipeline.scheduler)


def test_an_exception_while_sampling_leaves_the_pipeline_as_it_was(tmp_path: Path) -> None:
    pipeline = stable_diffusion(tmp_path)

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    hook = pipeline.unet.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        record(pipeline)
    hook.remove()
    assert not pipeline.unet._forward_pre_hooks
    assert "step" not in vars(pipeline.scheduler)


def test_the_conditional_branch_is_that_of_the_prompt(tmp_path: Path) -> None:
    pipeline = stable_diffusion(tmp_path)
    recording = record(pipeline)
    of_prompt, of_nothing = pipeline.encode_prompt(PROMPTS, "cpu", 1, True, ["", ""])
    assert recording.branches == ("conditional", "unconditional")
    states = recording.rows_of["encoder_hidden_states"]
    assert_same_up_to_rounding(states[0], of_prompt)
    assert_same_up_to_rounding(states[1], of_nothing)


def test_without_guidance_there_is_one_branch(tmp_path: Path) -> None:
    assert record(stable_diffusion(tmp_path), guidance=1.0).branches == ("conditional",)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmsolver++", "euler"])
def test_every_sampler_is_recorded_step_by_step(name: str, tmp_path: Path) -> None:
    pipeline = stable_diffusion(tmp_path)
    pipeline.scheduler = fitting_scheduler(pipeline.scheduler, name, "here")
    assert type(pipeline.scheduler).__name__ == SAMPLERS[name]
    recording = record(pipeline, steps=4)
    pipeline.scheduler.set_timesteps(4)
    np.testing.assert_allclose(recording.timesteps, pipeline.scheduler.timesteps.numpy())
    assert (np.diff(recording.timesteps) < 0).all()
    # the denoiser sees noise of variance one first, whatever scale the sampler keeps its latents in
    assert 0.6 < float(recording.x_t[0].std()) < 1.4
    assert recording.clean.shape == recording.x_t.shape[1:]


def test_flow_matching_is_recorded_and_refuses_samplers_with_betas(tmp_path: Path) -> None:
    pipeline = stable_diffusion_3(tmp_path)
    recording = record(pipeline)
    assert recording.timesteps[0] == 1000
    assert recording.branches == ("conditional", "unconditional")
    with pytest.raises(ConfigError, match=r"ddim does not fit .* flow matching .*; give flow_euler"):
        fitting_scheduler(pipeline.scheduler, "ddim", "here")
    with pytest.raises(
        ConfigError,
        match=r"sampling.scheduler: flow_euler does not fit here, whose denoiser was trained by a diffusion",
    ):
        fitting_scheduler(DDPMScheduler(**SCHEDULE), "flow_euler", "here")


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++", "euler"])
def test_a_sampler_gets_betas_that_it_does_not_know_by_name(name: str) -> None:
    own = DDPMScheduler(100, beta_schedule="sigmoid", beta_end=0.03)
    fitting = fitting_scheduler(own, name, "here")
    assert_same_up_to_rounding(fitting.alphas_cumprod, own.alphas_cumprod)


def test_classes_are_given_by_number_or_name(tmp_path: Path) -> None:
    pipeline = PIPELINES["dit"](tmp_path)
    numbered, named = record(pipeline, prompts=["0", "1"]), record(pipeline, prompts=["cat", "hound"])
    assert_same_up_to_rounding(numbered.rows_of["class_labels"], named.rows_of["class_labels"])
    assert class_number(pipeline, "") == 1000  # the null class of guidance
    known = "give a number below 1000 or one of its 3 names, such as hound"
    with pytest.raises(ConfigError, match=f"'hounds' is no class of DiTPipeline; {known}"):
        record(pipeline, prompts=["hounds", "0"])


def test_a_pipeline_without_prompts_is_refused() -> None:
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    with pytest.raises(ModelError, match="DDPMPipeline takes neither prompts nor classes"):
        record(pipeline)


def test_tokens_have_names_and_too_long_prompts_are_refused(tmp_path: Path) -> None:
    pipeline = stable_diffusion(tmp_path)
    tokens = token_strings(pipeline, PROMPTS, 16)
    assert tokens is not None
    assert tokens[0, :8].tolist() == ["<|startoftext|>", "a", "photo", "of", "a", "face", "with", "glasses"]
    assert tokens.shape == (2, 16)
    long = " ".join(["face"] * 40)
    with pytest.raises(ConfigError, match=r"has 42 tokens, but the text encoder takes 16; shorten it"):
        check_lengths(pipeline, [PROMPTS[0], long])


def test_the_tokens_of_two_text_encoders_follow_each_other(tmp_path: Path) -> None:
    pipeline = stable_diffusion_3(tmp_path)
    length = record(pipeline).rows_of["encoder_hidden_states"].shape[2]
    tokens = token_strings(pipeline, PROMPTS, length)
    assert tokens is not None
    assert tokens.shape == (2, length)
    assert tokens[0, 5] == "face"
    assert "face" in tokens[0, 16:24].tolist()


def test_nested_arguments_survive_being_stored_flat() -> None:
    nested = {"a": 1, "kwargs": {"b": 2, "c": {"d": 3}}, "pair": (torch.ones(1), torch.zeros(1)), "none": None}
    flat = flatten(nested)
    assert set(flat) == {"a", "kwargs.b", "kwargs.c.d", "pair.0", "pair.1"}
    again = unflatten(flat)
    assert again["kwargs"] == nested["kwargs"]
    assert isinstance(again["pair"], tuple)
    assert torch.equal(again["pair"][0], torch.ones(1))


def test_a_prompted_denoiser_says_what_it_needs(tmp_path: Path) -> None:
    denoiser = prompted(stable_diffusion(tmp_path))
    with pytest.raises(ValueError, match="needs the arguments its pipeline gives it"):
        denoiser.predict_noise(torch.zeros(1, 4, 8, 8), 3)


class Unusual:
    """How a denoiser may be called that cannot be recorded: a call of it and its arguments, to what comes of it."""

    @staticmethod
    def another_row(call: Any, sample: torch.Tensor, timestep: Any, states: torch.Tensor, rest: dict[str, Any]) -> Any:
        more = call(torch.cat([sample, sample[:1]]), timestep, torch.cat([states, states[:1]]), **rest)
        return (more[0][:-1],)

    @staticmethod
    def twice(call: Any, sample: torch.Tensor, timestep: Any, states: torch.Tensor, rest: dict[str, Any]) -> Any:
        call(sample, timestep, states, **rest)
        return call(sample, timestep, states, **rest)

    @staticmethod
    def other_states(call: Any, sample: torch.Tensor, timestep: Any, states: torch.Tensor, rest: dict[str, Any]) -> Any:
        return call(sample, timestep, states * float(timestep), **rest)


@pytest.mark.parametrize(
    ("how", "guidance", "message"),
    [
        ("another_row", 4.0, "its denoiser gets 5 rows for 2 images; expected as many, or twice as many with guidance"),
        ("twice", 4.0, "4 passes per sampling step, expected one, or two with guidance; use a first-order sampler"),
        ("other_states", 1.0, "its argument encoder_hidden_states changes from step to step, which cannot be stored"),
    ],
)
def test_a_denoiser_that_is_called_in_another_way_is_named(
    how: str, guidance: float, message: str, tmp_path: Path
) -> None:
    pipeline = stable_diffusion(tmp_path)
    own = type(pipeline.unet)

    class Wrapped(own):  # type: ignore[misc, valid-type]
        def __call__(self, sample: Any, timestep: Any, encoder_hidden_states: Any, **rest: Any) -> Any:
            call = functools.partial(own.__call__, self)
            return getattr(Unusual, how)(call, sample, timestep, encoder_hidden_states, rest)

    pipeline.unet.__class__ = Wrapped
    with pytest.raises(ModelError, match=f"^StableDiffusionPipeline: {message}"):
        record(pipeline, guidance=guidance)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"images": np.zeros((2, 16, 16, 3))}, "never called its denoiser through its sampler; watch such a pipeline"),
        ({"frames": np.zeros((2, 5, 16, 16, 3))}, "does not generate images; watch it with AttentionTap directly"),
    ],
)
def test_a_pipeline_that_makes_something_else_is_named(made: dict[str, Any], message: str, tmp_path: Path) -> None:
    pipeline = stable_diffusion(tmp_path)

    class Other(type(pipeline)):  # type: ignore[misc]
        def __call__(self, prompt: Any, generator: Any = None) -> Any:
            return SimpleNamespace(**made)

    pipeline.__class__ = Other
    with pytest.raises(ModelError, match=f"^Other {message}"):
        record(pipeline)


def test_an_argument_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    pipeline = stable_diffusion(tmp_path)
    original = pipeline.unet.forward
    pipeline.unet.forward = lambda sample, timestep, encoder_hidden_states, mode="fast", **rest: original(
        sample, timestep, encoder_hidden_states, **rest
    )
    unet_call = type(pipeline.unet).__call__

    class Chatty(type(pipeline.unet)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return unet_call(self, *args, mode="fast", **kwargs)

    pipeline.unet.__class__ = Chatty
    with pytest.raises(ModelError, match="given mode = 'fast', which cannot be stored"):
        record(pipeline)
