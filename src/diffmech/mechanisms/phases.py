"""Phases: contiguous stretches of timesteps within which the heads behave alike.

The vector of all features of all heads, each standardised over timesteps, is cut by exact dynamic programming on the
squared error (ruptures: Truong, Oudre & Vayatis 2020). The number of phases minimises cost + penalty x features x
ln(timesteps) x (phases - 1), as the Bayesian information criterion does. That features are standardised and that a
boundary's stability is the share of resampled sets of images that put one within one step of it is ours.
"""

from pathlib import Path

import numpy as np
import ruptures
from jaxtyping import Float

from diffmech.artifacts import open_store
from diffmech.config.analysis import MechanismsConfig, PhasesConfig
from diffmech.mechanisms.tables import PHASES

# Three points always look like two phases: standardised, any of them is far from the other two.
FEWEST_TIMESTEPS = 4


def find_phases(features: Path, output: Path, *, mechanisms: MechanismsConfig) -> None:
    """Write the phase of each timestep, with the stability of the boundary that opens the phase.

    The first phase has no opening boundary and so no stability. Fewer than 4 timesteps are one phase.
    """
    store = open_store(features).to_dataset().transpose(..., "timestep")
    timesteps = store["timestep"].values
    boundaries = segment(_columns(store["features"].values), mechanisms.phases)
    draws = store["features_bootstrap"].values
    resampled = [segment(_columns(draw), mechanisms.phases) for draw in draws] if boundaries else []
    starts = [0, *boundaries]
    rows = []
    for phase, (start, stop) in enumerate(zip(starts, [*boundaries, len(timesteps)], strict=True), start=1):
        found = [any(abs(start - other) <= 1 for other in boundary) for boundary in resampled]
        stability = np.mean(found) if start and found else np.nan
        rows += [
            (timestep, phase, timesteps[start], timesteps[stop - 1], stability) for timestep in timesteps[start:stop]
        ]
    PHASES.write(output, PHASES.frame(rows))


def segment(values: Float[np.ndarray, "timestep ..."], phases: PhasesConfig) -> list[int]:
    """Return where phases after the first begin, as positions in `values` (timestep, feature)."""
    count = len(values)
    spread = values.std(axis=0)
    moving = values[:, spread > 1e-9 * np.maximum(1, np.abs(values).max(axis=0))]
    if count < FEWEST_TIMESTEPS or not moving.shape[1]:
        return []
    standardised = (moving - moving.mean(axis=0)) / moving.std(axis=0)
    search = ruptures.Dynp(model="l2", min_size=1, jump=1).fit(standardised)
    price = phases.penalty * standardised.shape[1] * np.log(count)
    best: list[int] = []
    lowest = search.cost.sum_of_costs([count])
    for extra in range(1, min(phases.maximum, count)):
        ends = search.predict(n_bkps=extra)
        cost = search.cost.sum_of_costs(ends) + extra * price
        if cost < lowest:
            best, lowest = [int(end) for end in ends[:-1]], cost
    return best


def _columns(values: Float[np.ndarray, "... timestep"]) -> Float[np.ndarray, "timestep column"]:
    """Return (timestep, feature x head), without features that a head lacks."""
    flat = values.reshape(-1, values.shape[-1]).T.astype(np.float64)
    return flat[:, np.isfinite(flat).all(axis=0)]
