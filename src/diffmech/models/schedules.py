"""The noise schedule of a denoiser: abar_t as the scheduler of diffusers that its file names has it, as DDPM's betas.

Schedulers differ in which beta schedules they know, in the defaults of keys that a file leaves out, and in what they
make of rescaled betas, whose last abar is 0 (zero terminal SNR, Lin et al. 2023). Where DDPM would noise images in
another way than the named scheduler, it is given the betas themselves. At abar = 0 no image is left in x_t: what
follows from a prediction of the noise is not defined there, and any network's noise prediction is x_t itself.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffmech.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

# Schedulers that describe a diffusion by the betas of DDPM; flow matching and sigma-based ones do not.
BETA_SCHEDULERS = ("DDPM", "DDIM", "PNDM", "LMSDiscrete", "Euler", "Heun", "DPMSolver", "UniPC", "DEIS", "KDPM2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")


def check_scheduler(path: Path, content: dict[str, Any]) -> None:
    """Raise ModelError where `content`, the scheduler of `path`, does not noise images by the betas of DDPM."""
    name = str(content.get("_class_name", ""))
    if not name.startswith(BETA_SCHEDULERS):
        raise ModelError(
            f"{path}: {name or 'a scheduler without a class name'} is not supported, since it does not noise images "
            f"by the betas of DDPM; expected one of {', '.join(BETA_SCHEDULERS)}"
        )
    if content.get("use_flow_sigmas"):
        raise ModelError(
            f"{path}: use_flow_sigmas is set, so it noises images by flow matching and not by betas, which is not "
            "supported for a single network; give the whole pipeline as `source: pipeline`"
        )
    if content.get("timestep_type", "discrete") != "discrete":
        raise ModelError(
            f"{path}: timestep_type {content['timestep_type']!r} is not supported, since the network then counts noise "
            "levels and not timesteps; expected discrete"
        )
    for key, allowed, default in (
        ("prediction_type", PREDICTIONS, "epsilon"),
        ("timestep_spacing", SPACINGS, "leading"),
    ):
        if content.get(key, default) not in allowed:
            raise ModelError(
                f"{path}: {key} {content[key]!r} is not supported; expected {', '.join(allowed[:-1])} or {allowed[-1]}"
            )


def noise_schedule(path: Path, content: dict[str, Any]) -> "DDPMScheduler":
    """Return DDPM's scheduler with abar of the one in `content`, which `path` holds.

    Raises ModelError, in one line, for a schedule that diffusers does not know, that is none, or in which what the
    network predicts does not tell the noise or the image.
    """
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    check_scheduler(path, content)
    own = _named(path, content)
    abar = own.alphas_cumprod.double().numpy()
    steps = int(content.get("num_train_timesteps", own.config["num_train_timesteps"]))
    if len(abar) != steps:
        raise ModelError(
            f"{path}: trained_betas has {len(abar)} entries, but num_train_timesteps is {steps}; give as many"
        )
    betas = own.betas.double().numpy()
    if not (np.isfinite(abar).all() and betas.min() >= 0 and betas.max() <= 1):
        raise ModelError(f"{path}: its betas are not all between 0 and 1, so that they noise no image; correct them")
    _check_told(path, str(content.get("prediction_type", "epsilon")), abar)
    try:
        plain = DDPMScheduler.from_config(content)
        if np.array_equal(plain.alphas_cumprod.double().numpy(), abar):
            return plain
    except NotImplementedError:  # a beta schedule of the named scheduler alone
        pass
    return DDPMScheduler.from_config(with_betas(content, own))


def named_alphas(content: dict[str, Any]) -> np.ndarray:
    """Return abar `(timestep,)` in float64 of the scheduler that `content` names. Raises ModelError as above."""
    alphas: np.ndarray = _named(Path("scheduler_config.json"), content).alphas_cumprod.double().numpy()
    return alphas


def ddim_scheduler(scheduler: "DDPMScheduler", steps: int) -> "DDIMScheduler":
    """Return the DDIM sampler of a diffusion, set to `steps` steps, which starts where its `timestep_spacing` says.

    Raises ConfigError for more steps than the diffusion has.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    last = len(scheduler.alphas_cumprod) - 1
    if not 1 <= steps <= last + 1:
        raise ConfigError(f"sampling.steps: {steps} is not between 1 and the {last + 1} steps of the diffusion")
    # DDIM does not know all beta schedules of DDPM by name
    sampler = DDIMScheduler.from_config(with_betas(scheduler.config, scheduler))
    sampler.set_timesteps(steps)
    # trailing steps are counted in floating point, and so at times one too many, below 0
    sampler.timesteps = sampler.timesteps[:steps]
    if int(sampler.timesteps[0]) > last:
        raise ConfigError(
            f"sampling.steps: {steps} steps begin at timestep {int(sampler.timesteps[0])}, since steps_offset of the "
            f"scheduler is {scheduler.config['steps_offset']}, and the last timestep is {last}; give fewer"
        )
    return sampler


def check_timesteps(timesteps: Sequence[int], alphas: np.ndarray) -> None:
    """Raise ConfigError for a timestep beyond abar `alphas` `(timestep,)`, or one at which no image is left."""
    for index, timestep in enumerate(timesteps):
        if not 0 <= timestep < len(alphas):
            raise ConfigError(
                f"capture.timesteps[{index}]: {timestep} is not below the scheduler's {len(alphas)} steps; "
                f"give timesteps from 0 to {len(alphas) - 1}"
            )
        if alphas[timestep] == 0:
            raise ConfigError(
                f"capture.timesteps[{index}]: at {timestep} images are noise alone (zero terminal SNR), so that the "
                f"noise is known without the network and no head can matter; give timesteps below {timestep}"
            )


def _named(path: Path, content: dict[str, Any]) -> Any:
    import diffusers

    name = str(content["_class_name"])
    named = getattr(diffusers, name, None)
    if named is None:
        raise ModelError(
            f"{path}: {name} is not in diffusers {diffusers.__version__}; name a scheduler that is, or install the "
            "version that has it"
        )
    try:
        scheduler = named.from_config(content)
    except ImportError:  # one whose sampling needs a library that is not here; its betas are those of DDPM
        scheduler = diffusers.DDPMScheduler.from_config(content)
    except NotImplementedError as error:
        raise ModelError(
            f"{path}: beta_schedule {content.get('beta_schedule')!r} is none that {name} of diffusers "
            f"{diffusers.__version__} knows; give linear, scaled_linear or squaredcos_cap_v2, or the betas themselves "
            "as trained_betas"
        ) from error
    except Exception as error:  # values of any kind stand in the file
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path}: {name} cannot be made of it ({reason}); give the file that came with the model"
        ) from error
    if getattr(scheduler, "alphas_cumprod", None) is None:
        raise ModelError(
            f"{path}: {name} is not supported, since it has no betas; expected the DDPM or DDIM scheduler of its "
            "training"
        )
    return scheduler


def _check_told(path: Path, prediction: str, abar: np.ndarray) -> None:
    if prediction == "epsilon" and abar[-1] == 0:
        first = int(np.argmax(abar == 0))
        raise ModelError(
            f"{path}: at timestep {first} images are noise alone (zero terminal SNR), and from a prediction of the "
            "noise no image follows there; give the prediction_type of the training (v_prediction or sample), or betas "
            "that leave something of the image (rescale_betas_zero_snr: false)"
        )
    if prediction == "sample" and abar[0] == 1:
        raise ModelError(
            f"{path}: at timestep 0 images have no noise (its first beta is {1 - abar[0]:g}), and from a prediction of "
            "the image no noise follows there; give a beta_start above 1e-7, or the schedule of the training"
        )


def with_betas(config: Mapping[str, Any], scheduler: Any) -> dict[str, Any]:
    """Return the settings `config` with the betas behind abar of `scheduler`, in place of a schedule by name."""
    import torch

    abar = scheduler.alphas_cumprod.double()
    if torch.equal(torch.cumprod(1 - scheduler.betas, dim=0).double(), abar):
        betas = scheduler.betas
    else:  # abar was changed after it was made of the betas
        betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
    # diffusers notes there which settings nobody gave, and would take the default of betas that are given now
    given = {key: value for key, value in config.items() if key != "_use_default_values"}
    return {**given, "trained_betas": betas.tolist(), "rescale_betas_zero_snr": False}
