"""The paths between the heads of a circuit: which head's output another one reads, and what reaches the output.

Every head of the circuit is a sender in turn and every later one a receiver. An edge is the effect of the path
sender -> receiver -> output, `direct` is the path sender -> output; both by path patching in the whole model, all other
heads at their clean outputs. Of each sender, total = direct + mediated + residual: `mediated` is the sum of its edges,
`residual` what remains, which are longer chains, heads outside the circuit, and what paths do only together.

Effects are the mean change of the loss in percent of the clean loss; positive: the path helps. Intervals are paired
bootstraps over images, p-values two-sided sign flips of the paired differences, corrected by Holm over all edges and
direct paths. The partition and its tests are ours; path patching: Wang et al. 2023.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffmech.artifacts import progress
from diffmech.attention.sites import HeadId
from diffmech.circuits.kept import KeptHeads
from diffmech.circuits.tables import EDGES
from diffmech.config.circuit import DiscoveryConfig
from diffmech.interventions.attribution import Loss
from diffmech.interventions.paths import PathEffects, paths_between
from diffmech.interventions.recording import mean_square
from diffmech.interventions.replay import Passes
from diffmech.statistics.bootstrap import bootstrap_statistic
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import permutation_p, sign_flip_permutation
from diffmech.statistics.units import over_units

OUTPUT = "output"
TESTED = ("edge", "direct")


def circuit_edges(kept: KeptHeads, heads: Sequence[HeadId], *, discovery: DiscoveryConfig, seed: int) -> pd.DataFrame:
    """Return one row per edge and direct path, and per sender its total, mediated and residual effect.

    `kept` holds the images and timesteps. `receiver` is a head, or "output"; `path` is edge, direct, total, mediated or
    residual, of which the last three are not tested. Rows are in the order of `heads`.
    """
    if not heads:
        return EDGES.frame()
    changes, clean = _changes(kept, heads)
    labels = list(changes)
    values = np.stack([changes[label] for label in labels], axis=1)
    interval = bootstrap_statistic(
        lambda change, base: 100 * change / base[:, None],
        values,
        clean,
        draws=discovery.draws,
        confidence=discovery.confidence,
        seed=seed,
    )
    observed, null = sign_flip_permutation(np.abs, values, permutations=discovery.permutations, seed=seed)
    tested = np.array([path in TESTED for _, _, path in labels])
    p = np.where(tested, permutation_p(observed, null), np.nan)
    table = pd.DataFrame(labels, columns=["sender", "receiver", "path"])
    corrected = holm(p)
    return table.assign(
        effect_percent=interval.estimate,
        low=interval.low,
        high=interval.high,
        p=p,
        p_holm=corrected,
        significant=corrected < discovery.alpha,
        n=len(clean),
    )


def _changes(kept: KeptHeads, heads: Sequence[HeadId]) -> tuple[dict[tuple[str, str, str], np.ndarray], np.ndarray]:
    """Return by (sender, receiver, path) the change of the loss (unit,), and the clean loss (unit,)."""
    size = kept.batch_size
    positions = list(range(len(kept.samples)))
    chunks = [positions[start : start + size] for start in positions[::size]]
    parts: list[list[dict[tuple[str, str, str], np.ndarray]]] = []
    bases: list[list[np.ndarray]] = []
    work = [(timestep, chunk) for chunk in chunks for timestep in kept.timesteps]
    for timestep, chunk in progress(work, "paths", show=kept.runtime.progress):
        rows = torch.tensor(chunk, device=kept.denoiser.device)
        passes, clean = kept.passes(timestep).rows(rows), kept.clean(timestep)[rows]
        loss = _loss(passes, clean)
        found = paths_between(
            kept.denoiser,
            kept.sites,
            passes,
            [[kept.replaced([head], sample)[0] for sample in chunk] for head in heads],
            loss=loss,
            receivers=heads,
            reference=kept.reference(timestep),
            batch_size=size,
        )
        if timestep == kept.timesteps[0]:
            parts.append([])
            bases.append([])
        parts[-1].append({label: values for effects in found for label, values in _labelled(effects).items()})
        bases[-1].append(loss(clean).double().cpu().numpy())
    means = [{label: np.mean([part[label] for part in some], axis=0) for label in some[0]} for some in parts]
    joined = {label: np.concatenate([part[label] for part in means]) for label in means[0]}
    units = {label: over_units(values, kept.groups) for label, values in joined.items()}
    return units, over_units(np.concatenate([np.mean(base, axis=0) for base in bases]), kept.groups)


def _labelled(effects: PathEffects) -> dict[tuple[str, str, str], np.ndarray]:
    sender = str(effects.sender)
    values = {(sender, str(head), "edge"): row for head, row in zip(effects.receivers, effects.mediated, strict=True)}
    values |= {
        (sender, OUTPUT, "direct"): effects.direct,
        (sender, OUTPUT, "total"): effects.total,
        (sender, OUTPUT, "mediated"): effects.mediated.sum(0),
        (sender, OUTPUT, "residual"): effects.residual,
    }
    return {label: tensor.double().cpu().numpy() for label, tensor in values.items()}


def _loss(passes: Passes, clean: Tensor) -> Loss:
    """Return the loss that `KeptHeads` has, as a function of the prediction."""
    if passes.noise is not None:
        noise = passes.noise
        return lambda predicted: mean_square(predicted - noise)
    return lambda predicted: mean_square(clean) + mean_square(predicted - clean)
