"""Any schedule of diffusers gives the images it should, whatever the network predicts, or is refused by name."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import nn

from diffmech.artifacts import open_store
from diffmech.attention.latents import alphas_cumprod, make_latents, scheduler_alphas
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import ImagesConfig, SyntheticFaces
from diffmech.config.models import DenoiserConfig, SamplingConfig
from diffmech.config.study import LatentsConfig
from diffmech.data.store import open_dataset, prepare_dataset
from diffmech.errors import ConfigError, ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.heldout import moments
from diffmech.models.importing import import_denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.sampling import ddim, ddim_step, generate_gallery, sample_images
from diffmech.models.schedules import noise_schedule
from diffmech.testing import assert_same_up_to_rounding

MEAN, SPREAD = 0.3, 0.25

# Every way in which a scheduler of diffusers makes its betas, and what only one of them knows or leaves out.
SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"_class_name": "DDPMScheduler"},
    "scaled": {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "beta_end": 0.012},
    "cosine": {"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"},
    "laplace": {"_class_name": "DDPMScheduler", "beta_schedule": "laplace"},
    "exponential of Heun": {"_class_name": "HeunDiscreteScheduler", "beta_schedule": "exp"},
    "defaults of Heun": {"_class_name": "HeunDiscreteScheduler"},
    "defaults of KDPM2": {"_class_name": "KDPM2DiscreteScheduler"},
    "given betas": {"_class_name": "DDPMScheduler", "trained_betas": np.linspace(0, 0.05, 200).tolist()},
    "zero SNR of DDIM": {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
    "zero SNR of DDPM": {"_class_name": "DDPMScheduler", "rescale_betas_zero_snr": True},
    "zero SNR of Euler": {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True},
    "zero SNR of DPMSolver": {"_class_name": "DPMSolverMultistepScheduler", "rescale_betas_zero_snr": True},
    "cosine, zero SNR": {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "squaredcos_cap_v2",
        "rescale_betas_zero_snr": True,
    },
}
STEPS = 200


class Optimal(nn.Module):
    """The optimal denoiser of Gaussian pixels of mean MEAN and deviation SPREAD, in any prediction type."""

    def __init__(self, abar: torch.Tensor, prediction: str) -> None:
        super().__init__()
        self.register_buffer("abar", abar.double())
        self.prediction = prediction
        self.place = nn.Parameter(torch.zeros(1))

    def forward(self, x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        a = self.abar[timestep][:, None, None, None]
        centred = x_t.double() - a.sqrt() * MEAN
        variance = a * SPREAD**2 + 1 - a
        noise = (1 - a).sqrt() * centred / variance
        clean = MEAN + a.sqrt() * SPREAD**2 * centred / variance
        v = a.sqrt() * noise - (1 - a).sqrt() * clean
        return {"epsilon": noise, "sample": clean, "v_prediction": v}[self.prediction].float()


def described(name: str, **more: Any) -> dict[str, Any]:
    return {"num_train_timesteps": STEPS, "clip_sample": False, **SCHEDULES[name], **more}


def optimal(name: str, prediction: str, **more: Any) -> Denoiser:
    content = described(name, prediction_type=prediction, **more)
    scheduler = noise_schedule(Path("scheduler_config.json"), content)
    network = Optimal(scheduler.alphas_cumprod, prediction)
    return Denoiser(network, scheduler, (1, 6, 6), forward=lambda x_t, t, condition: network(x_t, t))


def own_alphas(content: dict[str, Any]) -> np.ndarray:
    return getattr(diffusers, content["_class_name"]).from_config(content).alphas_cumprod.double().numpy()


@pytest.mark.parametrize("name", SCHEDULES)
def test_abar_is_that_of_the_scheduler_that_the_file_names(name: str, tmp_path: Path) -> None:
    content = described(name, prediction_type="v_prediction")
    own = own_alphas(content)
    assert_same_up_to_rounding(alphas_cumprod(content), own, roundings=300)
    scheduler = noise_schedule(tmp_path, content)
    assert np.abs(scheduler.alphas_cumprod.double().numpy() - own).max() < 2e-7
    scheduler.save_pretrained(tmp_path)  # as beside a class of the user's own
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert_same_up_to_rounding(alphas_cumprod(saved), own, roundings=300)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_perfect_denoiser_gives_back_the_images_or_is_refused(
    name: str, spacing: str, prediction: str, quiet: RuntimeConfig
) -> None:
    abar = own_alphas(described(name))
    try:
        denoiser = optimal(name, prediction, timestep_spacing=spacing)
    except ModelError:
        denoiser = None
    undefined = {"epsilon": abar[-1] == 0, "sample": abar[0] == 1, "v_prediction": False}
    assert (denoiser is None) == undefined[prediction]
    if denoiser is None:
        return
    steps, quiet = 150, quiet.model_copy(update={"batch_size": 200})  # 150 do not divide 200
    pixels = sample_images(denoiser, Condition.null(200, 0), steps=steps, guidance=1, seed=0, runtime=quiet)
    # Of Gaussian pixels the whole way is known: it starts as noise alone, where images that were noised still have some
    # of their mean and variance, and its last step gives the mean of all clean images that the noisy one may come from.
    first, last = (denoiser.alphas_cumprod[int(ddim(denoiser, steps).timesteps[end])] for end in (0, -1))
    noisy, ending = ((share * SPREAD**2 + 1 - share) ** 0.5 for share in (first, last))
    spread = last**0.5 * SPREAD**2 / ending
    assert pixels.mean().item() == pytest.approx(MEAN - spread * first**0.5 * MEAN / noisy, abs=0.01)
    assert pixels.std().item() == pytest.approx(spread / noisy, rel=0.06)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_every_step_is_one_of_the_diffusion_and_none_is_taken_twice(spacing: str) -> None:
    denoiser = optimal("linear", "epsilon", timestep_spacing=spacing)
    for steps in range(1, STEPS + 1):  # diffusers counts 62 trailing steps of 200 as 63, the last at -1
        timesteps = ddim(denoiser, steps).timesteps.tolist()
        assert len(timesteps) == steps
        assert timesteps == sorted(set(timesteps), reverse=True)
        assert 0 <= timesteps[-1] <= timesteps[0] < STEPS


def test_leading_steps_are_those_of_diffusers_bit_by_bit(quiet: RuntimeConfig) -> None:
    denoiser = optimal("cosine", "epsilon", clip_sample=True)
    sampler = DDIMScheduler.from_config(described("cosine", clip_sample=True))
    sampler.set_timesteps(20)
    x_t = sample = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for t in sampler.timesteps.tolist():
        predicted = denoiser.predict(sample, t)
        sample = sampler.step(predicted, t, sample, use_clipped_model_output=True).prev_sample
        x_t = ddim_step(ddim(denoiser, 20), denoiser.predict(x_t, t), t, x_t)
        assert torch.equal(x_t, sample)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_of_noise_alone_the_image_is_what_was_predicted_and_the_noise_is_what_was_given(prediction: str) -> None:
    denoiser = optimal("zero SNR of DDIM", prediction, timestep_spacing="trailing")
    x_t = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    last = STEPS - 1
    assert denoiser.alphas_cumprod[last] == 0
    assert torch.equal(denoiser.predict_noise(x_t, last), x_t)
    sampler = ddim(denoiser, 1)
    image = ddim_step(sampler, denoiser.predict(x_t, last), last, x_t)  # from noise alone to the image in one step
    assert torch.allclose(image, torch.full_like(image, MEAN), atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_an_image_without_noise_is_left_as_it_is(prediction: str) -> None:
    denoiser = optimal("given betas", prediction)
    assert denoiser.alphas_cumprod[0] == 1
    x_t = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ddim_step(ddim(denoiser, STEPS), denoiser.predict(x_t, 0), 0, x_t), x_t)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown betas": ({"beta_schedule": "cosine"}, r"beta_schedule 'cosine' is none that DDIMScheduler of diffusers"),
    "betas of another scheduler": ({"beta_schedule": "sigmoid"}, r"beta_schedule 'sigmoid' is none that DDIMScheduler"),
    "no betas": ({"_class_name": "DDPMWuerstchenScheduler"}, r"DDPMWuerstchenScheduler is not supported, since it has"),
    "unknown class": (
        {"_class_name": "DDIMFastScheduler"},
        r"DDIMFastScheduler is not in diffusers .*; name a scheduler that is, or install",
    ),
    "too few betas": ({"trained_betas": [0.1, 0.2]}, r"trained_betas has 2 entries, but num_train_timesteps is 200"),
    "betas above one": ({"beta_end": 2.0}, r"its betas are not all between 0 and 1"),
    "negative betas": ({"beta_start": -0.1}, r"its betas are not all between 0 and 1"),
    "text for a number": ({"beta_end": "large"}, r"DDIMScheduler cannot be made of it \("),
    "noise from noise alone": ({"rescale_betas_zero_snr": True}, r"at timestep 199 images are noise alone .*v_predict"),
    "noise from the image": ({"beta_start": 0.0, "prediction_type": "sample"}, r"first beta is 0\), and from a pred"),
    "flow": (
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
        r"use_flow_sigmas is set, .*source: pipeline",
    ),
    "noise levels": (
        {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
        r"timestep_type 'continuous' is not supported, since the network then counts .*; expected discrete",
    ),
    "prediction": (
        {"prediction_type": "velocity"},
        r"prediction_type 'velocity' is not supported; expected epsilon",
    ),
    "spacing": ({"timestep_spacing": "uniform"}, r"timestep_spacing 'uniform' is not supported; expected leading, lin"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_schedule_that_cannot_be_studied_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, reason = REFUSED[kind]
    file = tmp_path / "scheduler_config.json"
    with pytest.raises(ModelError, match=reason) as error:
        noise_schedule(file, {"_class_name": "DDIMScheduler", "num_train_timesteps": STEPS, **content})
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_steps_that_begin_after_the_last_timestep_are_refused() -> None:
    denoiser = optimal("cosine", "epsilon", steps_offset=1)
    assert ddim(denoiser, STEPS // 2).timesteps[0] < STEPS
    with pytest.raises(ConfigError, match=r"sampling\.steps: 200 steps begin at timestep 200, since steps_offset"):
        ddim(denoiser, STEPS)


def test_images_that_are_none_are_never_handed_on(quiet: RuntimeConfig) -> None:
    denoiser = optimal("linear", "epsilon")
    broken = Denoiser(denoiser.module, denoiser.scheduler, (1, 6, 6), forward=lambda x_t, t, condition: x_t * torch.nan)
    with pytest.raises(ModelError, match=r"^2 of 2 images sampled in 3 steps are NaN or infinite; check the weights"):
        sample_images(broken, Condition.null(2, 0), steps=3, guidance=1, seed=0, runtime=quiet)


@pytest.fixture(scope="module")
def zero_snr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers directory of a U-Net that predicts v, with rescaled betas and trailing steps."""
    folder = tmp_path_factory.mktemp("zero-snr")
    torch.manual_seed(0)
    UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        add_attention=False,
    ).save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, quiet: RuntimeConfig) -> Path:
    store = tmp_path_factory.mktemp("drawn") / "drawn.zarr.zip"
    faces = SyntheticFaces(kind="synthetic_faces", count=4)
    prepare_dataset(faces, ImagesConfig(size=16, resolution=None, match=None), store, name="drawn", runtime=quiet)
    return store


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_a_directory_with_zero_terminal_snr_is_imported_noised_sampled_and_measured(
    zero_snr: Path, tmp_path: Path, spacing: str, prediction: str, quiet: RuntimeConfig, drawn: Path
) -> None:
    scheduler = DDIMScheduler(100, prediction_type=prediction, timestep_spacing=spacing, rescale_betas_zero_snr=True)
    scheduler.save_pretrained(zero_snr / "scheduler")
    model = tmp_path / "models" / "mine" / "model.json"
    config = DenoiserConfig(source="diffusers", location=str(zero_snr))
    import_denoiser(config, model, root=tmp_path, images=ImagesConfig(size=16, resolution=None, match=None))
    assert_same_up_to_rounding(scheduler_alphas(model), scheduler.alphas_cumprod.double().numpy())
    gallery = tmp_path / "gallery.zarr.zip"
    generate_gallery(model, gallery, sampling=SamplingConfig(count=3, steps=29), runtime=quiet)
    images = open_store(gallery)["image"].values
    assert np.isfinite(images).all()
    assert images.std() > 0.01
    settings: dict[str, Any] = {"domain": "synthetic", "sample_ids": range(4), "latents": LatentsConfig()}
    make_latents(drawn, model, tmp_path / "latents.zarr.zip", timesteps=[0, 50, 98], **settings)
    assert np.isfinite(open_store(tmp_path / "latents.zarr.zip")["x_t"].values).all()
    for timestep in (0, 50, 98, 99):
        measured = moments(load_denoiser(model), open_dataset(drawn), "synthetic", np.arange(4), timestep, 0, 4)
        assert np.isfinite(measured.loss).all()
    with pytest.raises(ConfigError, match=r"capture\.timesteps\[1\]: at 99 images are noise alone .* below 99$"):
        make_latents(drawn, model, tmp_path / "late.zarr.zip", timesteps=[50, 99], **settings)
