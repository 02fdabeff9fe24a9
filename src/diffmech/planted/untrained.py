"""What single heads of random weights do to the loss: the effects that those of a planted head have to exceed. Ours.

With random weights nothing is a circuit, yet replacing a head changes a useless prediction, and its loss, a little;
with enough images any such change is significant. So effects are ranked with those of the same architecture drawn anew
several times, on the same images and by the same method.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffmech.artifacts import progress
from diffmech.attention.sites import find_sites
from diffmech.config.analysis import AblationConfig, RuntimeConfig
from diffmech.config.study import UntrainedConfig
from diffmech.interventions.ablation import ablate_targets
from diffmech.interventions.reference import collect_reference, store_of
from diffmech.interventions.replay import LatentFiles, open_latent_files
from diffmech.interventions.targets import single_heads
from diffmech.models.denoiser import Denoiser
from diffmech.models.load import load_denoiser


def largest_untrained_effects(
    model_json: Path | str,
    latents: Mapping[str, Sequence[Path | str]],
    *,
    reference_ids: Sequence[int],
    ablation: AblationConfig,
    untrained: UntrainedConfig,
    seed: int,
    runtime: RuntimeConfig,
) -> np.ndarray:
    """Return the largest effect of any head in any domain, in percent of the loss, of each of `untrained.seeds` twins.

    They see the first `untrained.samples` images of `latents` (stores by domain); what replaces their heads' outputs
    comes from `reference_ids`, the study's reference images. The rank of an effect among these (Westfall & Young 1993)
    has a chance of at most alpha to be as small as alpha for any head of an untrained study:
    that is exchangeable with its twins, and on more images, with less noise, its own largest effect is smaller.
    """
    files = {domain: open_latent_files(paths) for domain, paths in latents.items()}
    largest = []
    for twin in progress(range(untrained.seeds), "untrained twins", total=untrained.seeds, show=runtime.progress):
        denoiser = load_denoiser(Path(model_json), device=runtime.device, untrained_seed=twin)
        largest.append(_effects(denoiser, files, reference_ids, ablation, untrained.samples, seed, runtime).max())
    return np.array(largest)


def _effects(
    denoiser: Denoiser,
    files: Mapping[str, LatentFiles],
    reference_ids: Sequence[int],
    ablation: AblationConfig,
    samples: int,
    seed: int,
    runtime: RuntimeConfig,
) -> np.ndarray:
    """Return the percentage by which replacing a head alone raises the mean loss of the first `samples` images.

    All domains and heads, in one row.
    """
    few = ablation.model_copy(update={"methods": ablation.methods[:1]})
    quiet = runtime.model_copy(update={"progress": False})
    references = store_of(collect_reference(files, denoiser, reference_ids=reference_ids, runtime=quiet))
    sites = find_sites(denoiser.module)
    found = []
    for source in files.values():
        result = ablate_targets(
            denoiser,
            sites,
            source,
            references,
            single_heads(sites),
            samples=source.samples[:samples],
            timesteps=sorted(source.nearest(ablation.timesteps or source.timesteps)),
            ablation=few,
            seed=seed,
            runtime=quiet,
        )
        ablated = result["mse_ablated"].isel(method=0).mean(["sample", "timestep"])
        found.append(100 * (ablated.values / float(result["mse_clean"].mean()) - 1))
    return np.concatenate(found)
