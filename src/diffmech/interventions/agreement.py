"""Attribution patching beside exact ablation: estimates of all heads, and how well they agree with the truth on some.

Estimates and exact effects are changes of the denoising loss, per image, timestep and head. They are correlated over
heads and timesteps after averaging over the images for which both are known, which is how heads are ranked, and over
single passes too, which is harder. Reporting both coefficients beside every estimate is ours.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import rankdata

from diffmech.artifacts import progress
from diffmech.attention.sites import AttentionSite, HeadId, head_ids, resolve_heads
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import AblationConfig, RuntimeConfig
from diffmech.errors import ConfigError
from diffmech.interventions.ablation import ablate_targets, rows_at_once
from diffmech.interventions.attribution import Along, attribute_heads
from diffmech.interventions.reference import ReferenceStore
from diffmech.interventions.replay import LatentFiles
from diffmech.interventions.targets import single_heads
from diffmech.models.denoiser import Denoiser
from diffmech.models.memory_format import channels_last
from diffmech.randomness import generator

DIMS = ("sample", "timestep", "head")
COEFFICIENTS = {
    "pearson": "Pearson correlation of mean estimated and exact effects over heads and timesteps",
    "spearman": "Spearman correlation of mean estimated and exact effects over heads and timesteps",
    "pearson_per_pass": "Pearson correlation of estimated and exact effects over images, heads and timesteps",
    "spearman_per_pass": "Spearman correlation of estimated and exact effects over images, heads and timesteps",
}


@in_smaller_batches
def attribution_patching(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    files: LatentFiles,
    references: ReferenceStore,
    *,
    samples: Sequence[int],
    timesteps: Sequence[int],
    method: str,
    steps: int = 0,
    path: Along = "site",
    probes: int = 0,
    exact: xr.DataArray | None = None,
    exact_heads: int = 8,
    seed: int,
    runtime: RuntimeConfig,
) -> xr.Dataset:
    """Return the estimated change of the loss (sample, timestep, head) of ablating each head, and some exact ones.

    `exact` has the dims of the estimate, by name and label, NaN or absent where it is not known; without it,
    `exact_heads` heads drawn by `seed` are ablated here. The coefficients of `agreement` stand beside them. Raises
    ConfigError for methods and steps that cannot be and StoreError where latents or references lack what is asked.
    """
    estimate = estimate_effects(
        denoiser,
        sites,
        files,
        references,
        samples=samples,
        timesteps=timesteps,
        method=method,
        steps=steps,
        path=path,
        probes=probes,
        seed=seed,
        runtime=runtime,
    )
    if exact is None:
        heads = drawn_heads(sites, exact_heads, seed)
        exact = exact_effects(
            denoiser, sites, files, references, heads, samples, timesteps, method=method, seed=seed, runtime=runtime
        )
    known = exact.reindex(sample=estimate["sample"], timestep=estimate["timestep"], head=estimate["head"])
    known = known.transpose(*DIMS).assign_attrs(units="1", long_name="change of the loss when the head is ablated")
    found = agreement(estimate.values, known.values)
    result = xr.Dataset({"estimate": estimate, "exact": known})
    for name, what in COEFFICIENTS.items():
        result[name] = ((), found[name], {"units": "1", "long_name": what})
    return result.assign_attrs(method=method, steps=steps, path=path if steps else "", probes=probes)


def estimate_effects(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    files: LatentFiles,
    references: ReferenceStore,
    *,
    samples: Sequence[int],
    timesteps: Sequence[int],
    method: str,
    steps: int = 0,
    path: Along = "site",
    probes: int = 0,
    seed: int,
    runtime: RuntimeConfig,
) -> xr.DataArray:
    """Return the estimates (sample, timestep, head) alone, for those who correlate them themselves."""
    names = [name for site in sites for name in head_ids(site)]
    values = np.full((len(samples), len(timesteps), len(names)), np.nan)
    references.check_apart(samples)
    sources = [
        references.resample_source(files.domain, sample, seed) if method == "resample" else 0 for sample in samples
    ]
    size = rows_at_once(denoiser, runtime)
    chunks = [slice(i, i + size) for i in range(0, len(samples), size)]

    def run() -> Iterator[None]:
        for column, timestep in enumerate(timesteps):
            outputs = references.at(timestep, sites, files.domain, denoiser.device)
            for chunk in chunks:
                passes = files.read(timestep, samples[chunk], denoiser.device)
                found = attribute_heads(
                    denoiser,
                    sites,
                    passes,
                    method=method,
                    reference=outputs,
                    sources=sources[chunk],
                    steps=steps,
                    path=path,
                    probes=probes,
                    seed=seed,
                )
                joined = torch.cat([found[site.name] for site in sites], dim=1)
                values[chunk, column] = joined.double().cpu().numpy()
                yield

    total = len(timesteps) * len(chunks)
    with channels_last(denoiser.module):
        for _ in progress(run(), "attribution patching", total=total, show=runtime.progress):
            pass
    return xr.DataArray(
        values,
        dims=DIMS,
        coords={
            "sample": np.array(samples, dtype=np.int64),
            "timestep": np.array(timesteps, dtype=np.int64),
            "head": np.array(names, dtype=np.dtypes.StringDType()),
        },
        attrs={"units": "1", "long_name": "estimated change of the loss when the head is ablated"},
    )


def exact_effects(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    files: LatentFiles,
    references: ReferenceStore,
    heads: Sequence[HeadId],
    samples: Sequence[int],
    timesteps: Sequence[int],
    *,
    method: str,
    seed: int,
    runtime: RuntimeConfig,
) -> xr.DataArray:
    """Return the change of the loss (head, sample, timestep) when each of `heads` is ablated."""
    chosen = {str(head) for head in resolve_heads(map(str, heads), sites)} if heads else set()
    targets = [target for target in single_heads(sites) if target.name in chosen]
    ablation = AblationConfig(methods=[method])
    store = ablate_targets(
        denoiser,
        sites,
        files,
        references,
        targets,
        samples=samples,
        timesteps=timesteps,
        ablation=ablation,
        seed=seed,
        runtime=runtime,
    )
    return changes_of_loss(store, method)


def changes_of_loss(ablation: xr.Dataset, method: str) -> xr.DataArray:
    """Return the change of the loss (head, sample, timestep) in a store of ablated heads, NaN where none was replaced.

    Raises ConfigError where the store lacks the method.
    """
    methods = [str(name) for name in ablation["method"].values]
    if method not in methods:
        raise ConfigError(f"heads were ablated by {', '.join(methods)}, not by {method}; add it to ablation.methods")
    change = ablation["mse_ablated"].isel(method=methods.index(method), drop=True) - ablation["mse_clean"]
    replaced = xr.DataArray(ablation["members"].values != "", dims=ablation["members"].dims)
    return change.where(replaced).rename(target="head").transpose("head", "sample", "timestep")


def drawn_heads(sites: Sequence[AttentionSite], count: int, seed: int) -> list[HeadId]:
    """Return `count` heads at random, all where there are no more, in the order of the sites."""
    heads = [HeadId(site.name, head) for site in sites for head in range(site.heads)]
    order = generator(seed, "attribution", "exact heads").permutation(len(heads))
    return [heads[index] for index in sorted(order[:count].tolist())]


def agreement(
    estimate: Float[np.ndarray, "sample timestep head"], exact: Float[np.ndarray, "sample timestep head"]
) -> dict[str, float]:
    """Return the correlations between two arrays where both are finite, by COEFFICIENTS.

    `cells` counts the pairs of head and timestep, `passes` those of single passes. NaN where fewer than 3 pairs, or
    only equal ones, are known.
    """
    known = np.isfinite(estimate) & np.isfinite(exact)
    count = known.sum(axis=0)
    cells = count > 0
    means = [np.where(known, values, 0).sum(axis=0)[cells] / count[cells] for values in (estimate, exact)]
    single = [values[known] for values in (estimate, exact)]
    return {
        "pearson": _correlation(*means),
        "spearman": _correlation(*map(rankdata, means)),
        "pearson_per_pass": _correlation(*single),
        "spearman_per_pass": _correlation(*map(rankdata, single)),
        "cells": int(cells.sum()),
        "passes": int(known.sum()),
    }


def _correlation(a: Float[np.ndarray, "pair"], b: Float[np.ndarray, "pair"]) -> float:
    if len(a) < 3 or a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
