"""What orders the heads before a circuit is sought: the change of the loss when each alone is ablated.

Exact effects come from the stores of ablated heads, estimates from attribution patching, both on the discovery half
alone: images that test a circuit must not have had a say in its choice. Ours.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmech.attention.sites import HeadId
from diffmech.circuits.kept import KeptHeads
from diffmech.config.circuit import CircuitConfig
from diffmech.errors import StoreError
from diffmech.interventions.agreement import changes_of_loss, estimate_effects
from diffmech.interventions.stores import open_ablation
from diffmech.statistics.units import over_units


def rank_heads(
    kept: KeptHeads, ablations: Sequence[Path | str], *, ranking: str, circuit: CircuitConfig, seed: int
) -> dict[HeadId, float]:
    """Return the mean change of the loss of every head of `kept`, the largest first, on its images and timesteps.

    `ranking` "exact" reads `ablations`, of the group heads, as far as they hold those images; "attribution" estimates.
    Raises StoreError where the stores hold none of the images or lack a head, ConfigError where they lack the method.
    """
    if ranking == "exact":
        found = changes_of_loss(open_ablation(ablations), kept.method)
        known = found.isel(
            sample=np.isin(found["sample"].values, kept.samples),
            timestep=np.isin(found["timestep"].values, kept.timesteps),
        )
        if not known.sizes["sample"] or not known.sizes["timestep"]:
            raise StoreError(
                f"{ablations[0]}: holds none of the images {kept.samples[0]} to {kept.samples[-1]} at timesteps "
                f"{kept.timesteps} on which a circuit is chosen; ablate heads there, or set discovery.ranking: "
                "attribution"
            )
    else:
        # At the clean outputs the output shift has no slope: a step away is the least that tells heads apart.
        steps = max(circuit.steps, 1) if kept.files.on_trajectory else circuit.steps
        known = estimate_effects(
            kept.denoiser,
            kept.sites,
            kept.files,
            kept.references,
            samples=kept.samples,
            timesteps=kept.timesteps,
            method=kept.method,
            steps=steps,
            path=circuit.path,
            seed=seed,
            runtime=kept.runtime,
        )
    each = known.mean("timestep").transpose("head", "sample")
    groups = None if kept.groups is None else kept.groups[np.searchsorted(kept.samples, each["sample"].values)]
    means = over_units(each.values, groups, axis=1).mean(axis=1)
    effects = dict(zip(map(str, each["head"].values), means.tolist(), strict=True))
    missing = [str(head) for head in kept.heads if not np.isfinite(effects.get(str(head), np.nan))]
    if missing:
        raise StoreError(
            f"the ablation of single heads has no effect of {missing[0]} at timesteps {kept.timesteps}; ablate all "
            "heads there, or set discovery.ranking: attribution"
        )
    return {head: effects[str(head)] for head in sorted(kept.heads, key=lambda head: -effects[str(head)])}
