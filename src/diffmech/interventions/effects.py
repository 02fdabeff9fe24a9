"""How much each ablation hurts: per target, method, domain and timestep, with intervals, two nulls and corrections.

effect_percent = 100 (mean mse_ablated / mean mse_clean - 1): by how much the denoising loss rises. The means are over
samples, and over timesteps too in the rows "all": there a timestep counts as much as its share of the clean loss, which
is `weight` (percent) in its own row, so that low noise, where the loss is large, decides. Beside it effect_mean is the
mean over timesteps of their effects in percent, each counting alike; it is empty in the rows of single timesteps. A
method other than the first may have run on fewer images: each row has its own n, and takes its clean losses from the
same images. Intervals are studentised bootstraps over samples, ablated and clean
in step. Two questions are asked of every effect, and they differ:

- is there any? p_zero: two-sided sign-flip permutation test of the mean paired difference mse_ablated - mse_clean
  (Fisher's randomisation test: under the null the differences are symmetric about 0);
- is it more than that of other heads? p_control = (1 + controls with an effect at least as large) / (1 + controls), on
  the samples on which the controls ran. The controls of a mechanism are its matched random sets, run with the first
  method only; those of a head or a layer are all the others of its kind of attention. It cannot fall below
  1 / (1 + controls): 20 controls cannot survive a correction for more than one target at 5 %.

Holm's correction is over the targets of one (domain, group, method) in the rows "all", and over targets x timesteps in
the other rows. The definitions are ours (A8).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from diffmech.artifacts import write_csv
from diffmech.config.analysis import AblationConfig
from diffmech.interventions.measures import DENOISING_LOSS
from diffmech.interventions.stores import open_ablation, ran_on, texts
from diffmech.statistics.bootstrap import bootstrap_mean, bootstrap_statistic
from diffmech.statistics.multiplicity import holm
from diffmech.statistics.permutation import max_statistic_p, permutation_p, sign_flip_permutation

OVER_TIMESTEPS = ["effect_mean", "effect_mean_low", "effect_mean_high", "weight"]
COLUMNS = [
    "domain",
    "group",
    "target",
    "method",
    "timestep",
    "effect_percent",
    "low",
    "high",
    "p_zero",
    "p_zero_holm",
    "shift",
    "shift_low",
    "shift_high",
    "control_mean",
    "control_low",
    "control_high",
    "control_percentile",
    "p_control",
    "p_control_adjusted",
    "off_distribution",
    "heads",
    "n",
    "measure",
    *OVER_TIMESTEPS,
]


def ablation_effects(
    stores: Mapping[str, Mapping[str, Sequence[Path | str]]],
    output_csv: Path | str,
    *,
    ablation: AblationConfig,
    seed: int,
) -> None:
    """Write the table of effects from the ablation stores of each domain and group (all shards and blocks).

    An effect is the change of the denoising loss, or, on a sampling trajectory, the output shift: `measure` says which.

    Rows are sorted by domain, group, target, method and timestep, "all" first. Raises StoreError where a store is
    missing or where they do not belong together.
    """
    tables = [
        effects_of_group(open_ablation(paths), domain, group, ablation=ablation, seed=seed)
        for domain, groups in sorted(stores.items())
        for group, paths in sorted(groups.items())
    ]
    write_csv(output_csv, pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS))


def effects_of_group(data: xr.Dataset, domain: str, group: str, *, ablation: AblationConfig, seed: int) -> pd.DataFrame:
    """Return the rows of one domain and group. `data` is what `open_ablation` returns."""
    tables = [
        _effects_of_method(data.isel(method=[m], sample=ran_on(data, m)), domain, group, ablation=ablation, seed=seed)
        for m in range(data.sizes["method"])
    ]
    return pd.concat(tables).sort_values(["target", "method"], kind="stable", ignore_index=True)


def _effects_of_method(
    data: xr.Dataset, domain: str, group: str, *, ablation: AblationConfig, seed: int
) -> pd.DataFrame:
    """Return the rows of the one method of `data`, which ran on all of its samples."""
    is_target = texts(data["control_of"]) == ""
    own, controls = data.isel(target=is_target), data.isel(target=~is_target)
    clean = _with_all(data["mse_clean"].values)  # (sample, column)
    ablated = _samples_first(own["mse_ablated"])  # (sample, target, method, column)
    draws, confidence = ablation.draws, ablation.confidence
    effect = bootstrap_statistic(
        _percent, ablated, clean[:, None, None, :], draws=draws, confidence=confidence, seed=seed
    )
    relative = bootstrap_statistic(
        lambda own, base: _percent(own, base).mean(axis=-1),
        ablated[..., 1:],
        clean[:, None, None, 1:],
        draws=draws,
        confidence=confidence,
        seed=seed,
    )
    shift = bootstrap_mean(_samples_first(own["shift"]), draws=draws, confidence=confidence, seed=seed)
    observed, null = sign_flip_permutation(
        np.abs, ablated - clean[:, None, None, :], permutations=ablation.permutations, seed=seed
    )
    p_zero = np.asarray(permutation_p(observed, null))
    compared = _against_sets(own, controls, clean) if group == "mechanisms" else against_others(data, effect.estimate)
    spread = control_summary(*compared, confidence=confidence)
    arrays = {
        "effect_percent": effect.estimate,
        "low": effect.low,
        "high": effect.high,
        "p_zero": p_zero,
        "p_zero_holm": corrected(p_zero),
        "shift": shift.estimate,
        "shift_low": shift.low,
        "shift_high": shift.high,
        **spread,
        "p_control_adjusted": (
            jointly_corrected(*compared, spread["p_control"])
            if group == "mechanisms"
            else corrected(spread["p_control"])
        ),
        "off_distribution": _off_distribution(own),
        "effect_mean": _only_all(relative.estimate, effect.estimate),
        "effect_mean_low": _only_all(relative.low, effect.estimate),
        "effect_mean_high": _only_all(relative.high, effect.estimate),
        "weight": _weights(clean, effect.estimate),
    }
    labels = pd.MultiIndex.from_product(
        [texts(own["target"]), texts(own["method"]), [-1, *own["timestep"].values]],
        names=["target", "method", "timestep"],
    )
    table = pd.DataFrame({name: np.asarray(array).reshape(-1) for name, array in arrays.items()}, index=labels)
    table = table.reset_index().assign(domain=domain, group=group, n=len(clean))
    table["measure"] = data.attrs.get("measure", DENOISING_LOSS)
    table["heads"] = np.repeat(own["heads"].values, len(table) // len(own["heads"]))
    table = table.sort_values(["target", "method", "timestep"], kind="stable", ignore_index=True)
    table["timestep"] = table["timestep"].map(lambda timestep: "all" if timestep < 0 else str(timestep))
    return table[COLUMNS]


def _with_all(values: np.ndarray) -> np.ndarray:
    """Return `values` (..., timestep) with their mean over timesteps put before them, (..., 1 + timestep)."""
    return np.concatenate([values.mean(axis=-1, keepdims=True), values], axis=-1)


def _samples_first(array: xr.DataArray) -> np.ndarray:
    """Return (sample, target, method, 1 + timestep)."""
    return _with_all(array.transpose("sample", "target", "method", "timestep").values.astype(np.float64))


def _only_all(values: np.ndarray | float, like: np.ndarray | float) -> np.ndarray:
    """Return `values` (target, method) in the column "all" of an array like `like`, NaN in the others."""
    return np.concatenate([np.asarray(values)[..., None], np.full_like(np.asarray(like)[..., 1:], np.nan)], axis=-1)


def _weights(clean: np.ndarray, like: np.ndarray | float) -> np.ndarray:
    """Return what share of the clean loss (sample, 1 + timestep) falls on each timestep, in percent; 100 for "all"."""
    losses = clean[:, 1:].mean(axis=0)
    return np.broadcast_to(100 * np.concatenate([[1.0], losses / losses.sum()]), np.shape(like))


def _percent(ablated: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return 100 * (ablated / clean - 1)


def against_others(data: xr.Dataset, effect: np.ndarray | float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the effects (target, method, column) and for each target those of the others of its kind."""
    effects, kinds = np.asarray(effect), texts(data["kind"])
    others = [(kinds == kind) & (np.arange(len(kinds)) != row) for row, kind in enumerate(kinds)]
    return effects, [effects[chosen] for chosen in others]


def _against_sets(own: xr.Dataset, controls: xr.Dataset, clean: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the effects (target, method, column) on the controls' samples, and for each target its controls' effects.

    Methods for which no control was run have NaN.
    """
    control = _samples_first(controls["mse_ablated"])
    # All of them: a control without heads at a timestep has the clean loss there, on samples where no control ran.
    ran = np.isfinite(control[:, :, :1]).all(axis=(1, 2, 3))
    if not ran.any():
        nothing = np.full((own.sizes["target"], own.sizes["method"], clean.shape[1]), np.nan)
        return nothing, [nothing[:0] for _ in nothing]
    base = clean[ran].mean(axis=0)
    effects = _percent(_samples_first(own["mse_ablated"])[ran].mean(axis=0), base)
    of_controls = _percent(control[ran].mean(axis=0), base)
    names = texts(controls["control_of"])
    return effects, [of_controls[names == name] for name in texts(own["target"])]


def control_summary(effects: np.ndarray, controls: list[np.ndarray], *, confidence: float) -> dict[str, np.ndarray]:
    """Return mean, central range, percentile and p of each target among its controls, each (target, method, column).

    The range holds `confidence` of the controls. Ties count half in the percentile, and fully in p.
    """
    names = ("control_mean", "control_low", "control_high", "control_percentile", "p_control")
    result = {name: np.full(effects.shape, np.nan) for name in names}
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    for row, null in enumerate(controls):
        for method in range(effects.shape[1]):
            draws, value = null[:, method], effects[row, method]
            if not len(draws) or not np.isfinite(draws).all():
                continue
            result["control_mean"][row, method] = draws.mean(axis=0)
            result["control_low"][row, method], result["control_high"][row, method] = np.quantile(draws, tails, axis=0)
            below = (draws < value).mean(axis=0) + 0.5 * (draws == value).mean(axis=0)
            result["control_percentile"][row, method] = 100 * below
            result["p_control"][row, method] = permutation_p(value, draws)
    return result


def corrected(p: np.ndarray) -> np.ndarray:
    """Return Holm's p-values of p (target, method, column): over targets in column 0, over all the rest together."""
    adjusted = np.empty_like(p)
    for method in range(p.shape[1]):
        adjusted[:, method, 0] = holm(p[:, method, 0])
        adjusted[:, method, 1:] = holm(p[:, method, 1:])
    return adjusted


def jointly_corrected(
    effects: np.ndarray,
    controls: list[np.ndarray],
    p: np.ndarray,
    families: Sequence[slice] = (slice(0, 1), slice(1, None)),
) -> np.ndarray:
    """Return max-T p-values of p (target, method, column) over targets, each of `families` of columns by itself.

    A target and its controls are put on one scale by the mean and spread of all of them together, in which they are
    exchangeable under the null. The k-th draw of the null is the k-th control of every target.
    """
    adjusted = np.full_like(p, np.nan)
    compared = [row for row in range(len(p)) if np.isfinite(p[row]).any()]
    if not compared:
        return adjusted
    draws = max(len(controls[row]) for row in compared)
    for method in range(p.shape[1]):
        # A target with fewer distinct controls repeats them; its own rank below still counts each once.
        pools = np.stack(
            [
                np.concatenate([effects[row, None, method], np.resize(controls[row][:, method], (draws, p.shape[2]))])
                for row in compared
            ],
            axis=1,
        )  # (1 + draw, target, column)
        spread = pools.std(axis=0)
        scaled = (pools - pools.mean(axis=0)) / np.where(spread > 0, spread, 1)
        for columns in families:
            joint = np.asarray(max_statistic_p(scaled[0][:, columns], scaled[1:][:, :, columns]))
            adjusted[compared, method, columns] = np.maximum(joint, p[compared, method, columns])
    return adjusted


def _off_distribution(own: xr.Dataset) -> np.ndarray:
    """Return the mean distance off (target, method, 1 + timestep); "all" is over the timesteps with a head replaced."""
    distance = own["distance_off"].mean("sample").transpose("target", "method", "timestep").values
    replaced = texts(own["members"].transpose("target", "timestep")) != ""
    total = (distance * replaced[:, None]).sum(axis=-1, keepdims=True)
    average = total / np.maximum(replaced.sum(axis=-1), 1)[:, None, None]
    return np.concatenate([average, distance], axis=-1)
