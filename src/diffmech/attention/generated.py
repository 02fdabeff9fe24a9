"""Images that the studied pipeline generates from prompts, and the latents on which its denoiser is observed.

`generate_images` samples and keeps everything the denoiser was given (`diffmech.models.recording`). `generated_latents`
takes from it either the steps of that very trajectory, or the generated image noised anew, as `latents` does with
images of a data set: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020), or, for flow matching,
x_t = (1 - sigma) x_0 + sigma eps with sigma = t / T (Lipman et al. 2023). Only then is there a loss.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from diffmech.artifacts import open_store, progress, provenance, read_json, write_store
from diffmech.attention.latents import CHUNK_BYTES, alphas_cumprod
from diffmech.attention.passes import ROWS, SHARED, TIMESTEP_INPUT, nearest_timesteps
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.images import Prompts
from diffmech.config.models import SamplingConfig
from diffmech.config.study import LatentsConfig
from diffmech.data.prompts import prompt_of, read_prompts
from diffmech.errors import ConfigError
from diffmech.models.pipelines import described, is_flow, load_pipeline, prediction_type
from diffmech.models.prompt_tokens import check_lengths, token_strings
from diffmech.models.recording import Recording, check_finite, joined, record_sampling
from diffmech.randomness import generator, noise

TEXT = np.dtypes.StringDType()


@in_smaller_batches
def generate_images(
    model_json: Path | str,
    output: Path | str,
    *,
    prompts: Prompts,
    sampling: SamplingConfig,
    size: int,
    sample_ids: Sequence[int],
    runtime: RuntimeConfig,
) -> None:
    """Write the images of `sample_ids` and everything the denoiser was given while they came about.

    Variables: image (sample, channel, y, x) uint8, clean (sample, ...), x_t (step, sample, ...), the conditioning
    (guidance, sample, ...), and the coordinates prompt, token (sample, token), timestep (step). Sample i has prompt i
    modulo the number of prompts and noise from (seed, i), whatever else is generated with it. Raises ConfigError for
    prompts and settings that do not fit the pipeline, ModelError for one that cannot be recorded or makes none.
    """
    texts = read_prompts(prompts)
    pipeline = load_pipeline(Path(model_json), scheduler=sampling.scheduler, device=runtime.device)
    check_lengths(pipeline, [*texts, prompts.negative_prompt])
    ids = list(sample_ids)
    chosen = [prompt_of(texts, sample) for sample in ids]
    parts: list[Recording] = []
    batches = [slice(start, start + runtime.batch_size) for start in range(0, len(ids), runtime.batch_size)]
    for rows in progress(batches, "generating (batches)", total=len(batches), show=runtime.progress):
        parts.append(
            record_sampling(
                pipeline,
                chosen[rows],
                negative_prompt=prompts.negative_prompt,
                seeds=[int(generator(prompts.seed, "sampling", sample).integers(2**63)) for sample in ids[rows]],
                steps=sampling.steps,
                guidance=sampling.guidance,
                size=size,
            )
        )
    check_finite(pipeline, *(values for part in parts for values in (part.images, part.clean.numpy())))
    scheduler = described(pipeline.scheduler)
    store = _generated_store(joined(parts), ids, chosen)
    text = store.get(ROWS + "encoder_hidden_states")
    tokens = None if text is None else token_strings(pipeline, chosen, text.shape[2])
    if tokens is not None:
        store = store.assign_coords(token=(("sample", "text_token"), tokens, {"long_name": "token of the prompt"}))
    store.attrs = {
        "model_sha256": read_json(model_json)["sha256"],
        "prediction_type": prediction_type(scheduler),
        "flow": int(is_flow(scheduler)),
        "scheduler": type(pipeline.scheduler).__name__,
        "guidance_scale": sampling.guidance,
        "timestep_per_row": int(parts[0].timestep_per_row),
        "provenance": provenance(
            rule="generate_images", prompts=prompts.canonical(), sampling=sampling.canonical(), size=size
        ),
    }
    write_store(output, store)


def generated_latents(
    generated: Path | str,
    model_json: Path | str,
    output: Path | str,
    *,
    dataset: str,
    domain: str,
    timesteps: Sequence[int],
    among: Sequence[int],
    sample_ids: Sequence[int],
    latents: LatentsConfig,
) -> None:
    """Write the latents of `sample_ids` at `timesteps` from the store of `generate_images`.

    On a trajectory, the sampling steps nearest to `timesteps` are taken and keep their own timesteps; `among` are those
    of all blocks. Raises ConfigError for a timestep beyond the schedule and where two of them fall on one step.
    """
    model, store = read_json(model_json), open_store(generated).to_dataset()
    late = [t for t in among if t >= model["timesteps"]]
    if late:
        raise ConfigError(
            f"capture.timesteps: {late[0]} is not below the scheduler's {model['timesteps']} steps; "
            f"give timesteps from 0 to {model['timesteps'] - 1}"
        )
    ids = [sample for sample in sample_ids if sample in store["sample"].values]
    store = store.sel(sample=ids).load()
    scale = float(store["input"][0] / store["scheduler_timestep"][0]) if float(store["scheduler_timestep"][0]) else 1.0
    if latents.kind == "trajectory":
        steps = np.rint(store["scheduler_timestep"].values).astype(np.int64)
        meant = dict(zip(sorted(among), nearest_timesteps(sorted(among), steps), strict=True))
        labels = [meant[timestep] for timestep in sorted(timesteps)]
        columns = [int(np.flatnonzero(steps == label)[0]) for label in labels]
        passes = {"x_t": np.moveaxis(store["x_t"].values[columns], 0, 1)}
        inputs = store["input"].values[columns]
    else:
        labels = sorted(timesteps)
        passes = _noised(store, labels, ids, latents.seed, model)
        inputs = np.array(labels, dtype=np.float64) * scale
    names = [f"latent_{axis}" for axis in range(store["clean"].ndim - 1)]
    given = _conditioning(store, latents.condition)
    result = xr.Dataset(
        {
            **{name: (("sample", "timestep", *names), values) for name, values in passes.items()},
            "x_0": store["image"].astype(np.float32) / np.float32(127.5) - np.float32(1),
            TIMESTEP_INPUT: ("timestep", inputs, {"long_name": "what the denoiser is given as the timestep"}),
            **given.data_vars,
        },
        coords={
            "sample": ("sample", np.asarray(ids, np.int64), {"long_name": "sample id"}),
            "timestep": (
                "timestep",
                np.asarray(labels, np.int64),
                {"long_name": "timestep of the scheduler, 0 = clean"},
            ),
            **{name: given[name] for name in ("guidance", "token", "prompt") if name in given.coords},
        },
        attrs={
            "dataset": dataset,
            "domain": domain,
            "domain_note": f"{domain} is a set of prompts",
            "condition": latents.condition,
            "kind": latents.kind,
            "asked_timesteps": sorted(timesteps),
            "seed": latents.seed,
            "timestep_per_row": store.attrs["timestep_per_row"],
            "model_sha256": model["sha256"],
            "provenance": provenance(rule="generated_latents", latents=latents.canonical(), model=model["sha256"]),
        },
    )
    # read one timestep at a time, as many samples as are held at once
    chunk = max(1, min(len(ids), CHUNK_BYTES // max(1, passes["x_t"][:1, :1].nbytes)))
    chunks = {name: {"chunks": (chunk, 1, *values.shape[2:])} for name, values in passes.items()}
    write_store(output, result, encoding=chunks if ids else None)


def noised(
    clean: Float[np.ndarray, "*image"],
    eps: Float[np.ndarray, "*image"],
    timestep: float,
    *,
    alphas: Float[np.ndarray, "timestep"] | None,
    target: str,
    steps: int,
) -> tuple[Float[np.ndarray, "*image"], Float[np.ndarray, "*image"]]:
    """Return x_t and what the denoiser should predict, in float32.

    `alphas` is abar of whole timesteps, None for flow matching; `target` is epsilon, v_prediction (Salimans & Ho 2022),
    sample or velocity, whose value is eps - x_0.
    """
    if alphas is None:
        signal, spread = 1 - timestep / steps, timestep / steps
    else:
        signal, spread = math.sqrt(alphas[int(timestep)]), math.sqrt(1 - alphas[int(timestep)])
    x_t = np.float32(signal) * clean + np.float32(spread) * eps
    targets = {
        "epsilon": lambda: eps,
        "v_prediction": lambda: np.float32(signal) * eps - np.float32(spread) * clean,
        "sample": lambda: clean,
        "velocity": lambda: eps - clean,
    }
    return x_t, targets[target]()


def _noised(
    store: xr.Dataset, timesteps: Sequence[int], ids: Sequence[int], seed: int, model: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    clean = store["clean"].values
    shape, steps = clean.shape[1:], int(model["timesteps"])
    alphas = None if store.attrs["flow"] else alphas_cumprod(model["scheduler"])
    x_t, target = (np.empty((len(ids), len(timesteps), *shape), np.float32) for _ in range(2))
    for column, timestep in enumerate(timesteps):
        for row, sample in enumerate(ids):
            eps = noise(seed, sample, timestep, shape)
            x_t[row, column], target[row, column] = noised(
                clean[row], eps, timestep, alphas=alphas, target=store.attrs["prediction_type"], steps=steps
            )
    return {"x_t": x_t, "noise": target}


def _conditioning(store: xr.Dataset, condition: str) -> xr.Dataset:
    """Return the arguments of the denoiser: both passes of guidance, or, for the null condition, the second alone."""
    named = [name for name in store.data_vars if str(name).startswith((ROWS, SHARED))]
    given = store[named]
    if condition == "full":
        return given
    if given.sizes.get("guidance", 1) < 2:
        raise ConfigError(
            "latents.condition: null needs the unconditional pass of guidance; set sampling.guidance above 1, and a "
            "model that has it"
        )
    return given.isel(guidance=slice(1, 2))


def _generated_store(whole: Recording, ids: Sequence[int], prompts: Sequence[str]) -> xr.Dataset:
    """Return what was recorded as a dataset."""
    pixels = np.rint((whole.images + 1) * 127.5).clip(0, 255).astype(np.uint8)
    latent = [f"latent_{axis}" for axis in range(whole.clean.dim() - 1)]
    return xr.Dataset(
        {
            "image": (("sample", "channel", "y", "x"), pixels),
            "clean": (("sample", *latent), whole.clean.float().numpy()),
            "x_t": (("step", "sample", *latent), whole.x_t.numpy()),
            "scheduler_timestep": ("step", whole.timesteps.astype(np.float64)),
            "input": ("step", whole.inputs),
            **{
                ROWS + name: (("guidance", "sample", *_dims(name, values.dim() - 2)), values.numpy())
                for name, values in whole.rows_of.items()
            },
            **{SHARED + name: (_dims(name, values.dim()), values.numpy()) for name, values in whole.shared.items()},
        },
        coords={
            "sample": np.asarray(ids, np.int64),
            "guidance": np.array(whole.branches, dtype=TEXT),
            "prompt": ("sample", np.array(prompts, dtype=TEXT), {"long_name": "what was asked for"}),
        },
    )


def _dims(name: str, count: int) -> list[str]:
    if name == "encoder_hidden_states" and count == 2:
        return ["text_token", "text_width"]
    return [f"{name}_{axis}" for axis in range(count)]
