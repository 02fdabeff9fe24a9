"""Drawing images from a denoiser: DDIM (Song et al. 2021) with classifier-free guidance (Ho & Salimans 2022).

The initial noise of an image depends on (seed, index) alone, so the same person can be asked for with and without an
attribute, and more images never change the first ones.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from diffmech.artifacts import progress, provenance, write_store
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.models import SamplingConfig
from diffmech.config.study import LABELLED
from diffmech.data.synthetic_faces import NAMES, sample_attributes
from diffmech.errors import ModelError
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.memory_format import channels_last
from diffmech.models.prompted import PromptedDenoiser
from diffmech.models.schedules import ddim_scheduler
from diffmech.randomness import generator


@in_smaller_batches
def sample_images(
    denoiser: Denoiser, condition: Condition | None, *, steps: int, guidance: float, seed: int, runtime: RuntimeConfig
) -> Tensor:
    """Return one image `(sample, channel, y, x)`, on the CPU, for each row of `condition`.

    With `guidance` g the prediction is p_null + g (p_condition - p_null), both from one forward pass of two stacked
    batches; g = 1, or a network without tokens, needs one. `condition` None asks for one image. Raises ConfigError for
    more steps than the diffusion has, ModelError for images that are none.
    """
    condition = condition or Condition.null(1, len(denoiser.attributes))
    x_t = initial_noise(seed, range(len(condition)), denoiser.sample_shape)
    images = steps_from(denoiser, condition, x_t, range(steps), steps=steps, guidance=guidance, runtime=runtime)
    return checked(images, steps)


def steps_from(
    denoiser: Denoiser,
    condition: Condition,
    x_t: Tensor,
    which: range,
    *,
    steps: int,
    guidance: float,
    runtime: RuntimeConfig,
    eta: float = 0.0,
    seed: int = 0,
    noted: Callable[[slice, int, Tensor], None] | None = None,
) -> Tensor:
    """Return what `x_t` `(sample, channel, y, x)` is after the steps `which` of a schedule of `steps`, on the CPU.

    The noise that `eta` adds belongs to (seed, sample, timestep), so that two denoisers get the same. `noted` is given
    the rows of a batch, the number of a step, and what the batch is before it. Raises ConfigError for more steps than
    the diffusion has.
    """
    scheduler = ddim(denoiser, steps)
    size = runtime.batch_size
    batches = [slice(start, min(start + size, len(x_t))) for start in range(0, len(x_t), size)]
    work = [(rows, step) for rows in batches for step in which]
    after = x_t.clone()
    with torch.no_grad():
        for rows, step in progress(work, "sample", show=runtime.progress):
            if step == which.start:
                here = condition.rows(rows).to(denoiser.device)
                images = x_t[rows].to(denoiser.device)
            if noted is not None:
                noted(rows, step, images)
            t = int(scheduler.timesteps[step])
            fresh = _fresh(seed, range(rows.start, rows.stop), t, images) if eta else None
            predicted = guided_prediction(denoiser, images, t, here, guidance)
            images = ddim_step(scheduler, predicted, t, images, eta=eta, fresh=fresh)
            after[rows] = images.cpu()
    return after


def ddim(denoiser: Denoiser, steps: int) -> DDIMScheduler:
    """Return the sampler of `denoiser`, set to `steps` steps. Raises ConfigError for more than the diffusion has."""
    return ddim_scheduler(denoiser.scheduler, steps)


def ddim_step(
    scheduler: DDIMScheduler,
    predicted: Tensor,
    t: int,
    x_t: Tensor,
    *,
    eta: float = 0.0,
    fresh: Tensor | None = None,
) -> Tensor:
    """Return the less noisy images that follow `x_t` at timestep `t`, given what the network predicts.

    Equation 12 of Song et al. 2021; with `eta` some of the noise is replaced by `fresh`, shaped as `x_t`, whose spread
    is `fresh_spread`. They have the noise of the timestep that comes next in the schedule: the step of diffusers goes
    T // steps down, which is another one unless steps are counted so ("leading").
    """
    share, left = _shares(scheduler, t)
    if share == 1:  # there is no noise to take out, and none to divide by
        return x_t
    clean = _clean(scheduler, predicted, share, x_t)
    # The direction to the noise is taken anew from the clipped image: guidance drives images beyond [-1, 1].
    noise = (x_t - share**0.5 * clean) / (1 - share) ** 0.5
    if fresh is None:
        return left**0.5 * clean + (1 - left) ** 0.5 * noise
    spread = fresh_spread(scheduler, t, eta)
    kept = (1 - left - spread**2).clamp(min=0) ** 0.5
    return left**0.5 * clean + kept * noise + spread * fresh


def fresh_spread(scheduler: DDIMScheduler, t: int, eta: float) -> Tensor:
    """Return sigma of equation 16 of Song et al. 2021: the spread of the fresh noise of the step at timestep `t`.

    1 is as much as in DDPM. More is cut off at the noise of the next timestep, where none of the old is left, so that
    images are as noisy as the network expects whatever `eta` is (the cut is ours).
    """
    share, left = _shares(scheduler, t)
    if share == 1:
        return torch.zeros_like(share)
    own = ((1 - left) / (1 - share) * (1 - share / left)).clamp(min=0)
    return torch.minimum(eta * own**0.5, (1 - left) ** 0.5)


def cut_steps(denoiser: Denoiser, eta: float, steps: int) -> int:
    """Return at how many of `steps` steps less fresh noise is added than `eta` says, since there is none of the old."""
    scheduler = ddim(denoiser, steps)
    timesteps = scheduler.timesteps.tolist()
    once, asked = ([float(fresh_spread(scheduler, t, times)) for t in timesteps] for times in (1e-3, eta))
    return sum(spread < eta * own / 1e-3 * (1 - 1e-6) for own, spread in zip(once, asked, strict=True))


def _fresh(seed: int, indices: Sequence[int], t: int, like: Tensor) -> Tensor:
    shape = tuple(like.shape[1:])
    drawn = [generator(seed, "fresh noise", index, t).standard_normal(shape, dtype=np.float32) for index in indices]
    return torch.from_numpy(np.stack(drawn)).to(like)


def _shares(scheduler: DDIMScheduler, t: int) -> tuple[Tensor, Tensor]:
    """Return abar at timestep `t` and at the one that comes next in the schedule."""
    places = (scheduler.timesteps == t).nonzero()
    following = scheduler.timesteps[int(places[0]) + 1 :]
    left = scheduler.alphas_cumprod[following[0]] if len(following) else scheduler.final_alpha_cumprod
    return scheduler.alphas_cumprod[t], left


def _clean(scheduler: DDIMScheduler, predicted: Tensor, share: Tensor, x_t: Tensor) -> Tensor:
    """Return the clean images that follow from what was predicted, clipped as the scheduler says."""
    kind = scheduler.config["prediction_type"]
    if kind == "epsilon":
        clean = (x_t - (1 - share) ** 0.5 * predicted) / share**0.5
    else:
        clean = predicted if kind == "sample" else share**0.5 * x_t - (1 - share) ** 0.5 * predicted
    if scheduler.config["thresholding"]:
        return scheduler._threshold_sample(clean)
    if scheduler.config["clip_sample"]:
        most = scheduler.config["clip_sample_range"]
        return clean.clamp(-most, most)
    return clean


def checked(images: Tensor, steps: int) -> Tensor:
    """Return sampled images. Raises ModelError where any of them is no image."""
    if not images.isfinite().all():
        bad = int((~images.flatten(1).isfinite().all(1)).sum())
        raise ModelError(
            f"{bad} of {len(images)} images sampled in {steps} steps are NaN or infinite; check the weights, and that "
            "the schedule and its prediction_type are those of the training"
        )
    return images


def guidance_branches(denoiser: Denoiser, guidance: float) -> int:
    """Return how many passes `guided_prediction` makes of one: two, conditional first, or one without guidance."""
    return 2 if denoiser.conditional and guidance != 1 else 1


def guided_prediction(denoiser: Denoiser, x_t: Tensor, t: int, condition: Condition, guidance: float) -> Tensor:
    """Return what the network predicts of `x_t`, from one forward pass of the stacked branches.

    Noise, v and clean image are linear in each other at any one x_t, so guidance is the same in each of them; but where
    x_t is noise alone, the predicted noise does not tell the image.
    """
    if not denoiser.conditional:
        return denoiser.predict(x_t, t)
    if guidance_branches(denoiser, guidance) == 1:
        return denoiser.predict(x_t, t, condition)
    both = denoiser.predict(torch.cat([x_t, x_t]), t, condition.joined(condition.null_like()))
    known, null = both.chunk(2)
    return null + guidance * (known - null)


def initial_noise(seed: int, indices: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return the noise `(image, channel, y, x)` that images `indices` start from."""
    noise = [generator(seed, "initial noise", index).standard_normal(shape, dtype=np.float32) for index in indices]
    return torch.from_numpy(np.stack(noise))


def drawn_condition(
    denoiser: Denoiser, n: int, seed: int, *, domain: str | None = None, fixed: Mapping[str, float] | None = None
) -> Condition:
    """Return the condition of `n` images of `domain` (default: the one whose attributes are known).

    Attributes of drawn faces are drawn as those are, keyed by (seed, index); others stay unknown; `fixed` holds some.
    Of classes each image has one, in turn: that which is held at 1, none where another value above 0 or NaN is held,
    else any that is not held at 0.
    """
    fixed = fixed or {}
    if denoiser.classes:
        return _class_condition(denoiser.attributes, n, fixed)
    domain = domain or labelled_domain(denoiser)
    values = np.full((n, len(denoiser.attributes)), np.nan, dtype=np.float32)
    table = sample_attributes(range(n), seed)
    for column, name in enumerate(denoiser.attributes):
        if name in fixed:
            values[:, column] = fixed[name]
        elif name in NAMES:
            values[:, column] = table[name].to_numpy()
    index = denoiser.domains.index(domain) if domain in denoiser.domains else -1
    return Condition(torch.full((n,), index, dtype=torch.long), torch.from_numpy(values))


def _class_condition(classes: Sequence[str], n: int, fixed: Mapping[str, float]) -> Condition:
    condition = Condition.null(n, len(classes))
    asked = [name for name, value in fixed.items() if value == 1]
    if asked or not any(fixed.values()):  # NaN and values between are true
        turns = asked or [name for name in classes if name not in fixed]
        columns = [classes.index(turns[image % len(turns)]) for image in range(n)]
        condition.values[:] = torch.eye(len(classes))[columns]
    return condition


def domain_condition(denoiser: Denoiser, domain: str, n: int, seed: int) -> Condition:
    """Return the condition of `n` images of `domain`: attributes drawn in the labelled one, unknown in the others.

    A denoiser that does not know the domain is told nothing.
    """
    drawn = drawn_condition(denoiser, n, seed, domain=domain)
    if not denoiser.conditional or domain not in denoiser.domains:
        return drawn.null_like()
    return drawn if domain == labelled_domain(denoiser) else Condition(drawn.domain, drawn.values * torch.nan)


def labelled_domain(denoiser: Denoiser) -> str | None:
    """Return the domain whose attributes the denoiser knows, None for a network without domains."""
    if not denoiser.domains:
        return None
    return LABELLED if LABELLED in denoiser.domains else denoiser.domains[-1]


def gallery_rows(denoiser: Denoiser, sampling: SamplingConfig) -> dict[str, Condition]:
    """Return the condition of each row of the gallery.

    A row per domain (attributes drawn in the labelled one, unknown in the others), then for each attribute that the
    model has a row with and a row without it: the same noise and the same other attributes in both.
    """
    n, seed = sampling.count, sampling.seed
    if not denoiser.conditional:
        return {"unconditional": Condition.null(n, 0)}
    labelled = labelled_domain(denoiser)
    rows = {}
    for domain in denoiser.domains:
        rows[domain] = domain_condition(denoiser, domain, n, seed)
    prefix = f"{labelled}, " if labelled else ""
    for attribute in sampling.attributes:
        if attribute in denoiser.attributes:
            rows[f"{prefix}{attribute}"] = drawn_condition(denoiser, n, seed, fixed={attribute: 1.0})
            rows[f"{prefix}no {attribute}"] = drawn_condition(denoiser, n, seed, fixed={attribute: 0.0})
    return rows


def generate_gallery(model_json: Path, output: Path, *, sampling: SamplingConfig, runtime: RuntimeConfig) -> None:
    """Write the store of generated images: `image` (row, index, channel, y, x) float32 in [-1, 1].

    Coordinate `row` says what was asked for: "real", "synthetic", "synthetic, glasses", "synthetic, no glasses" ...
    There is none for a pipeline, whose generated images are the data sets themselves.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    rows = {} if isinstance(denoiser, PromptedDenoiser) else gallery_rows(denoiser, sampling)
    with channels_last(denoiser.module):
        images = [
            sample_images(
                denoiser,
                condition,
                steps=sampling.steps,
                guidance=sampling.guidance,
                seed=sampling.seed,
                runtime=runtime,
            )
            for condition in rows.values()
        ]
    store = xr.Dataset(
        {
            "image": (
                ("row", "index", "channel", "y", "x"),
                torch.stack(images).clamp(-1, 1).numpy()
                if images
                else np.empty((0, sampling.count, *denoiser.sample_shape), np.float32),
                {"units": "1", "long_name": "generated image, -1 black to 1 white"},
            )
        },
        coords={"row": np.array(list(rows), dtype=np.dtypes.StringDType()), "index": np.arange(sampling.count)},
        attrs={"provenance": provenance(sampling=sampling.canonical())},
    )
    write_store(Path(output), store)
