"""What an effect is held against in a table: matched controls and how well they match, or the others of its kind. Ours.

These describe; what may be claimed is for `decisions`.
"""

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped

from diffmech.interventions.stores import texts
from diffmech.interventions.targets import EACH, ON_AVERAGE
from diffmech.statistics.permutation import permutation_p

BALANCE = ["control_overlap", "control_ratio", "control_ratio_low", "control_ratio_high", "controls"]


def balance(own: xr.Dataset, name: str, otherwise: object) -> Shaped[np.ndarray, "target"]:
    """Return a column of the balance of the controls of each target, `otherwise` where no controls were sought."""
    if name not in own:
        return np.full(own.sizes["target"], otherwise)
    return texts(own[name]) if isinstance(otherwise, str) else own[name].values


def matched_within(
    data: xr.Dataset, controls: Shaped[np.ndarray, "control"], row: int, spans: Sequence[Bool[np.ndarray, "timestep"]]
) -> list[bool]:
    """Return whether the controls of target `row` match it in one domain within each of `spans`, masks over timesteps.

    By how far the ablation moves their heads there, as `targets.matched_controls` asks over all timesteps, for which
    they were sought.
    """
    squares = np.square(data["size"].transpose("target", "timestep").values)
    alike = []
    for span in spans:
        own, others = squares[row, span].sum(), squares[controls][:, span].sum(axis=1)
        if span.all() or not own or not len(others):
            alike.append(True)
            continue
        logs = np.log(np.maximum(others, 1e-30) / own) / 2
        alike.append(bool(np.abs(logs).max() <= math.log(EACH) and abs(logs.mean()) <= math.log(ON_AVERAGE)))
    return alike


def against_others(
    data: xr.Dataset, effect: Float[np.ndarray, "target *span"] | float
) -> tuple[Float[np.ndarray, "target *span"], list[Float[np.ndarray, "_other *span"]]]:
    """Return the effects and for each target those of the others of its kind."""
    effects, kinds = np.asarray(effect), texts(data["kind"])
    others = [(kinds == kind) & (np.arange(len(kinds)) != row) for row, kind in enumerate(kinds)]
    return effects, [effects[chosen] for chosen in others]


def control_summary(
    effects: Float[np.ndarray, "target *span"], controls: list[Float[np.ndarray, "_draw *span"]], *, confidence: float
) -> dict[str, Float[np.ndarray, "target *span"]]:
    """Return mean, central range, standard deviation, percentile and p of `effects` among the controls.

    The range holds `confidence` of them. Ties count half in the percentile, and fully in p.
    """
    names = ("control_mean", "control_low", "control_high", "control_sd", "control_percentile", "p_control")
    result = {name: np.full(effects.shape, np.nan) for name in names}
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    for row, draws in enumerate(controls):
        if not len(draws):
            continue
        value, there = effects[row], np.isfinite(draws).all(axis=0)
        below = (draws < value).mean(axis=0) + 0.5 * (draws == value).mean(axis=0)
        low, high = np.quantile(draws, tails, axis=0)
        spread = draws.std(axis=0, ddof=1) if len(draws) > 1 else np.full(value.shape, np.nan)
        of_row = (draws.mean(axis=0), low, high, spread, 100 * below, permutation_p(value, draws))
        for name, values in zip(names, of_row, strict=True):
            result[name][row] = np.where(there, values, np.nan)
    return result
