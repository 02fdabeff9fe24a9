"""Activation patching of a whole data set: every target, between each image's pass and its counterfactual.

Sources of the second pass: `sample` is another image of the same domain with its own noise and condition. The images
that are studied and those they are paired with are apart (the i-th with the (n + i)-th of 2 n), so that the effects of
two images share nothing and images stay the unit of resampling. `domain` and `attribute:<name>` are the same noised
image told something else, hence minimal pairs; they need a denoiser that is told it. The choice of sources is ours.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from diffmech.artifacts import provenance, write_store
from diffmech.attention.sites import AttentionSite, resolve_heads
from diffmech.batches import in_smaller_batches
from diffmech.config.analysis import RuntimeConfig
from diffmech.config.patching import PatchingConfig, attribute_of
from diffmech.errors import ConfigError
from diffmech.interventions.ablation import rows_at_once
from diffmech.interventions.counterfactuals import flipped_attribute, other_domain, other_sample
from diffmech.interventions.measures import FULL_DOSE
from diffmech.interventions.patching import MEASURES, patch_heads
from diffmech.interventions.patching_table import moved_share
from diffmech.interventions.reference import tapped_sites
from diffmech.interventions.replay import LatentFiles, Passes, open_latent_files
from diffmech.interventions.targets import Target, layers, single_heads
from diffmech.models.denoiser import Condition, Denoiser
from diffmech.models.load import load_denoiser
from diffmech.models.memory_format import channels_last

# More images per pass do not fit a CPU's caches: measured, 64 take a quarter more time each. Results are the same.
IMAGES_ON_CPU = 16


@in_smaller_batches
def patch_data_set(
    latents: Sequence[Path | str],
    model_json: Path | str,
    output: Path | str,
    *,
    source: str,
    contrast: str,
    patching: PatchingConfig,
    timesteps: Sequence[int],
    runtime: RuntimeConfig,
) -> None:
    """Patch every target on the first images of one data set and write the grid of effects as one store.

    `contrast` is the other domain of the study. The store has effect, off and
    shift (target, dose, direction, sample, timestep) and difference (sample, timestep), as `patch_heads` returns them,
    with NaN at doses that were not run, and group, kind and heads of each target. Raises ConfigError for a source that
    the denoiser cannot have, and StoreError or ModelError, as its parts do.
    """
    denoiser, files = load_denoiser(Path(model_json), device=runtime.device), open_latent_files(latents)
    sites = tapped_sites(denoiser, files)
    steps = sorted(files.nearest(timesteps))
    pairs = [pair(files, denoiser, step, patching.samples, source=source, contrast=contrast) for step in steps]
    targets = {group: patching_targets(group, sites, patching.heads) for group in patching.groups}
    grid = patch_pairs(denoiser, sites, pairs, [t for part in targets.values() for t in part], patching, runtime)
    named = {"group": [group for group, part in targets.items() for _ in part]}
    grid = grid.assign({name: ("target", np.array(v, dtype=np.dtypes.StringDType())) for name, v in named.items()})
    note = provenance(rule="patch_heads", source=source, patching=patching.canonical())
    write_store(output, grid.assign_attrs(source=source, schedule=denoiser.timesteps, provenance=note))


def pair(
    files: LatentFiles, denoiser: Denoiser, timestep: int, samples: int, *, source: str, contrast: str
) -> tuple[Passes, Passes]:
    """Return at most `samples` passes at `timestep` and their counterfactual ones, as the module says.

    Raises ConfigError for a source that the denoiser cannot have, and where `sample` finds fewer than two images.
    """
    known = files.samples
    if source == "sample":
        count = min(samples, len(known) // 2)
        if not count:
            raise ConfigError(f"patching.sources: sample needs at least 2 images, found {len(known)}; give more images")
        both = files.read(timestep, known[: 2 * count], denoiser.device)
        first = torch.arange(count, device=both.x_t.device)
        return both.rows(first), other_sample(both, by=count).rows(first)
    passes = files.read(timestep, known[:samples], denoiser.device)
    if not isinstance(passes.condition, Condition) or not denoiser.conditional:
        why = "is not conditioned" if isinstance(passes.condition, Condition) else "is conditioned on prompts"
        raise ConfigError(
            f"patching.sources: {source!r} needs a denoiser that is told it, but this one {why}; give sample"
        )
    attribute = attribute_of(source)
    if attribute is None:
        return passes, other_domain(passes, denoiser, contrast)
    return passes, flipped_attribute(passes, denoiser, attribute)


def patching_targets(group: str, sites: Sequence[AttentionSite], heads: Sequence[str]) -> list[Target]:
    """Return the targets of `group`; of the heads those that `heads` names. Raises ConfigError for unknown heads."""
    if group == "layers":
        return layers(sites)
    chosen = {str(head) for head in resolve_heads(heads, sites)}
    return [target for target in single_heads(sites) if target.name in chosen]


def patch_pairs(
    denoiser: Denoiser,
    sites: Sequence[AttentionSite],
    pairs: Sequence[tuple[Passes, Passes]],
    targets: Sequence[Target],
    patching: PatchingConfig,
    runtime: RuntimeConfig,
) -> xr.Dataset:
    """Return the grid of `patch_heads` for all doses, with kind and heads (number) of each target.

    The whole replacement is run for all targets, other doses for the `patching.dose_targets` with the largest mean
    effect in any direction, NaN for the rest.
    """

    def run(chosen: Sequence[Target], doses: Sequence[float]) -> xr.Dataset:
        return patch_heads(
            denoiser,
            sites,
            [clean for clean, _ in pairs],
            [other for _, other in pairs],
            targets=chosen,
            doses=doses,
            directions=patching.directions,
            batch_size=rows_at_once(denoiser, runtime, IMAGES_ON_CPU),
            show_progress=runtime.progress,
        )

    doses = sorted(patching.doses)
    partial = [dose for dose in doses if dose != FULL_DOSE]
    with channels_last(denoiser.module):
        grid = run(targets, [FULL_DOSE]).reindex(dose=doses)
        strongest = _strongest(grid, patching.dose_targets)
        found = run([targets[row] for row in strongest], partial) if partial else grid
    if partial:
        columns = [doses.index(dose) for dose in partial]
        for measure in MEASURES:
            grid[measure].values[np.ix_(strongest, columns)] = found[measure].values
    kinds = {site.name: site.kind for site in sites}
    found_kinds = [sorted({kinds[head.site] for head in target.heads()}) for target in targets]
    text = np.dtypes.StringDType()
    return grid.assign(
        kind=("target", np.array([k[0] if len(k) == 1 else "mixed" for k in found_kinds], dtype=text)),
        heads=("target", np.array([len(target.heads()) for target in targets], dtype=np.int64)),
    )


def _strongest(grid: xr.Dataset, count: int | None) -> list[int]:
    """Return the rows of the `count` targets with the largest mean share moved in any direction, ascending."""
    share = moved_share(grid["effect"].sel(dose=FULL_DOSE)).mean(("sample", "timestep"))
    size = np.nan_to_num(np.abs(share.values)).max(axis=1)
    return sorted(np.argsort(-size, kind="stable")[:count].tolist())
