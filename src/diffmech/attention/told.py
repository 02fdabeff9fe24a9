"""The same noised images told to be of the first domain, of the second, and nothing: statistics of every head.

What a head does on images of two domains can differ by the images and by what the denoiser is told of them. Here each
image is told all of it, with every attribute left open, so that the two can be kept apart (`mechanisms.told`). The
images of a pipeline are told by prompt: each under its own, under that of the image of the same number in the other
domain, and under the negative prompt, where the pipeline has a pass for it. Ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from diffmech.artifacts import building_store, read_json
from diffmech.attention.archive import archiving
from diffmech.attention.capture import lay_out, observe_passes, store_attrs, store_axes, survey_sites
from diffmech.attention.layout import create_attention_store
from diffmech.attention.passes import TIMESTEP_INPUT, Latents, open_latents
from diffmech.attention.untrained import first_samples, observe_twins
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.study import NOTHING, ToldConfig, UntrainedConfig
from diffmech.errors import StoreError
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser

# The pass of guidance that is told nothing.
UNCONDITIONAL = 1


def capture_told(
    latents: Mapping[str, Sequence[Path | str]],
    model_json: Path | str,
    outputs: Mapping[str, Path | str],
    copies: Mapping[str, Path | str],
    *,
    domain: str,
    timesteps: Sequence[int],
    told: ToldConfig,
    untrained: UntrainedConfig,
    runtime: RuntimeConfig,
) -> None:
    """Observe the images of `domain` once for everything that they can be told, and write a store for each.

    `latents` are stores by domain, of which those of the other domain lend a pipeline its prompts; `outputs` and
    `copies`, of the untrained twins, are the stores to write by what is told: "nothing", or a domain. What this
    denoiser cannot be told gives an empty store. The twins see fewer of the images.
    """
    denoiser = load_denoiser(Path(model_json), device=runtime.device)
    passes = _of_study(latents[domain], told.samples, timesteps)
    others = {name: _of_study(paths, told.samples, timesteps) for name, paths in latents.items() if name != domain}
    domains = list(read_json(model_json)["domains"])
    observed = {}
    for name, output in outputs.items():
        cell = tell(passes, name, domain=domain, domains=domains, others=others)
        if cell is None:
            cell = _first(passes, 0)
        _observe(denoiser, cell, model_json, output, runtime)
        observed[copies[name]] = _first(cell, told.untrained_samples if name == NOTHING else told.untrained_told)
    observe_twins(observed, model_json, untrained=untrained, runtime=runtime)


def tell(
    passes: Latents, name: str, *, domain: str, domains: Sequence[str], others: Mapping[str, Latents]
) -> Latents | None:
    """Return `passes` of images of `domain` told to be of the domain `name`, or "nothing"; None where that cannot be.

    `domains` are those that the denoiser knows by name; `others` the passes of the other domain, by its name.
    """
    attrs = {**passes.attrs, "condition": f"told {name}"}
    if TIMESTEP_INPUT not in passes.given:
        if name != NOTHING and name not in domains:
            return None
        index = -1 if name == NOTHING else list(domains).index(name)
        given = passes.given.assign(
            domain=xr.full_like(passes.given["domain"], index),
            condition=xr.full_like(passes.given["condition"], np.nan),
        )
        return replace(passes, given=given, attrs=attrs)
    if name == NOTHING:
        if len(passes.guidance) <= UNCONDITIONAL:
            return None
        return replace(passes, given=passes.given.isel(guidance=[UNCONDITIONAL]), attrs=attrs)
    source = passes if name == domain else others[name]
    if not np.array_equal(source.samples, passes.samples):
        raise StoreError(
            f"{passes.path}: its images have other numbers than those of {source.path}, whose prompts they are told; "
            "give both data sets as many prompts"
        )
    given = source.given.isel(guidance=[0]) if source.guidance else source.given
    return replace(passes, given=given, attrs=attrs)


def _of_study(paths: Sequence[Path | str], samples: int, timesteps: Sequence[int]) -> Latents:
    """Return the first `samples` images at `timesteps`, in memory."""
    passes = first_samples([open_latents(path) for path in paths], samples)
    there = passes.timesteps.tolist()
    columns = [there.index(timestep) for timestep in sorted(timesteps)]
    given = passes.given.isel(timestep=columns) if "timestep" in passes.given.dims else passes.given
    noise = None if passes.noise is None else passes.noise[:, columns]
    chosen = passes.timesteps[columns]
    return replace(passes, timesteps=chosen, x_t=passes.x_t[:, columns], noise=noise, given=given)


def _first(passes: Latents, count: int) -> Latents:
    rows = slice(0, count)
    noise = None if passes.noise is None else passes.noise[rows]
    given = passes.given.isel(sample=rows)
    return replace(passes, samples=passes.samples[rows], x_t=passes.x_t[rows], noise=noise, given=given)


def _observe(
    denoiser: Denoiser, passes: Latents, model_json: Path | str, output: Path | str, runtime: RuntimeConfig
) -> None:
    attrs, axes = store_attrs("capture_told", passes, model_json), store_axes(passes)
    with building_store(output) as directory, archiving(directory) as store:
        if not len(passes.samples):
            create_attention_store(store, [], axes=axes, chunks=dict.fromkeys(axes, 1), attrs=attrs)
            return
        layouts = survey_sites(denoiser, passes)
        arrays = lay_out(store, layouts, axes, prompts=passes.prompts, attrs=attrs)
        store.append_small()
        observe_passes(denoiser, layouts, passes, arrays, {}, runtime)
